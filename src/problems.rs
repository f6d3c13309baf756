//! Reading TOML so that every mistake is found in one go, each with file, key, value and what is allowed.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use toml::{Table, Value};

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a file, or the command line.
    pub source: String,
    /// The key, with its tables: `dynamic_batching.max_queue_size`.
    pub key: String,
    /// What stands there.
    pub value: String,
    /// What is allowed, and what to do.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if !self.key.is_empty() {
            write!(f, "{}", self.key)?;
            if !self.value.is_empty() {
                write!(f, " = {}", self.value)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.allowed)
    }
}

/// Mistakes gathered so far.
#[derive(Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Adds one that is about a whole file or about something outside any file.
    pub fn add(
        &mut self,
        source: impl fmt::Display,
        key: &str,
        value: impl fmt::Display,
        allowed: impl fmt::Display,
    ) {
        self.0.push(Problem {
            source: source.to_string(),
            key: key.to_owned(),
            value: value.to_string(),
            allowed: allowed.to_string(),
        });
    }
}

/// Reads a TOML file; a missing file is an empty table where `optional`.
pub fn read_table(path: &Path, optional: bool, problems: &mut Problems) -> Table {
    match std::fs::read_to_string(path) {
        Ok(text) => match text.parse::<Table>() {
            Ok(table) => table,
            Err(e) => {
                problems.add(path.display(), "", "", format!("not valid TOML: {}", e.to_string().trim_end()));
                Table::new()
            }
        },
        Err(e) if optional && e.kind() == std::io::ErrorKind::NotFound => Table::new(),
        Err(e) => {
            problems.add(path.display(), "", "", format!("cannot be read: {e}"));
            Table::new()
        }
    }
}

/// One table being read: takes known keys, reports what is wrong, and at [`Section::finish`] what is unknown.
pub struct Section<'a> {
    source: String,
    prefix: String,
    table: &'a Table,
    /// Every key that was asked for, there or not.
    known: BTreeSet<String>,
    problems: &'a mut Problems,
}

static EMPTY: std::sync::LazyLock<Table> = std::sync::LazyLock::new(Table::new);

impl<'a> Section<'a> {
    /// The top of a file.
    pub fn new(source: &Path, table: &'a Table, problems: &'a mut Problems) -> Self {
        Self {
            source: source.display().to_string(),
            prefix: String::new(),
            table,
            known: BTreeSet::new(),
            problems,
        }
    }

    fn take(&mut self, key: &str) -> Option<&'a Value> {
        self.known.insert(key.to_owned());
        self.table.get(key)
    }

    /// Reports `key`.
    pub fn problem(&mut self, key: &str, value: impl fmt::Display, allowed: impl fmt::Display) {
        let key = format!("{}{key}", self.prefix);
        let key = key.trim_end_matches('.').to_owned();
        self.problems.add(self.source.clone(), &key, value, allowed);
    }

    /// Whether the table says anything at all.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether the key is there at all.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Every key that is there, in order.
    pub fn keys(&self) -> Vec<String> {
        self.table.keys().cloned().collect()
    }

    /// A number in `range`, whole or not.
    pub fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.take(key)?;
        let number = value.as_float().or_else(|| value.as_integer().map(|i| i as f64));
        let number = number.filter(|n| range.contains(n));
        if number.is_none() {
            self.problem(key, value, format!("must be a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// An integer in `range`.
    pub fn integer(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        match value.as_integer().and_then(|v| u64::try_from(v).ok()) {
            Some(v) if range.contains(&v) => Some(v),
            _ => {
                self.problem(
                    key,
                    value,
                    format!("must be an integer from {} to {}", range.start(), range.end()),
                );
                None
            }
        }
    }

    /// A list of integers in `range`.
    pub fn integers(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<Vec<u64>> {
        let value = self.take(key)?;
        let list = value.as_array().and_then(|a| {
            a.iter()
                .map(|v| v.as_integer().and_then(|v| u64::try_from(v).ok()).filter(|v| range.contains(v)))
                .collect::<Option<Vec<_>>>()
        });
        if list.is_none() {
            let allowed = format!("must be a list of integers from {} to {}", range.start(), range.end());
            self.problem(key, value, allowed);
        }
        list
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.take(key)?;
        if value.as_bool().is_none() {
            self.problem(key, value, "must be true or false");
        }
        value.as_bool()
    }

    /// A text.
    pub fn string(&mut self, key: &str) -> Option<&'a str> {
        let value = self.take(key)?;
        if value.as_str().is_none() {
            self.problem(key, value, "must be a string");
        }
        value.as_str()
    }

    /// A list of texts, none of them empty.
    pub fn strings(&mut self, key: &str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let list = value.as_array().and_then(|a| a.iter().map(text).collect::<Option<Vec<_>>>());
        if list.is_none() {
            self.problem(key, value, "must be a list of strings");
        }
        list
    }

    /// One of a closed set of words.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.take(key)?;
        let found = value.as_str().and_then(|s| words.iter().find(|(w, _)| *w == s));
        if found.is_none() {
            let list = words.iter().map(|(w, _)| format!("\"{w}\"")).collect::<Vec<_>>().join(", ");
            self.problem(key, value, format!("must be one of {list}"));
        }
        found.map(|(_, t)| *t)
    }

    /// Three finite numbers, or one that stands for all three.
    pub fn triple(&mut self, key: &str) -> Option<[f32; 3]> {
        let value = self.take(key)?;
        let number = |v: &Value| {
            v.as_float()
                .or_else(|| v.as_integer().map(|i| i as f64))
                .filter(|v| v.is_finite())
                .map(|v| v as f32)
        };
        let triple = if let Some(array) = value.as_array().filter(|a| a.len() == 3) {
            array.iter().map(number).collect::<Option<Vec<_>>>().map(|v| [v[0], v[1], v[2]])
        } else {
            number(value).map(|v| [v; 3])
        };
        if triple.is_none() {
            self.problem(key, value, "must be a number or a list of 3 numbers, one for each channel");
        }
        triple
    }

    /// A table of texts.
    pub fn string_map(&mut self, key: &str) -> Vec<(String, String)> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let map = value.as_table().and_then(|t| {
            t.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect::<Option<Vec<_>>>()
        });
        if map.is_none() {
            self.problem(key, value, "must be a table of strings");
        }
        map.unwrap_or_default()
    }

    /// A table below this one, empty where absent.
    pub fn section<R>(&mut self, key: &str, read: impl FnOnce(&mut Section<'_>) -> R) -> R {
        let table = match self.take(key) {
            None => &*EMPTY,
            Some(Value::Table(t)) => t,
            Some(other) => {
                self.problem(key, other, format!("must be a table: [{}{key}]", self.prefix));
                &*EMPTY
            }
        };
        self.nested(format!("{}{key}.", self.prefix), table, read)
    }

    /// A list of tables below this one.
    pub fn sections<R>(&mut self, key: &str, mut read: impl FnMut(&mut Section<'_>) -> R) -> Vec<R> {
        let tables = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(a)) if a.iter().all(Value::is_table) => a,
            Some(other) => {
                self.problem(key, other, format!("must be a list of tables: [[{}{key}]]", self.prefix));
                return Vec::new();
            }
        };
        let tables = tables.iter().filter_map(Value::as_table).enumerate();
        tables.map(|(i, t)| self.nested(format!("{}{key}[{i}].", self.prefix), t, &mut read)).collect()
    }

    fn nested<R>(&mut self, prefix: String, table: &Table, read: impl FnOnce(&mut Section<'_>) -> R) -> R {
        let mut section = Section {
            source: self.source.clone(),
            prefix,
            table,
            known: BTreeSet::new(),
            problems: self.problems,
        };
        let result = read(&mut section);
        section.finish();
        result
    }

    /// Reports the keys that nobody asked for; nested sections do this by themselves.
    pub fn finish(&mut self) {
        for (key, value) in self.table {
            if !self.known.contains(key.as_str()) {
                let shown =
                    if value.is_table() || value.is_array() { String::new() } else { value.to_string() };
                let known = self.known.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "none".to_owned() } else { known };
                self.problem(key, shown, format!("unknown key; the keys here are: {known}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_with_key_value_and_range() {
        let table: Table =
            "a = 0\nb = \"x\"\nc = [1, \"2\"]\nd = 1\ni = [\"x\", \"\"]\nj = [\"x\"]\n[e]\nf = 3\n[[g]]\nh = true\n[[g]]\nh = 4\n"
                .parse()
                .unwrap();
        let mut problems = Problems::default();
        let mut s = Section::new(Path::new("m.toml"), &table, &mut problems);
        assert_eq!(s.integer("a", 1..=9), None);
        assert_eq!(s.choice("b", &[("y", 1), ("z", 2)]), None);
        assert_eq!(s.integers("c", 0..=9), None);
        assert_eq!(s.strings("i"), None);
        assert_eq!(s.strings("j"), Some(vec!["x".to_owned()]));
        assert_eq!(s.section("e", |e| e.string("f").map(str::to_owned)), None);
        assert_eq!(s.sections("g", |g| g.boolean("h")), [Some(true), None]);
        s.finish();
        let text: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "m.toml: a = 0: must be an integer from 1 to 9",
                "m.toml: b = \"x\": must be one of \"y\", \"z\"",
                "m.toml: c = [1, \"2\"]: must be a list of integers from 0 to 9",
                "m.toml: i = [\"x\", \"\"]: must be a list of strings",
                "m.toml: e.f = 3: must be a string",
                "m.toml: g[1].h = 4: must be true or false",
                "m.toml: d = 1: unknown key; the keys here are: a, b, c, e, g, i, j",
            ]
        );
    }
}
