//! Formats columns for people.

use std::time::Duration;

/// Rows below a header, columns as wide as needed; numbers are right-aligned.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    // Sizes and ages count as numbers; a UUID or a time does not.
    let is_number = |text: &str| {
        let starts = text.starts_with(|c: char| c.is_ascii_digit());
        text == "-" || (starts && !text.contains(['-', ':']))
    };
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let right: Vec<bool> = (0..head.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).all(|cell| is_number(cell)))
        .collect();
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            if *right && !rows.is_empty() {
                line.push_str(&gap);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&gap);
            }
            line.push_str("  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `1.5 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = count as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

/// `3m 5s`, the two largest units.
pub(super) fn age(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match whole {
        0 => format!("{:.0}ms", seconds.max(0.0) * 1000.0),
        1..60 => format!("{whole}s"),
        60..3_600 => format!("{}m {}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h {}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d {}h", whole / 86_400, whole / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let rows = [
            vec!["orders".to_owned(), "12".to_owned(), "serving".to_owned()],
            vec!["a".to_owned(), "1234567".to_owned(), "offline".to_owned()],
        ];
        assert_eq!(
            table(&["TOPIC", "END", "STATE"], &rows),
            "TOPIC       END  STATE\norders       12  serving\na       1234567  offline\n"
        );
        assert_eq!(table(&["TOPIC", "END"], &[]), "TOPIC  END\n");
    }

    #[test]
    fn sizes_and_ages_are_short() {
        let sizes = [0, 1023, 1024, 1_610_612_736].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
        let ages = [0.25, 59.0, 185.0, 7_260.0, 90_000.0].map(age);
        assert_eq!(ages, ["250ms", "59s", "3m 5s", "2h 1m", "1d 1h"]);
    }
}
