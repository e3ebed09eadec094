//! Cells, and the tables they make. Knows nothing of what they say.

use std::fmt::Write as _;

/// What one cell says.
#[derive(Debug, Clone)]
pub enum Cell {
    /// As it should be.
    Good(String),
    /// Measured: promised by nobody, or as it is recorded of others.
    Measured(String),
    /// Not as it should be.
    Wrong(String),
    /// Cannot be, or was left out, and why.
    Not(String),
}

impl Cell {
    /// Good where `good` is true.
    pub fn judged(good: bool, text: impl Into<String>) -> Self {
        if good { Self::Good(text.into()) } else { Self::Wrong(text.into()) }
    }

    /// What it says, marked.
    pub fn text(&self) -> String {
        match self {
            Self::Good(text) => format!("✓ {text}"),
            Self::Measured(text) => text.clone(),
            Self::Wrong(text) => format!("✗ {text}"),
            Self::Not(text) => format!("– {text}"),
        }
    }
}

impl From<Result<Cell, String>> for Cell {
    fn from(outcome: Result<Self, String>) -> Self {
        outcome.unwrap_or_else(Self::Wrong)
    }
}

/// What the marks mean.
pub const LEGEND: &str = "✓ as it must be · plain: measured of others, as it is known of them · ✗ not as it should be · \
    – not to be had, and why";

/// A table with a name for each row.
#[derive(Debug)]
pub struct Table {
    caption: &'static str,
    title: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<Cell>)>,
}

impl Table {
    /// An empty one.
    pub fn new(caption: &'static str, title: &'static str, columns: &[&'static str]) -> Self {
        Self { caption, title, columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, name: &str, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell a column");
        self.rows.push((name.to_owned(), cells));
    }

    /// The cells that are wrong, each with where it stands.
    pub fn wrong(&self) -> Vec<String> {
        let cells = |(name, cells): &(String, Vec<Cell>)| {
            let wrong = cells.iter().zip(&self.columns).filter(|(cell, _)| matches!(cell, Cell::Wrong(_)));
            wrong.map(|(cell, column)| format!("{name}, {column}: {}", cell.text())).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(cells).collect()
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!("**{}**\n\n| {} | {} |\n|---|", self.caption, self.title, self.columns.join(" | "));
        out.push_str(&"---|".repeat(self.columns.len()));
        for (name, cells) in &self.rows {
            let texts: Vec<String> =
                cells.iter().map(|cell| cell.text().replace('|', "\\|").replace('\n', " ")).collect();
            write!(out, "\n| {name} | {} |", texts.join(" | ")).expect("a string takes all");
        }
        out.push('\n');
        out
    }
}
