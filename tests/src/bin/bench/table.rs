//! Medians of several rounds, and a table of them.

/// The value in the middle, or between the two there.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// A number as a float; no count here is too large for one.
pub fn float(count: u64) -> f64 {
    u32::try_from(count)
        .map_or_else(|_| f64::from(u32::try_from(count >> 16).unwrap_or(u32::MAX)) * 65_536.0, f64::from)
}

/// Rows of figures below their names.
#[derive(Debug)]
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; each figure comes with its decimals, and none stands where it is not a number.
    pub fn row(&mut self, name: impl Into<String>, figures: &[(f64, usize)]) {
        let cells = figures.iter().map(
            |(figure, decimals)| {
                if figure.is_nan() { "–".to_owned() } else { format!("{figure:.decimals$}") }
            },
        );
        self.rows.push((name.into(), cells.collect()));
    }

    /// Writes it to stdout.
    pub fn print(&self) {
        let first = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        let names: Vec<String> = self.columns.iter().map(|column| format!("  {column:>10}")).collect();
        println!("{}{}", " ".repeat(first), names.concat());
        for (name, cells) in &self.rows {
            let widths = self.columns.iter().map(|column| column.chars().count().max(10));
            let cells: Vec<String> = widths.zip(cells).map(|(width, cell)| format!("  {cell:>width$}")).collect();
            println!("{name:<first$}{}", cells.concat());
        }
    }
}

/// Says a ratio beside its target.
pub fn verdict(what: &str, ratio: f64, target: f64, wanted: Wanted) {
    let (sign, met) = match wanted {
        Wanted::AtLeast => ("≥", ratio >= target),
        Wanted::AtMost => ("≤", ratio <= target),
    };
    println!("  {what}: {ratio:.3} (target {sign} {target}: {})", if met { "met" } else { "missed" });
}

/// Which side of a target is good.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// More is better.
    AtLeast,
    /// Less is better.
    AtMost,
}
