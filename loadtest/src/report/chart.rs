//! Line charts as inline SVG. Colours and fonts are the page's, by class; what is pointed at tells its figures.

use std::fmt::{self, Write};

use super::html::Escaped;
use super::latency::nines;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;

/// More places to point at than this are too narrow to be hit.
const MAX_COLUMNS: usize = 400;

/// Steps of a time axis, in seconds.
const TIME_STEPS: [f64; 18] =
    [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0];

/// What the horizontal axis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Across {
    /// Seconds since the begin of the load.
    Seconds,
    /// Percentiles, on a logarithmic axis of what remains: each nine is as wide as the one before.
    Nines,
}

/// What the vertical axis is, and how its values are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Up {
    /// From nought, in steps of 1, 2 and 5.
    Linear,
    /// From nought, in whole steps.
    Whole,
    /// From nought, in powers of two.
    Bytes,
    /// In decades.
    Decades,
}

/// A line. Where there is no value, it is broken.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    /// A class of the page's, which gives it its colour.
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A chart of lines that share both axes.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) across: Across,
    pub(super) up: Up,
    /// What the vertical axis counts, in a word or two.
    pub(super) unit: &'static str,
    pub(super) show: fn(f64) -> String,
    pub(super) series: Vec<Series>,
}

/// Where values lie in the picture.
struct Frame {
    right: f64,
    bottom: f64,
    top: f64,
    up: Up,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * value / self.right
    }

    fn y(&self, value: f64) -> f64 {
        let height = HEIGHT - TOP - BOTTOM;
        let share = match self.up {
            Up::Decades => (value.log10() - self.bottom.log10()) / (self.top.log10() - self.bottom.log10()),
            Up::Linear | Up::Whole | Up::Bytes => (value - self.bottom) / (self.top - self.bottom),
        };
        HEIGHT - BOTTOM - height * share.clamp(0.0, 1.0)
    }
}

impl Chart {
    /// Whether there is anything to draw.
    pub(super) fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    fn values(&self) -> impl Iterator<Item = (f64, f64)> {
        self.series.iter().flat_map(|series| series.points.iter().filter_map(|(x, y)| Some((*x, (*y)?))))
    }

    /// Writes it as a figure with its title and legend.
    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        let highest = self.values().map(|(_, y)| y).fold(0.0, f64::max);
        let lowest = self.values().map(|(_, y)| y).fold(f64::INFINITY, f64::min);
        let ticks = ticks(self.up, lowest, highest);
        let (bottom, top) = (ticks.first().copied().unwrap_or(0.0), ticks.last().copied().unwrap_or(1.0));
        let furthest = self.series.iter().flat_map(|series| &series.points).map(|(x, _)| *x).fold(0.0, f64::max);
        let right = match self.across {
            Across::Seconds => furthest.max(0.05),
            Across::Nines => furthest.ceil().max(1.0),
        };
        let frame = Frame { right, bottom, top, up: self.up };

        write!(out, "<figure><figcaption><h3>{}</h3>", Escaped(self.title))?;
        if self.series.len() > 1 {
            write!(out, "<ul class=\"legend\">")?;
            for series in &self.series {
                write!(out, "<li class=\"{}\">{}</li>", series.class, Escaped(series.name))?;
            }
            write!(out, "</ul>")?;
        }
        write!(
            out,
            "</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{}</title>",
            Escaped(self.title)
        )?;
        self.write_axes(out, &frame, &ticks)?;
        for series in &self.series {
            self.write_line(out, &frame, series)?;
        }
        self.write_columns(out, &frame)?;
        writeln!(out, "</svg></figure>")
    }

    fn write_axes(&self, out: &mut String, frame: &Frame, ticks: &[f64]) -> fmt::Result {
        let (end, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in ticks {
            let y = frame.y(*tick);
            write!(out, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{end}\"/>")?;
            let label = short(&(self.show)(*tick));
            write!(
                out,
                "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                Escaped(&label)
            )?;
        }
        for (at, label) in self.across.ticks(frame.right) {
            let x = frame.x(at);
            write!(out, "<path class=\"axis\" d=\"M{x:.1} {floor}v4\"/>")?;
            write!(
                out,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                HEIGHT - 26.0
            )?;
        }
        write!(
            out,
            "<text class=\"tick\" x=\"{end}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            HEIGHT - 6.0,
            self.across.title()
        )?;
        write!(out, "<text class=\"tick\" x=\"{LEFT}\" y=\"12\">{}</text>", Escaped(self.unit))?;
        write!(out, "<path class=\"axis\" d=\"M{LEFT} {floor}H{end}\"/>")
    }

    /// The line, and below a line that is alone, what it stands on.
    fn write_line(&self, out: &mut String, frame: &Frame, series: &Series) -> fmt::Result {
        let alone = self.series.len() == 1 && self.up != Up::Decades;
        let floor = HEIGHT - BOTTOM;
        for part in series.points.split(|(_, y)| y.is_none()) {
            let places: Vec<_> = part.iter().filter_map(|(x, y)| Some((frame.x(*x), frame.y((*y)?)))).collect();
            let (Some(first), Some(last)) = (places.first(), places.last()) else { continue };
            if places.len() == 1 {
                write!(
                    out,
                    "<circle class=\"dot {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                    series.class, first.0, first.1
                )?;
                continue;
            }
            let mut path = String::new();
            for (at, (x, y)) in places.iter().enumerate() {
                write!(path, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' })?;
            }
            if alone {
                let (from, to) = (first.0, last.0);
                write!(out, "<path class=\"area {}\" d=\"{path}L{to:.1} {floor}L{from:.1} {floor}Z\"/>", series.class)?;
            }
            write!(out, "<path class=\"line {}\" d=\"{path}\"/>", series.class)?;
        }
        Ok(())
    }

    /// A column over each place, which tells the figures there when it is pointed at.
    fn write_columns(&self, out: &mut String, frame: &Frame) -> fmt::Result {
        let mut places: Vec<f64> = self.values().map(|(x, _)| x).collect();
        places.sort_unstable_by(f64::total_cmp);
        places.dedup();
        let every = places.len().div_ceil(MAX_COLUMNS).max(1);
        let places: Vec<f64> = places.into_iter().step_by(every).collect();
        for (at, place) in places.iter().enumerate() {
            let x = frame.x(*place);
            let from = if at == 0 { LEFT } else { f64::midpoint(frame.x(places[at - 1]), x) };
            let to = places.get(at + 1).map_or(WIDTH - RIGHT, |next| f64::midpoint(x, frame.x(*next)));
            let (width, height, floor) = (to - from, HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM);
            write!(out, "<g class=\"at\"><title>{}", self.across.show(*place))?;
            let here = |series: &Series| series.points.iter().find(|(x, _)| x == place).and_then(|(_, y)| *y);
            for series in &self.series {
                if let Some(y) = here(series) {
                    write!(out, "\n{}: {}", Escaped(series.name), Escaped(&(self.show)(y)))?;
                }
            }
            write!(out, "</title><rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>")?;
            write!(out, "<path d=\"M{x:.1} {TOP}V{floor}\"/>")?;
            for series in &self.series {
                if let Some(y) = here(series) {
                    write!(
                        out,
                        "<circle class=\"{}\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3.5\"/>",
                        series.class,
                        frame.y(y)
                    )?;
                }
            }
            write!(out, "</g>")?;
        }
        Ok(())
    }
}

impl Across {
    fn title(self) -> &'static str {
        match self {
            Self::Seconds => "time since the load began",
            Self::Nines => "share of requests, logarithmic to the right",
        }
    }

    fn ticks(self, right: f64) -> Vec<(f64, String)> {
        match self {
            Self::Nines => {
                let marks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];
                marks
                    .map(|mark| (nines(mark), format!("{mark}%")))
                    .into_iter()
                    .filter(|(at, _)| *at <= right + 1e-6)
                    .collect()
            }
            Self::Seconds => {
                let step = TIME_STEPS.into_iter().find(|step| right / step <= 8.0).unwrap_or(86_400.0);
                let count = (right / step + 1e-9).floor() as u32;
                let label = |seconds: f64| match step {
                    3600.0.. => format!("{} h", seconds / 3600.0),
                    60.0.. => format!("{} min", seconds / 60.0),
                    1.0.. => format!("{seconds:.0} s"),
                    _ => format!("{seconds:.2} s"),
                };
                (0..=count).map(|at| f64::from(at) * step).map(|at| (at, label(at))).collect()
            }
        }
    }

    fn show(self, at: f64) -> String {
        match self {
            Self::Seconds => format!("at {at:.1} s"),
            Self::Nines => {
                let percent = (1.0 - 10_f64.powf(-at)) * 100.0;
                format!("{:.*}% took at most", if at < 2.0 { 1 } else { 3 }, percent)
            }
        }
    }
}

/// Where lines go across, from the lowest to the highest place of the axis.
fn ticks(up: Up, lowest: f64, highest: f64) -> Vec<f64> {
    if up == Up::Decades {
        let from = lowest.max(1.0).log10().floor() as i32;
        let to = (highest.max(1.0).log10().ceil() as i32).max(from + 1);
        // Few decades leave space for what lies between.
        let between: &[f64] = if to - from <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let inner = (from..to).flat_map(|decade| between.iter().map(move |times| times * 10_f64.powi(decade)));
        let all: Vec<f64> = inner.chain([10_f64.powi(to)]).collect();
        // What lies far beyond the values is left away.
        let first = all.iter().rposition(|tick| *tick <= lowest.max(1.0)).unwrap_or(0);
        let last = all.iter().position(|tick| *tick >= highest).unwrap_or(all.len() - 1).max(first + 1);
        return all.into_iter().take(last + 1).skip(first).collect();
    }
    let raw = (highest / 4.0).max(f64::MIN_POSITIVE);
    let step = match up {
        Up::Bytes => 2_f64.powf(raw.max(1.0).log2().ceil()),
        Up::Whole => nice(raw).max(1.0).ceil(),
        Up::Linear | Up::Decades => {
            if highest > 0.0 {
                nice(raw)
            } else {
                1.0
            }
        }
    };
    let count = (highest / step - 1e-9).ceil().max(1.0) as u32;
    (0..=count).map(|at| f64::from(at) * step).collect()
}

/// The next higher of 1, 2 and 5 times a power of ten.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| times * power >= value * (1.0 - 1e-9)).unwrap_or(10.0);
    times * power
}

/// A value as it stands at an axis: without the noughts behind its point.
fn short(text: &str) -> String {
    let (number, unit) = text.find(' ').map_or((text, ""), |at| text.split_at(at));
    if number.contains('.') {
        format!("{}{unit}", number.trim_end_matches('0').trim_end_matches('.'))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_marked_as_far_as_the_axis_goes_each_nine_as_wide_as_the_other() {
        let marks = Across::Nines.ticks(3.0);
        let labels: Vec<_> = marks.iter().map(|(_, label)| &**label).collect();
        assert_eq!(labels, ["0%", "50%", "90%", "99%", "99.9%"]);
        let frame = Frame { right: 3.0, bottom: 0.0, top: 1.0, up: Up::Linear };
        let at: Vec<_> = marks.iter().skip(2).map(|(at, _)| frame.x(*at)).collect();
        assert!(((at[1] - at[0]) - (at[2] - at[1])).abs() < 1e-3, "{at:?}");
        assert_eq!(Across::Nines.show(3.0), "99.900% took at most");
    }

    #[test]
    fn axes_begin_and_end_at_round_values_around_all_there_is() {
        assert_eq!(ticks(Up::Linear, 0.0, 4_900.0), [0.0, 2_000.0, 4_000.0, 6_000.0]);
        assert_eq!(ticks(Up::Linear, 0.0, 0.0), [0.0, 1.0]);
        assert_eq!(ticks(Up::Whole, 0.0, 2.0), [0.0, 1.0, 2.0]);
        assert_eq!(ticks(Up::Bytes, 0.0, 40_000_000.0), [0.0, 16_777_216.0, 33_554_432.0, 50_331_648.0]);
        assert_eq!(ticks(Up::Decades, 150.0, 1_500.0), [100.0, 200.0, 500.0, 1_000.0, 2_000.0]);
        assert_eq!(ticks(Up::Decades, 15.0, 900_000.0), [10.0, 100.0, 1e3, 1e4, 1e5, 1e6]);
        assert_eq!(ticks(Up::Decades, 1.0, 1.0), [1.0, 2.0]);
    }

    #[test]
    fn time_is_marked_in_steps_that_people_use() {
        let labels = |right| Across::Seconds.ticks(right).into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(10.0), ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]);
        assert_eq!(labels(300.0), ["0 min", "1 min", "2 min", "3 min", "4 min", "5 min"]);
    }

    #[test]
    fn a_gap_breaks_the_line() {
        let points = vec![(1.0, Some(1.0)), (2.0, Some(2.0)), (3.0, None), (4.0, Some(1.0)), (5.0, Some(2.0))];
        let series = vec![Series { name: "jobs", class: "s1", points }];
        let chart = Chart {
            title: "Queue",
            across: Across::Seconds,
            up: Up::Whole,
            unit: "jobs",
            show: |v| format!("{v}"),
            series,
        };
        let mut svg = String::new();
        chart.write(&mut svg).unwrap();
        assert_eq!(svg.matches("class=\"line s1\"").count(), 2, "{svg}");
        assert_eq!(svg.matches("<g class=\"at\">").count(), 4, "{svg}");
        assert!(svg.contains(">time since the load began<") && svg.contains(">jobs<"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn noughts_behind_the_point_are_left_out() {
        assert_eq!(short("2.50 ms"), "2.5 ms");
        assert_eq!(short("500.00 ms"), "500 ms");
        assert_eq!(short("100 us"), "100 us");
        assert_eq!(short("1,000"), "1,000");
    }
}
