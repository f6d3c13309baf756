//! One table of a `config.yml` being read: takes the keys that PaddleServing knows, says what is of a type or range
//! that PaddleServing would not start with, and at the end which keys nobody knows.

use std::collections::BTreeSet;

use super::report::{Fate, Report, shown};
use super::yaml::{Node, Value};

/// What stands there is of another type or range; the report says so already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong;

/// A table and the keys that were asked for.
pub struct Keys<'a, 'r> {
    prefix: String,
    entries: &'a [(String, Node)],
    known: BTreeSet<&'static str>,
    /// Where rows go.
    pub report: &'r mut Report,
}

impl<'a, 'r> Keys<'a, 'r> {
    /// The table whose keys' names begin with `prefix`.
    pub fn new(prefix: &str, entries: &'a [(String, Node)], report: &'r mut Report) -> Self {
        Self { prefix: prefix.to_owned(), entries, known: BTreeSet::new(), report }
    }

    /// The key's value. As with PaddleServing, a key that says nothing is not there.
    pub fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.insert(key);
        self.entries.iter().find(|(k, _)| k == key).map(|(_, n)| n).filter(|n| n.value != Value::Null)
    }

    /// Adds a row about the key, as it stands there or with the default that PaddleServing takes for it.
    pub fn say(&mut self, key: &'static str, default: &str, fate: Fate, text: impl Into<String>) {
        let name = format!("{}{key}", self.prefix);
        match self.take(key) {
            Some(node) => {
                // A key's value is no business of whoever reads the report.
                let value = if key.ends_with("_key") { "(not shown)".to_owned() } else { node.shown() };
                self.report.row(node.line, &name, &value, fate, text);
            }
            None => self.report.absent(&name, default, fate, text),
        }
    }

    /// As [`say`](Self::say), where the key is there.
    pub fn say_if_there(&mut self, key: &'static str, fate: Fate, text: impl Into<String>) {
        if self.take(key).is_some() {
            self.say(key, "", fate, text);
        }
    }

    fn wrong(&mut self, key: &'static str, must: &str) {
        // A key may be looked at more than once.
        let name = shown(&format!("{}{key}", self.prefix));
        if self.report.decisions().any(|r| r.key == name) {
            return;
        }
        let text = format!("must be {must}; PaddleServing would not start. Its default is taken: correct it");
        self.say(key, "", Fate::Decide, text);
    }

    /// An integer from `least` to `most`; `Err` where something else stands there, which is reported.
    pub fn integer(&mut self, key: &'static str, least: i64, most: i64) -> Result<Option<i64>, Wrong> {
        let Some(node) = self.take(key) else { return Ok(None) };
        let value = match node.value {
            Value::Int(i) => Some(i),
            // Python's booleans are integers.
            Value::Bool(b) => Some(i64::from(b)),
            Value::Null | Value::Float(_) | Value::Str(_) | Value::List(_) | Value::Map(_) => None,
        };
        if let Some(i) = value.filter(|i| (least..=most).contains(i)) {
            return Ok(Some(i));
        }
        let must = match (least, most) {
            (i64::MIN, _) => "an integer".to_owned(),
            (_, i64::MAX) => format!("an integer from {least} on"),
            _ => format!("an integer from {least} to {most}"),
        };
        self.wrong(key, &must);
        Err(Wrong)
    }

    /// `True` or `False`.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, Wrong> {
        let Some(node) = self.take(key) else { return Ok(None) };
        if let Value::Bool(b) = node.value {
            return Ok(Some(b));
        }
        self.wrong(key, "True or False");
        Err(Wrong)
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Result<Option<&'a str>, Wrong> {
        let Some(node) = self.take(key) else { return Ok(None) };
        if let Value::Str(s) = &node.value {
            return Ok(Some(s));
        }
        self.wrong(key, "a text, in quotes where it looks like a number");
        Err(Wrong)
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str) -> Result<Option<Vec<&'a str>>, Wrong> {
        let Some(node) = self.take(key) else { return Ok(None) };
        let text = |n: &'a Node| if let Value::Str(s) = &n.value { Some(s.as_str()) } else { None };
        let list = if let Value::List(l) = &node.value {
            l.iter().map(text).collect::<Option<Vec<_>>>()
        } else {
            None
        };
        if list.is_none() {
            self.wrong(key, "a list of texts");
        }
        list.map(Some).ok_or(Wrong)
    }

    /// A table below this one, empty where absent or where something else stands there, which is reported.
    pub fn table(&mut self, key: &'static str) -> &'a [(String, Node)] {
        let Some(node) = self.take(key) else { return &[] };
        if node.entries().is_none() {
            self.wrong(key, "a table");
        }
        node.entries().unwrap_or_default()
    }

    /// Reports keys that nobody asked for; PaddleServing passes them over without a word.
    pub fn finish(self) {
        for (key, node) in self.entries.iter().filter(|(k, _)| !self.known.contains(k.as_str())) {
            let near = self.known.iter().filter(|k| !self.entries.iter().any(|(e, _)| e == **k));
            let near = near.map(|k| (distance(key, k), *k)).min().filter(|(d, k)| *d <= 2.min(k.len() / 3));
            let hint = near.map_or(String::new(), |(_, k)| format!("; did it mean {k}?"));
            let text = format!("PaddleServing passes it over without a word, and so does this{hint}");
            self.report.row(node.line, &format!("{}{key}", self.prefix), &node.shown(), Fate::Unknown, text);
        }
    }
}

/// Letters to change, add or leave out; enough for names as short as ours, long ones are cut.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = change.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, want) in [
            ("", "", 0),
            ("a", "", 1),
            ("batchsize", "batch_size", 1),
            ("retry", "retyr", 2),
            ("x", "timeout", 7),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }
}
