//! The report: lines for people, in 100 columns, and one JSON document for machines.

use std::fmt::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::finding::{Fault, Id, Level};

/// Widest line of the text, columns.
pub const COLUMNS: usize = 100;
/// Width of the mark and of the subject, each with the space behind it.
const MARK: usize = 6;
const SUBJECT: usize = 11;
/// Before what to do.
const ARROW: &str = "-> ";

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// How bad.
    pub level: Level,
    /// What it is about: `gpu`, `model`, …
    pub subject: &'static str,
    /// What was found.
    pub text: String,
    /// The finding; none where all is well.
    #[serde(rename = "id")]
    pub finding: Option<Id>,
    /// What to do about it.
    pub fix: Option<String>,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<Line>,
    facts: Map<String, Value>,
}

impl Report {
    /// Something is as it should be.
    pub fn ok(&mut self, subject: &'static str, text: impl Into<String>) {
        self.lines.push(Line { level: Level::Ok, subject, text: text.into(), finding: None, fix: None });
    }

    /// Something was found.
    pub fn found(&mut self, level: Level, subject: &'static str, fault: Fault) {
        let Fault { id, text, fix } = fault;
        self.lines.push(Line { level, subject, text, finding: Some(id), fix: Some(fix) });
    }

    /// Details for machines.
    pub fn fact(&mut self, name: &str, value: impl Serialize) {
        self.facts.insert(name.to_owned(), serde_json::to_value(value).unwrap_or_default());
    }

    /// All lines, in order.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The worst of all lines.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.lines.iter().map(|l| l.level).max().unwrap_or(Level::Ok)
    }

    /// Whether the process is to end with 1.
    #[must_use]
    pub fn failed(&self, strict: bool) -> bool {
        self.worst() >= if strict { Level::Warn } else { Level::Fail }
    }

    fn count(&self, level: Level) -> usize {
        self.lines.iter().filter(|l| l.level == level).count()
    }

    /// The document of `--json`.
    #[must_use]
    pub fn json(&self, strict: bool) -> Value {
        let counts = [Level::Ok, Level::Note, Level::Warn, Level::Fail];
        let counts: Map<String, Value> =
            counts.iter().map(|l| (l.mark().to_ascii_lowercase(), json!(self.count(*l)))).collect();
        json!({
            "visord": {
                "version": env!("CARGO_PKG_VERSION"),
                "commit": crate::COMMIT,
                "tensorrt_headers": super::TENSORRT_HEADERS,
            },
            "status": self.worst(),
            "exit_status": u8::from(self.failed(strict)),
            "counts": counts,
            "checks": self.lines,
            "facts": self.facts,
        })
    }

    /// The text, with ANSI colours, which whoever prints it strips where there is no terminal.
    #[must_use]
    pub fn text(&self, strict: bool) -> String {
        let mut text = format!(
            "visord {} ({}), TensorRT headers: {}\n\n",
            env!("CARGO_PKG_VERSION"),
            crate::COMMIT,
            super::TENSORRT_HEADERS
        );
        let mut before = "";
        for line in &self.lines {
            let style = style(line.level);
            let mut words = line.text.clone();
            if let Some(id) = line.finding {
                let _ = write!(words, " [{id}]");
            }
            let subject = if line.subject == before { "" } else { line.subject };
            before = line.subject;
            let mark = line.level.mark();
            let _ = write!(text, "{style}{mark}{style:#}{:1$}{subject:SUBJECT$}", "", MARK - mark.len());
            wrap(&mut text, &words, MARK + SUBJECT);
            if let Some(fix) = &line.fix {
                let _ = write!(text, "{:1$}{ARROW}", "", MARK + SUBJECT);
                wrap(&mut text, fix, MARK + SUBJECT + ARROW.len());
            }
        }
        let _ = writeln!(text, "\n{}", self.summary(strict));
        text
    }

    fn summary(&self, strict: bool) -> String {
        let (fail, warn, note) = (self.count(Level::Fail), self.count(Level::Warn), self.count(Level::Note));
        let says = match (self.worst(), self.failed(strict)) {
            (Level::Fail, _) => "`visord serve` would not serve as asked",
            (Level::Warn, true) => "`visord serve` would serve; --strict counts warnings",
            (Level::Warn, false) => "`visord serve` would serve, and could do better",
            (Level::Ok | Level::Note, _) => "all well",
        };
        format!("{fail} failed, {warn} warned, {note} noted: {says}")
    }
}

fn style(level: Level) -> Style {
    let color = match level {
        Level::Ok => AnsiColor::Green,
        Level::Note => AnsiColor::Cyan,
        Level::Warn => AnsiColor::Yellow,
        Level::Fail => return AnsiColor::Red.on_default().bold(),
    };
    color.on_default()
}

/// Appends `words` from column `indent` on, which the text has reached, breaking between words where there are some;
/// ends the line. What a library said may hold anything: control characters become spaces.
fn wrap(text: &mut String, words: &str, indent: usize) {
    let room = COLUMNS - indent;
    let mut used = 0;
    for word in words.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()) {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(room) {
            if used > 0 && used + 1 + piece.len() > room {
                let _ = write!(text, "\n{:indent$}", "");
                used = 0;
            }
            if used > 0 {
                text.push(' ');
                used += 1;
            }
            text.extend(piece);
            used += piece.len();
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_lose_nothing() {
        for (words, indent) in [
            ("", 17),
            ("short", 17),
            (
                "a sentence that is longer than the room that there is and has to be broken somewhere, more than once, \
              as it is so long that three lines are needed",
                17,
            ),
            (&*"x".repeat(250), 20),
            ("control \u{1b}[31m\ncharacters", 17),
        ] {
            let mut text = " ".repeat(indent);
            wrap(&mut text, words, indent);
            assert!(text.lines().all(|l| l.chars().count() <= COLUMNS), "{words}: {text}");
            let letters =
                |s: &str| s.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect::<String>();
            assert_eq!(letters(&text), letters(words));
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }

    #[test]
    fn the_worst_line_decides() {
        let mut report = Report::default();
        report.ok("cpu", "fine");
        let fault = || Fault::new(Id::Clock, "t", "f");
        for (level, failed, strict) in
            [(Level::Note, false, false), (Level::Warn, false, true), (Level::Fail, true, true)]
        {
            report.found(level, "clock", fault());
            assert_eq!((report.failed(false), report.failed(true)), (failed, strict), "{level:?}");
            assert_eq!(report.json(true)["exit_status"], u8::from(strict), "{level:?}");
        }
        assert!(report.text(false).contains("1 failed, 1 warned, 1 noted"), "{}", report.text(false));
    }
}
