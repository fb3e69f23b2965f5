//! The curves of an outcome as text.

use super::outcome::{Outcome, Point};

/// Characters of a curve.
const WIDTH: usize = 72;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A curve a line, each with its highest value. A blank is 0.
pub(crate) fn plot(outcome: &Outcome) -> String {
    type Value = fn(&Point) -> f64;
    let curves: [(&str, Value); 6] = [
        ("offered/s", |point| point.offered_per_second),
        ("rejected/s", |point| point.rejected_per_second),
        ("machines", |point| f64::from(point.machines)),
        ("in service", |point| f64::from(point.in_service)),
        ("CPU %", |point| point.cpu_percent),
        ("backlog", |point| point.backlog as f64),
    ];
    let title = format!("{}, {}, {} s\n", outcome.load, outcome.policy, outcome.seconds);
    let lines = curves.map(|(name, value)| {
        let (bars, most) = bars(&outcome.points.iter().map(value).collect::<Vec<_>>());
        format!("  {name:<10} {bars} {most:.0}")
    });
    title + &lines.join("\n")
}

/// Each bar is the highest of its values.
fn bars(values: &[f64]) -> (String, f64) {
    let most = values.iter().copied().fold(0.0, f64::max);
    let width = values.len().min(WIDTH);
    let bar = |column: usize| {
        let part = values.get(column * values.len() / width..(column + 1) * values.len() / width).unwrap_or_default();
        let value = part.iter().copied().fold(0.0, f64::max);
        let height = (value / most * BARS.len() as f64).ceil() as usize;
        height.checked_sub(1).and_then(|height| BARS.get(height)).copied().unwrap_or(' ')
    };
    ((0..width).map(bar).collect(), most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_relative_to_the_highest_value_and_zero_is_blank() {
        assert_eq!(bars(&[0.0, 1.0, 4.0, 8.0]), (" ▁▄█".to_owned(), 8.0));
        assert_eq!(bars(&[0.0; 3]), ("   ".to_owned(), 0.0));
        let (long, most) = bars(&(0..240).map(f64::from).collect::<Vec<_>>());
        assert_eq!((long.chars().count(), long.chars().last(), most), (WIDTH, Some('█'), 239.0));
        assert_eq!(bars(&[]), (String::new(), 0.0));
    }
}
