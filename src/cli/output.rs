//! Writing to stdout: JSON for programs, and lines and tables for people. Tables are plain aligned
//! columns without borders, so that `grep` and `awk` can read them too.

use std::fmt::Display;
use std::io::Write as _;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use serde_json::Value;

use super::exit::CliExit;
use super::format::format_decimal;
use super::global::stdout_allows_colour;

/// Writes a line. When the reader of a pipe has closed it, as `head` does, the process exits with
/// status 0.
pub(super) fn print_line(text: impl Display) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(CliExit::Ok.code());
    }
}

/// A table with these headings. A heading that begins with `>` is of a column of numbers, which is
/// aligned to the right.
pub(super) fn table_with_headings(headings: &[&str]) -> Table {
    let mut table = plain_table();
    let heading = |text: &&str| {
        Cell::new(text.trim_start_matches('>').to_uppercase()).add_attribute(Attribute::Dim)
    };
    table.set_header(headings.iter().map(heading));
    for (column, text) in table.column_iter_mut().zip(headings) {
        if text.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table of names and values, without headings.
pub(super) fn name_value_table<N: AsRef<str>>(
    rows: impl IntoIterator<Item = (N, String)>,
) -> Table {
    let mut table = plain_table();
    for (name, value) in rows {
        table.add_row([Cell::new(name.as_ref()).add_attribute(Attribute::Bold), Cell::new(value)]);
    }
    table
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !stdout_allows_colour() {
        table.force_no_tty();
    }
    table
}

/// A cell in green for a passed check, or in red for a failed one.
pub(super) fn verdict_cell(text: &str, has_passed: bool) -> Cell {
    Cell::new(text).fg(if has_passed { Color::Green } else { Color::Red })
}

/// Writes a table to stdout.
pub(super) fn print_table(table: &Table) {
    for row in table.lines() {
        print_line(row.trim_end());
    }
}

/// Writes a document to stdout.
pub(super) fn print_json(document: &Value) {
    print_line(format_args!("{document:#}"));
}

/// A field of a JSON document as text: strings without quotes, null as `-`, fractions to the
/// hundredth.
pub(super) fn format_field(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => {
            format_decimal(number.as_f64().unwrap_or_default())
        }
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_written_without_quotes_and_rounded() {
        let shown =
            [json!(null), json!("a b"), json!(10.0), json!(0.123_456), json!(7), json!(true)]
                .map(|v| format_field(&v));
        assert_eq!(shown, ["-", "a b", "10", "0.12", "7", "true"]);
    }

    #[test]
    fn tables_are_plain_aligned_columns_without_a_terminal() {
        let mut table = table_with_headings(&["topic", ">queued"]);
        table.add_row(["genesis.qa", "12"]).add_row(["t", "3"]);
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(lines, [" TOPIC       QUEUED", " genesis.qa      12", " t                3"]);
    }
}
