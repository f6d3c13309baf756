//! Where the time went in the server: what visord's page of metrics gained during a run.

use std::collections::BTreeMap;

use serde::Serialize;

use super::target::Target;
use crate::telemetry::names;

/// Largest page that is read, bytes.
const MAX_PAGE_BYTES: usize = 16 << 20;
/// The stages that are shown: their histograms, and what is observed.
const STAGES: [(&str, &str, &str); 7] = [
    ("request", names::REQUEST_SECONDS, "requests"),
    ("queue", names::QUEUE_SECONDS, "rows"),
    ("decode", names::DECODE_SECONDS, "images"),
    ("preprocess", names::PREPROCESS_SECONDS, "images"),
    ("compute", names::COMPUTE_SECONDS, "batches"),
    ("postprocess", names::POSTPROCESS_SECONDS, "batches"),
    ("batch size", names::BATCH_SIZE, "batches"),
];

/// Sum and count of each histogram, over all its labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page(BTreeMap<&'static str, (f64, f64)>);

impl Stage {
    /// How many were observed, in words.
    #[must_use]
    pub fn observations(&self) -> String {
        format!("{} {}", self.count, self.of)
    }
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// What was observed: requests, rows, images or batches.
    pub of: &'static str,
    /// Observations.
    pub count: u64,
    /// Their mean: milliseconds, and rows for the batch size.
    pub mean: f64,
}

impl Page {
    /// Reads the page.
    ///
    /// # Errors
    /// It cannot be had, or is none of visord's.
    pub async fn fetch(target: &Target) -> Result<Self, String> {
        let path = target.path.as_deref().unwrap_or("/metrics");
        let (status, body) = target.get(path, MAX_PAGE_BYTES).await?;
        if status != 200 {
            return Err(format!("{path} is answered {status}"));
        }
        let text = String::from_utf8_lossy(&body);
        if !text.contains(names::BUILD_INFO) {
            return Err(format!("{path} is no page of visord's metrics: it has no {}", names::BUILD_INFO));
        }
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines().filter(|l| l.starts_with("visord_")) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let name = series.split('{').next().unwrap_or_default();
            let Some((_, key, _)) =
                STAGES.iter().find(|(_, n, _)| name.strip_prefix(n).is_some_and(is_total))
            else {
                continue;
            };
            let value: f64 = value.parse().unwrap_or(0.0);
            let entry = page.0.entry(key).or_default();
            if name.ends_with("_sum") { entry.0 += value } else { entry.1 += value }
        }
        page
    }

    /// Adds what came between `before` and `after`.
    pub fn add_gain(&mut self, before: &Self, after: &Self) {
        for (key, (sum, count)) in &after.0 {
            let (old_sum, old_count) = before.0.get(key).copied().unwrap_or_default();
            let entry = self.0.entry(key).or_default();
            *entry = (entry.0 + sum - old_sum, entry.1 + count - old_count);
        }
    }

    /// The stages that something went through.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        let stage = |(name, key, of): &(&'static str, &str, &'static str)| {
            let (sum, count) = *self.0.get(key)?;
            let unit = if key.ends_with("_seconds") { 1e3 } else { 1.0 };
            (count > 0.0).then(|| Stage { name, of, count: count as u64, mean: sum / count * unit })
        };
        STAGES.iter().filter_map(stage).collect()
    }
}

fn is_total(suffix: &str) -> bool {
    matches!(suffix, "_sum" | "_count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_what_came_in_between() {
        let page = |n: f64| {
            let name = names::QUEUE_SECONDS;
            Page::parse(&format!(
                "# HELP {name} x\n{name}_sum{{model=\"a b\"}} {n}\n{name}_count{{model=\"a b\"}} {}\n\
                 {name}_bucket{{le=\"1\"}} 7\n{name}_sum{{model=\"c\"}} 1\n{name}_count{{model=\"c\"}} 2\nother 1\n",
                10.0 * n
            ))
        };
        let mut gain = Page::default();
        gain.add_gain(&page(1.0), &page(3.0));
        gain.add_gain(&Page::default(), &page(1.0));
        let want = Stage { name: "queue", of: "rows", count: 32, mean: 4.0 / 32.0 * 1e3 };
        assert_eq!(gain.stages(), [want]);
    }
}
