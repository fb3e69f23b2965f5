//! The curves of outcomes as an SVG image: a column for each outcome.

use std::fmt::Write;

use super::outcome::{Outcome, Point};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 110.0;
/// Around each chart, for its title and its labels.
const MARGIN: f64 = 34.0;

struct Line {
    name: &'static str,
    color: &'static str,
    value: fn(&Point) -> f64,
}

struct Chart {
    title: &'static str,
    lines: &'static [Line],
}

const CHARTS: [Chart; 4] = [
    Chart {
        title: "requests/s",
        lines: &[
            Line { name: "offered", color: "#1f77b4", value: |point| point.offered_per_second },
            Line { name: "rejected", color: "#d62728", value: |point| point.rejected_per_second },
        ],
    },
    Chart {
        title: "machines",
        lines: &[
            Line { name: "launched", color: "#7f7f7f", value: |point| point.machines as f64 },
            Line { name: "in service", color: "#2ca02c", value: |point| point.in_service as f64 },
        ],
    },
    Chart { title: "CPU, %", lines: &[Line { name: "CPU", color: "#9467bd", value: |point| point.cpu_percent }] },
    Chart {
        title: "backlog, batches",
        lines: &[Line { name: "backlog", color: "#8c564b", value: |point| point.backlog as f64 }],
    },
];

/// Charts of one kind have one scale.
pub(crate) fn svg(outcomes: &[Outcome]) -> String {
    let (wide, high) = (WIDTH + 2.0 * MARGIN, HEIGHT + 2.0 * MARGIN);
    let (width, height) = (wide * outcomes.len() as f64, high * CHARTS.len() as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (row, chart) in (0u32..).zip(&CHARTS) {
        let values =
            |line: &Line| outcomes.iter().flat_map(|outcome| &outcome.points).map(line.value).fold(0.0, f64::max);
        let most = chart.lines.iter().map(values).fold(1.0, f64::max);
        for (column, outcome) in (0u32..).zip(outcomes) {
            let (x, y) = (f64::from(column) * wide + MARGIN, f64::from(row) * high + MARGIN);
            draw(&mut svg, chart, outcome, most, (x, y));
        }
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, chart: &Chart, outcome: &Outcome, most: f64, (x, y): (f64, f64)) {
    let Outcome { load, policy, seconds, .. } = outcome;
    let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
    let _ = write!(svg, "<text y=\"-8\">{load}, {policy}: {}", chart.title);
    for line in chart.lines {
        let _ = write!(svg, " <tspan fill=\"{}\">{}</tspan>", line.color, line.name);
    }
    let _ = writeln!(svg, " (to {most:.0})</text>");
    let _ = writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#ccc\"/>");
    for line in chart.lines {
        let points = outcome.points.iter().map(|point| {
            let across = f64::from(point.at) / f64::from(*seconds) * WIDTH;
            format!("{across:.1},{:.1}", HEIGHT - (line.value)(point) / most * HEIGHT)
        });
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{}\"/>", line.color);
    }
    let _ = writeln!(svg, "<text y=\"{}\">0</text>", HEIGHT + 14.0);
    let _ = writeln!(svg, "<text x=\"{WIDTH}\" y=\"{}\" text-anchor=\"end\">{seconds} s</text>\n</g>", HEIGHT + 14.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{Model, Prices, Question, simulate};

    #[test]
    fn an_image_has_every_curve_of_every_outcome_within_its_chart() {
        let (model, prices) = (Model::built_in().unwrap(), Prices::built_in().unwrap());
        let outcome =
            |policy| simulate(&model, &prices, Question { load: "spike", policy, seed: 1, outage: None }).unwrap();
        let text = svg(&[outcome("trigger"), outcome("step")]);
        assert_eq!(text.matches("<polyline").count(), 12);
        assert_eq!((text.matches("<g ").count(), text.matches("</g>").count()), (8, 8));
        let points = text.split("points=\"").skip(1).filter_map(|part| part.split('"').next());
        for pair in points.flat_map(|points| points.split(' ')) {
            let (x, y) = pair.split_once(',').unwrap();
            assert!(
                (0.0..=WIDTH).contains(&x.parse().unwrap()) && (0.0..=HEIGHT).contains(&y.parse().unwrap()),
                "{pair}"
            );
        }
    }
}
