//! The note beside each plan: in the clear, all that its key is the hash of, and how to make the plan again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest note that is read, bytes: a thousand files of weights still fit.
pub(super) const MAX_NOTE_BYTES: u64 = 1 << 20;

/// `<plan>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The model's name.
    pub model: String,
    /// Its version.
    pub version: u64,
    /// SHA-256 over `built_from`, in hexadecimal.
    pub key: String,
    /// Everything that the plan depends on.
    pub built_from: Value,
    /// The plan's length.
    pub size_bytes: u64,
    /// SHA-256 of the plan, in hexadecimal.
    pub sha256: String,
    /// How long the build took.
    pub build_seconds: f64,
    /// When it ended, UTC.
    pub built_at: String,
    /// What built it.
    pub visord: String,
    /// Makes it again.
    pub command: String,
    /// Why it was set aside, and when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rejected: Option<Rejection>,
}

/// Why a plan was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rejection {
    /// In words.
    pub reason: String,
    /// When, UTC.
    pub at: String,
}

impl Note {
    /// The note as it is written: indented, for people.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// Now, as RFC 3339 has it: `2026-11-22T11:05:32Z`.
pub(super) fn now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn utc(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

/// One word of a shell command.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        // From `date -u -d @SECONDS +%FT%TZ`.
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(Duration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_take_it_apart() {
        for (word, want) in
            [("a/b.c", "a/b.c"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$x", "'$x'")]
        {
            assert_eq!(quoted(word), want);
        }
    }
}
