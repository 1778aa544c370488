//! A chart for a terminal: values over time as bars, with letters under them where something happened.

use std::{fmt::Write as _, time::Duration};

/// Eighths of a row.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws `samples`, each a time and a value, oldest first; `marks` are letters at their times.
pub(crate) fn draw(
    samples: &[(Duration, u64)],
    marks: &[(Duration, char)],
    (width, height): (usize, usize),
) -> String {
    let end = samples.last().map_or(Duration::ZERO, |(at, _)| *at);
    let column = |at: Duration| {
        let share = at.as_secs_f64() / end.as_secs_f64().max(f64::MIN_POSITIVE);
        // In range, whatever a mark says.
        ((0..width).rev().find(|column| *column as f64 <= share * width as f64)).unwrap_or(0)
    };
    let mut values = vec![None::<u64>; width];
    for (at, value) in samples {
        let cell = &mut values[column(*at)];
        *cell = Some(cell.unwrap_or(0).max(*value));
    }
    // Between two samples it is as before.
    let mut last = 0;
    let values: Vec<u64> = values
        .into_iter()
        .map(|value| {
            last = value.unwrap_or(last);
            last
        })
        .collect();
    let top = values.iter().copied().max().unwrap_or(0).max(1);
    let mut text = String::new();
    for row in (0..height).rev() {
        let label = if row + 1 == height { top.to_string() } else { String::new() };
        let bars: String = values.iter().map(|value| bar(*value, top, row, height)).collect();
        _ = writeln!(text, "{label:>7} |{}", bars.trim_end());
    }
    _ = writeln!(text, "{:>7} +{}", 0, "-".repeat(width));
    let mut under = vec![' '; width];
    for (at, letter) in marks {
        under[column(*at)] = *letter;
    }
    let under: String = under.into_iter().collect();
    _ = writeln!(text, "{:>7}  {}", "", under.trim_end());
    text
}

/// The piece of a bar in one row, counted from below. What is not nothing is seen.
fn bar(value: u64, top: u64, row: usize, height: usize) -> char {
    let eighths = (value * height as u64 * 8).div_ceil(top);
    let here = eighths.saturating_sub(row as u64 * 8).min(8);
    usize::try_from(here).map_or(' ', |here| BARS[here])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bars_are_as_high_as_their_values() {
        let samples = [(Duration::ZERO, 0), (SECOND, 16), (2 * SECOND, 8), (3 * SECOND, 1)];
        let chart = draw(&samples, &[(SECOND, 'S')], (3, 2));
        assert_eq!(chart, "     16 | █\n        | ██\n      0 +---\n          S\n");
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(draw(&[], &[], (2, 1)), "      1 |\n      0 +--\n         \n");
        let one = draw(&[(Duration::ZERO, 5)], &[(SECOND, 'K')], (2, 1));
        assert!(one.contains("5 |"), "{one}");
    }

    #[test]
    fn a_value_between_two_samples_is_as_before() {
        let chart = draw(&[(Duration::ZERO, 8), (4 * SECOND, 8)], &[], (4, 1));
        assert!(chart.starts_with("      8 |████\n"), "{chart}");
    }
}
