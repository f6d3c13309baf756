//! What became of each key: rows that are gathered while a configuration is read, printed as a table and written as
//! comments.

use std::fmt::Write as _;

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has a counterpart that means the same.
    Taken,
    /// It has a counterpart that does not mean quite the same.
    Changed,
    /// It is not needed, or there is nothing like it.
    Dropped,
    /// It stands in none of the files: a default, or what a flag of `migrate` says.
    Assumed,
    /// PaddleServing does not know it either.
    Unknown,
    /// It does not do what it seems to.
    Warning,
    /// Somebody must decide before clients get the same answers.
    Decide,
}

impl Fate {
    /// The word in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Changed => "changed",
            Self::Dropped => "dropped",
            Self::Assumed => "assumed",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Decide => "DECIDE",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Line in the file; `None` for what does not stand there.
    pub line: Option<usize>,
    /// The key with its tables: `dag.tracer.interval_s`.
    pub key: String,
    /// What stands there; a default is in parentheses.
    pub value: String,
    /// What became of it.
    pub fate: Fate,
    /// What it is now, and why.
    pub text: String,
}

/// Longest key or value that a report shows, characters.
const SHOWN_CHARS: usize = 80;

/// A stranger's text on one line, cut where it is long.
#[must_use]
pub fn shown(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    let mut out = one_line(&cut);
    if cut.len() < text.len() {
        out.push('…');
    }
    out
}

/// Whether a character moves a terminal's cursor, ends a line or turns its direction.
#[must_use]
pub fn moves_terminals(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A stranger's text on one line.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if moves_terminals(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Rows in the order in which they were found.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a row about a key that stands in the file.
    pub fn row(&mut self, line: usize, key: &str, value: &str, fate: Fate, text: impl Into<String>) {
        let row = Row {
            line: Some(line),
            key: shown(key),
            value: shown(value),
            fate,
            text: one_line(&text.into()),
        };
        self.rows.push(row);
    }

    /// Adds a row about what does not stand in the file; `value` is what holds in its place.
    pub fn absent(&mut self, key: &str, value: &str, fate: Fate, text: impl Into<String>) {
        let value = if value.is_empty() { String::new() } else { format!("({})", shown(value)) };
        self.rows.push(Row { line: None, key: shown(key), value, fate, text: one_line(&text.into()) });
    }

    /// Adds a row about a flag of `migrate`.
    pub fn flag(&mut self, key: &str, value: &str, fate: Fate, text: impl Into<String>) {
        self.rows.push(Row {
            line: None,
            key: shown(key),
            value: shown(value),
            fate,
            text: one_line(&text.into()),
        });
    }

    /// Puts the last row before the one at `place`.
    pub fn move_last_to(&mut self, place: usize) {
        if let Some(row) = self.rows.pop() {
            self.rows.insert(place.min(self.rows.len()), row);
        }
    }

    /// All rows.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Rows that somebody must decide.
    pub fn decisions(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|r| r.fate == Fate::Decide)
    }

    /// A table with a line for each row that `filter` lets through, each beginning with `prefix`.
    #[must_use]
    pub fn table(&self, prefix: &str, filter: impl Fn(&Row) -> bool) -> String {
        let rows: Vec<&Row> = self.rows.iter().filter(|r| filter(r)).collect();
        let width = |of: fn(&Row) -> &str| rows.iter().map(|r| of(r).chars().count()).max().unwrap_or(0);
        let (keys, values) = (width(|r| &r.key).max(3), width(|r| &r.value).max(5));
        let mut out = String::new();
        let _ = writeln!(out, "{prefix}line  {:keys$}  {:values$}  became   what, and why", "key", "value");
        for r in rows {
            let line = r.line.map_or(String::new(), |l| l.to_string());
            let (key, value, fate) = (&r.key, &r.value, r.fate.word());
            let _ = writeln!(out, "{prefix}{line:>4}  {key:keys$}  {value:values$}  {fate:7}  {}", r.text);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_strangers_texts_stay_on_their_line() {
        let mut report = Report::default();
        report.row(2, "rpc_port", "18091", Fate::Taken, "visord.toml: grpc_port = 18091");
        report.row(130, "op.a\nb\u{202e}", &"x".repeat(90), Fate::Unknown, "ignored");
        report.absent("op.batch_size", "1", Fate::Decide, "say it");
        let table = report.table("# ", |_| true);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        let at = |line: &str, word: &str| {
            let byte = line.find(word).unwrap_or_else(|| panic!("{word} in {line}"));
            line[..byte].chars().count()
        };
        let column = at(lines[0], "what, and why");
        for (line, word) in lines[1..].iter().zip(["visord.toml", "ignored", "say it"]) {
            assert_eq!(at(line, word), column, "{table}");
        }
        assert!(lines[2].contains("op.a\\nb\\u{202e}") && lines[2].contains('…'), "{table}");
        assert!(lines[3].starts_with("#       op.batch_size") && lines[3].contains("(1)"), "{table}");
        assert_eq!(report.decisions().count(), 1);
    }
}
