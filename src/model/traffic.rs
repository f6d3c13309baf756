//! `[traffic]` and `[shadow]` in `model.toml`: which versions answer requests, in which shares, and which one runs
//! copies. [`crate::scheduler::traffic`] acts on it.

use std::path::Path;

use super::config::VersionPolicy;
use super::repository;
use crate::problems::{Problems, Section};

/// Largest weight of a version.
pub const MAX_WEIGHT: u64 = 1_000_000;
/// Characters of a sticky header's or parameter's name.
const MAX_NAME: usize = 64;
/// Parameters that mean something in one of the protocols already.
const TAKEN: [&str; 9] = [
    "timeout",
    "priority",
    "output",
    "binary_data_output",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "headers",
    "pipeline.profile",
];

/// `[traffic]` and `[shadow]`. Nothing in it needs a version to be loaded again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficConfig {
    /// Versions with their weights, ascending. Empty: the highest version that is ready answers.
    pub weights: Vec<(u64, u64)>,
    /// Header whose value keeps a client with one version, in lower case.
    pub sticky_header: Option<String>,
    /// Parameter that does so where the header is absent.
    pub sticky_parameter: Option<String>,
    /// The version that runs copies.
    pub shadow: Option<ShadowConfig>,
}

/// `[shadow]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowConfig {
    /// The version that runs copies of requests that others have answered.
    pub version: u64,
    /// Share of those requests that is copied, 0 to 1.
    pub fraction: f64,
    /// Copies that may be in hand at once.
    pub max_requests: usize,
    /// Bytes that their rows and the answers to compare with may take.
    pub max_bytes: usize,
}

impl TrafficConfig {
    /// Every version that is named, with its key in the file and its value there.
    fn named(&self) -> impl Iterator<Item = (u64, String, String)> {
        let weights = self.weights.iter().map(|(v, w)| (*v, format!("traffic.{v}"), w.to_string()));
        let shadow = self.shadow.iter();
        weights.chain(shadow.map(|s| (s.version, "shadow.version".to_owned(), format!("\"{}\"", s.version))))
    }

    /// What is served where the file has `[traffic]` and no `[version_policy]`: exactly the versions that it and
    /// `[shadow]` name, so that a new folder changes nothing before somebody says so.
    #[must_use]
    pub fn policy(&self) -> Option<VersionPolicy> {
        if self.weights.is_empty() {
            return None;
        }
        let mut versions: Vec<u64> = self.named().map(|(v, ..)| v).collect();
        versions.sort_unstable();
        versions.dedup();
        Some(VersionPolicy::Specific(versions))
    }

    /// The key that names `version`, if one does.
    #[must_use]
    pub fn key_of(&self, version: u64) -> Option<String> {
        self.named().find(|(v, ..)| *v == version).map(|(_, key, _)| key)
    }

    /// Checks that the versions named here are among those that `policy` chose out of the folders.
    pub fn check(&self, chosen: &[u64], policy: &VersionPolicy, source: &Path, problems: &mut Problems) {
        let list = chosen.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        for (version, key, value) in self.named().filter(|(v, ..)| !chosen.contains(v)) {
            // A folder that is missing has been reported under the same key.
            if matches!(policy, VersionPolicy::Specific(asked) if asked.contains(&version)) {
                continue;
            }
            let allowed = format!(
                "must be a version that is served, and version_policy chooses {list}; add {version} there, or give \
                 [traffic] and leave version_policy out"
            );
            problems.add(source.display(), &key, value, allowed);
        }
        if let Some(shadow) = &self.shadow
            && self.weights.is_empty()
            && chosen == [shadow.version]
        {
            let allowed = "must leave another version to answer: name it in [traffic], as \"1\" = 100, or serve it \
                           by version_policy";
            problems.add(source.display(), "shadow.version", format!("\"{}\"", shadow.version), allowed);
        }
    }
}

/// Reads both tables out of `model.toml`.
pub(super) fn read(s: &mut Section<'_>) -> TrafficConfig {
    let asked = s.has("traffic");
    let mut config = s.section("traffic", |t| read_traffic(t, asked));
    config.shadow = s.has("shadow").then(|| s.section("shadow", read_shadow)).flatten();
    config
}

fn read_traffic(t: &mut Section<'_>, asked: bool) -> TrafficConfig {
    let (mut weights, mut wrong) = (Vec::new(), false);
    for key in t.keys() {
        if !key.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let weight = t.integer(&key, 0..=MAX_WEIGHT);
        wrong |= weight.is_none();
        match repository::version(&key) {
            Some(version) => weights.extend(weight.map(|w| (version, w))),
            None => t.problem(&key, "", "must be a version: a whole number from 1, without zeros in front"),
        }
    }
    weights.sort_unstable();
    if asked && !wrong && !weights.iter().any(|(_, w)| *w > 0) {
        t.problem("", "", "must give at least one version a weight above 0, as \"1\" = 90");
    }
    let sticky_header = t.string("sticky_header").map(str::to_ascii_lowercase);
    if let Some(name) = sticky_header.as_deref().filter(|n| !is_name(n)) {
        t.problem("sticky_header", format!("\"{name}\""), NAME_RULE);
    }
    let sticky_parameter = t.string("sticky_parameter").map(str::to_owned);
    if let Some(name) = sticky_parameter.as_deref() {
        if !is_name(name) {
            t.problem("sticky_parameter", format!("\"{name}\""), NAME_RULE);
        } else if TAKEN.contains(&name) || name.starts_with("image") || name.starts_with("triton_") {
            let allowed = format!(
                "must be none of {}, nor start with image or triton_: these mean something else",
                TAKEN.join(", ")
            );
            t.problem("sticky_parameter", format!("\"{name}\""), allowed);
        }
    }
    TrafficConfig { weights, sticky_header, sticky_parameter, shadow: None }
}

const NAME_RULE: &str = "must be 1 to 64 letters, digits, '_', '-' and '.'";

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(allowed)
}

fn read_shadow(s: &mut Section<'_>) -> Option<ShadowConfig> {
    let text = s.string("version");
    let version = text.and_then(repository::version);
    match (text, version) {
        (Some(text), None) => {
            s.problem("version", format!("\"{text}\""), "must be a version, as \"2\"");
        }
        (None, None) if !s.has("version") => s.problem("version", "", "must be given, as version = \"2\""),
        (None | Some(_), _) => {}
    }
    let given = s.has("fraction");
    let fraction = s.number("fraction", 0.0..=1.0);
    if !given {
        s.problem("fraction", "", "must be given: the share of requests that is copied, 0 to 1");
    }
    let max_requests = s.integer("max_requests", 1..=1024).map_or(8, |v| v as usize);
    let max_bytes = s.integer("max_bytes", 1..=1 << 40).map_or(16 << 20, |v| v as usize);
    Some(ShadowConfig { version: version?, fraction: fraction?, max_requests, max_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (TrafficConfig, Vec<String>) {
        let table: toml::Table = text.parse().unwrap();
        let mut problems = Problems::default();
        let mut section = Section::new(Path::new("m.toml"), &table, &mut problems);
        let config = read(&mut section);
        section.finish();
        (config, problems.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn both_tables() {
        let text = "[traffic]\n\"10\" = 10\n2 = 90\nsticky_header = \"X-User-Id\"\nsticky_parameter = \"user_id\"\n\
                    [shadow]\nversion = \"3\"\nfraction = 0.25\nmax_requests = 2\nmax_bytes = 1000\n";
        let (config, problems) = parse(text);
        assert_eq!(problems, [""; 0]);
        let want = TrafficConfig {
            weights: vec![(2, 90), (10, 10)],
            sticky_header: Some("x-user-id".to_owned()),
            sticky_parameter: Some("user_id".to_owned()),
            shadow: Some(ShadowConfig { version: 3, fraction: 0.25, max_requests: 2, max_bytes: 1000 }),
        };
        assert_eq!(config, want);
        assert_eq!(config.policy(), Some(VersionPolicy::Specific(vec![2, 3, 10])));
        let (config, problems) = parse("[shadow]\nversion = \"2\"\nfraction = 1\n");
        assert_eq!(problems, [""; 0]);
        assert_eq!((config.policy(), config.shadow.map(|s| s.fraction)), (None, Some(1.0)));
        assert_eq!(parse("").0, TrafficConfig::default());
    }

    #[test]
    fn mistakes() {
        let cases = [
            ("[traffic]\n", "traffic: must give at least one version a weight above 0"),
            ("[traffic]\n1 = 0\n", "traffic: must give at least one version a weight above 0"),
            ("[traffic]\n1 = 1000001\n", "traffic.1 = 1000001: must be an integer from 0 to 1000000"),
            ("[traffic]\n1 = -1\n", "traffic.1 = -1: must be an integer"),
            ("[traffic]\n1 = 0.5\n2 = 1\n", "traffic.1 = 0.5: must be an integer"),
            ("[traffic]\n01 = 1\n2 = 1\n", "traffic.01: must be a version"),
            ("[traffic]\n0 = 1\n2 = 1\n", "traffic.0: must be a version"),
            (
                "[traffic]\n99999999999999999999 = 1\n2 = 1\n",
                "traffic.99999999999999999999: must be a version",
            ),
            (
                "[traffic]\nlatest = 1\n2 = 1\n",
                "traffic.latest = 1: unknown key; the keys here are: 2, sticky",
            ),
            (
                "[traffic]\n1 = 1\nsticky_header = \"x user\"\n",
                "traffic.sticky_header = \"x user\": must be 1 to",
            ),
            ("[traffic]\n1 = 1\nsticky_header = \"\"\n", "traffic.sticky_header = \"\": must be 1 to"),
            (
                "[traffic]\n1 = 1\nsticky_parameter = \"ä\"\n",
                "traffic.sticky_parameter = \"ä\": must be 1 to",
            ),
            (
                "[traffic]\n1 = 1\nsticky_parameter = \"timeout\"\n",
                "\"timeout\": must be none of timeout, priority",
            ),
            ("[traffic]\n1 = 1\nsticky_parameter = \"image_id\"\n", "\"image_id\": must be none of"),
            ("[shadow]\nfraction = 0.5\n", "shadow.version: must be given"),
            ("[shadow]\nversion = 2\nfraction = 0.5\n", "shadow.version = 2: must be a string"),
            ("[shadow]\nversion = \"02\"\nfraction = 0.5\n", "shadow.version = \"02\": must be a version"),
            ("[shadow]\nversion = \"2\"\n", "shadow.fraction: must be given"),
            (
                "[shadow]\nversion = \"2\"\nfraction = 1.5\n",
                "shadow.fraction = 1.5: must be a number from 0 to 1",
            ),
            (
                "[shadow]\nversion = \"2\"\nfraction = nan\n",
                "shadow.fraction = nan: must be a number from 0 to 1",
            ),
            (
                "[shadow]\nversion = \"2\"\nfraction = 1\nmax_requests = 0\n",
                "shadow.max_requests = 0: must be",
            ),
        ];
        for (text, want) in cases {
            let (_, problems) = parse(text);
            assert!(problems.len() == 1 && problems[0].contains(want), "{text}: {problems:?} is not {want}");
        }
    }
}
