//! The table on stdout and target/bench.json.

use std::path::Path;

use serde::Serialize;

/// One line: what was measured, and against what.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub figure: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The limit measured in the same run, or given by the goal where nothing can be measured.
    pub limit: Option<f64>,
    /// What the limit is.
    pub limit_is: String,
    /// value / limit.
    pub ratio: Option<f64>,
    /// What is aimed at; empty where the line only informs.
    pub goal: String,
    /// Whether the goal is met.
    pub met: Option<bool>,
}

impl Figure {
    /// A figure without limit and goal.
    pub fn new(figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            figure: figure.into(),
            value,
            unit,
            limit: None,
            limit_is: String::new(),
            ratio: None,
            goal: String::new(),
            met: None,
        }
    }

    /// Adds what the value is compared with.
    #[must_use]
    pub fn against(mut self, limit: f64, limit_is: impl Into<String>) -> Self {
        self.limit = Some(limit);
        self.limit_is = limit_is.into();
        self.ratio = (limit > 0.0).then(|| self.value / limit);
        self
    }

    /// Adds the goal and whether it is met.
    #[must_use]
    pub fn goal(mut self, goal: impl Into<String>, met: bool) -> Self {
        self.goal = goal.into();
        self.met = Some(met);
        self
    }
}

/// Prints the table and writes the JSON.
///
/// # Errors
/// When the file can't be written.
pub fn publish(figures: &[Figure], file: &Path) -> std::io::Result<()> {
    let rows: Vec<[String; 6]> = figures
        .iter()
        .map(|f| {
            [
                f.figure.clone(),
                format!("{} {}", number(f.value), f.unit),
                f.limit.map_or_else(String::new, |limit| format!("{} ({})", number(limit), f.limit_is)),
                f.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                f.goal.clone(),
                f.met
                    .map_or_else(String::new, |met| if met { "met".to_owned() } else { "MISSED".to_owned() }),
            ]
        })
        .collect();
    let head = ["figure", "value", "limit", "ratio", "goal", ""].map(str::to_owned);
    let widths: Vec<usize> = (0..head.len())
        .map(|i| rows.iter().chain([&head]).map(|row| row[i].chars().count()).max().unwrap_or(0))
        .collect();
    for row in [&head].into_iter().chain(&rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    let machine =
        Machine { load, cpus: std::thread::available_parallelism().map_or(1, usize::from), cpu: cpu_model() };
    let text = serde_json::to_string_pretty(&Document { machine, figures })?;
    std::fs::write(file, text)?;
    println!("written to {}", file.display());
    Ok(())
}

#[derive(Serialize)]
struct Document<'a> {
    machine: Machine,
    figures: &'a [Figure],
}

#[derive(Serialize)]
struct Machine {
    cpus: usize,
    /// Load average of the last minute: far above `cpus`, something else was running.
    load: f64,
    cpu: String,
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    line.split(": ").nth(1).unwrap_or("unknown").to_owned()
}

fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(0.4567), "0.46");
        assert_eq!(number(543.0), "543");
    }
}
