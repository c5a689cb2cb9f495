//! What the benchmark found, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// One question and its answer.
pub(crate) struct Section {
    title: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
    notes: Vec<String>,
}

/// One value of a row.
#[derive(Clone)]
pub(crate) enum Cell {
    /// A name, or why there is no number.
    Text(String),
    /// A number, shown with so many decimals.
    Number(f64, usize),
    /// Not applicable.
    Empty,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A number of any size, with about three digits that count.
    pub(crate) fn rounded(number: f64) -> Self {
        let digits = 2.0 - number.abs().max(1e-9).log10().floor();
        Self::Number(number, digits.clamp(0.0, 9.0) as usize)
    }

    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.replace('|', "/"),
            Self::Number(number, decimals) => {
                let shown = format!("{number:.decimals$}");
                // A little less than nothing is nothing.
                let is_zero = shown.chars().all(|c| matches!(c, '-' | '0' | '.'));
                shown.strip_prefix('-').filter(|_| is_zero).unwrap_or(&shown).to_owned()
            }
            Self::Empty => String::new(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number, _) => json!(number),
            Self::Empty => Value::Null,
        }
    }
}

impl Section {
    pub(crate) fn new(title: &'static str, columns: &'static [&'static str]) -> Self {
        Self { title, columns, rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a row, in the order of the columns.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds a sentence under the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// As Markdown, its columns padded to be read as they are.
    pub(crate) fn markdown(&self) -> String {
        let head: Vec<String> = self.columns.iter().map(|c| (*c).to_owned()).collect();
        let body: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
        let width = |column: usize| {
            let cells = std::iter::once(&head).chain(&body);
            cells.filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(
                |(i, w)| {
                    if i == 0 { "-".repeat(*w) } else { "-".repeat(w.saturating_sub(1)) + ":" }
                },
            )
            .collect();
        let mut text = format!("## {}\n\n", self.title);
        for row in [&head, &rule].into_iter().chain(&body) {
            let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| {
                if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            let cells: Vec<String> = cells.collect();
            // Writing to a String does not fail.
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }

    /// As JSON: one object a row, keyed by column.
    pub(crate) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let pairs = self.columns.iter().zip(row);
                let object: Map<String, Value> =
                    pairs.map(|(name, cell)| ((*name).to_owned(), cell.json())).collect();
                Value::Object(object)
            })
            .collect();
        json!({ "title": self.title, "rows": rows, "notes": self.notes })
    }
}

/// The middle value; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// How far the middle half of the values spreads.
pub(crate) fn quartile_range(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |quarters: usize| {
        sorted.get((sorted.len().saturating_sub(1) * quarters + 2) / 4).copied().unwrap_or(0.0)
    };
    at(3) - at(1)
}
