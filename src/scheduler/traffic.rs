//! Which version of a model answers a request.
//!
//! A [`Traffic`] is made when a version's state or the configuration changes, and holds all that a choice needs: a
//! request takes one `Arc` of it, draws a point on the versions' weights laid end to end, and allocates nothing.
//! The point comes from the request's sticky key where it has one, so that a key stays with its version, else from
//! a sequence that fills the range evenly. `docs/ab-testing.md` has the formula.

mod chosen;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use metrics::Counter;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::registry::VersionState;
use super::served::ServedModel;
use super::shadow::Shadow;
use crate::model::config::ModelConfig;

pub use chosen::{Chosen, Target};

/// Header of HTTP answers, and initial metadata of gRPC ones, that names the version that answered:
/// [`ServedModel::label`], as `ArcFace/2`.
pub const MODEL_VERSION: &str = "visord-model-version";

/// Bytes of a sticky key that count: hashing longer ones would let a client choose how long it takes.
pub const MAX_KEY_BYTES: usize = 256;

/// 2^64 divided by the golden ratio, odd. Multiples of it, modulo 2^64, fill every interval evenly: after n of them,
/// an interval of share w holds n·w of them, give or take 4 (counted: for n up to 200,000 at most 2.8). Unlike
/// turns taken in order, every second, third, … of them does so too, so that a client's own rhythm does not favour
/// a version.
pub(super) const GOLDEN_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a request offers to be recognised by, so that one user's requests stay with one version.
pub trait Sticky {
    /// A header of HTTP, or metadata of gRPC; the first of that name that is text.
    fn header(&self, name: &str) -> Option<&str>;
    /// A parameter of the request: of the query, of the protocol's `parameters`, or a key of PaddleServing.
    fn parameter(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// Where a sticky key lies: the first 8 bytes, big-endian, of the SHA-256 of its first [`MAX_KEY_BYTES`] bytes.
/// SHA-256, because every language and database can compute it; the longest key is five of its blocks.
#[must_use]
pub fn key_hash(key: &str) -> u64 {
    let bytes = &key.as_bytes()[..key.len().min(MAX_KEY_BYTES)];
    let digest = Sha256::digest(bytes);
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Maps 0..2^64 to 0..`total`, keeping order.
fn scale(draw: u64, total: u64) -> u64 {
    ((u128::from(draw) * u128::from(total)) >> 64) as u64
}

/// What outlives a change of the configuration: sequences go on where they were, and what is in hand still counts.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Choices made without a key.
    drawn: AtomicU64,
    /// Requests that could have been copied.
    pub sampled: AtomicU64,
    /// Copies in hand, and their bytes.
    pub copies: AtomicUsize,
    pub copied_bytes: AtomicUsize,
}

/// How the requests of one model are divided among its versions.
#[derive(Debug)]
pub struct Traffic {
    model: String,
    /// Versions that answer requests which name none, ascending.
    shares: Box<[Share]>,
    /// Sum of the weights; 0 where the highest ready version answers.
    total: u64,
    sticky_header: Option<Box<str>>,
    sticky_parameter: Option<Box<str>>,
    shadow: Option<Arc<Shadow>>,
    kept: Arc<Kept>,
}

/// One version's part.
#[derive(Debug)]
struct Share {
    version: u64,
    weight: u64,
    /// `None` while it is not loaded.
    served: Option<Arc<ServedModel>>,
    /// Counts requests that were its own and that others answered.
    fallbacks: Counter,
    /// Said in the log already.
    down: AtomicBool,
}

impl Share {
    fn ready(&self) -> Option<&Arc<ServedModel>> {
        self.served.as_ref().filter(|s| s.ready())
    }
}

impl Traffic {
    /// Divides requests as `config` says among what is there; `before` is what this one takes the place of.
    #[must_use]
    pub fn new(config: &ModelConfig, versions: &BTreeMap<u64, VersionState>, before: Option<&Self>) -> Self {
        let served = |version: &u64| match versions.get(version) {
            Some(VersionState::Ready(served)) => Some(Arc::clone(served)),
            Some(
                VersionState::Loading
                | VersionState::Unloading
                | VersionState::Unloaded
                | VersionState::Unavailable(_),
            )
            | None => None,
        };
        let traffic = &config.traffic;
        let telemetry = versions.keys().find_map(served).map(|s| s.metrics.telemetry().clone());
        let share = |version: u64, weight: u64| {
            let served = served(&version);
            let fallbacks = match &telemetry {
                Some(telemetry) if weight > 0 => telemetry.traffic_fallbacks(&config.name, version),
                Some(_) | None => Counter::noop(),
            };
            Share { version, weight, served, fallbacks, down: AtomicBool::new(false) }
        };
        let shadow = traffic.shadow.as_ref();
        let shares: Box<[Share]> = if traffic.weights.is_empty() {
            let answering = versions.keys().filter(|v| shadow.is_none_or(|s| s.version != **v));
            answering.map(|v| share(*v, 0)).collect()
        } else {
            traffic.weights.iter().filter(|(_, w)| *w > 0).map(|(v, w)| share(*v, *w)).collect()
        };
        let kept = before.map_or_else(Arc::default, |b| Arc::clone(&b.kept));
        let shadow = shadow.and_then(|s| {
            let answering = shares.iter().map(|a| a.version).filter(|v| *v != s.version);
            Some(Arc::new(Shadow::new(s, served(&s.version)?, &kept, answering)))
        });
        if let Some(telemetry) = &telemetry {
            let total: u64 = shares.iter().map(|s| s.weight).sum();
            let divided = before.filter(|b| b.total > 0).map_or(&[][..], |b| &b.shares);
            let gone = divided.iter().map(|s| (s.version, 0));
            let gone = gone.filter(|(version, _)| traffic.weights.iter().all(|(v, _)| v != version));
            for (version, weight) in gone.chain(traffic.weights.iter().copied()) {
                let share = if weight > 0 { weight as f64 / total as f64 } else { 0.0 };
                telemetry.traffic_share(&config.name, version, share);
            }
        }
        Self {
            model: config.name.clone(),
            total: shares.iter().map(|s| s.weight).sum(),
            shares,
            sticky_header: traffic.sticky_header.as_deref().map(Into::into),
            sticky_parameter: traffic.sticky_parameter.as_deref().map(Into::into),
            shadow,
            kept,
        }
    }

    /// Whether `version` may answer a request that names none.
    #[must_use]
    pub fn answers(&self, version: u64) -> bool {
        self.shares.iter().any(|s| s.version == version)
    }

    /// The highest ready version of those that may answer a request that names none.
    #[must_use]
    pub fn highest(&self) -> Option<&Arc<ServedModel>> {
        self.shares.iter().rev().find_map(Share::ready)
    }

    /// The version that answers this request, its fair share of the weights considered. `None` where none of them
    /// is loaded.
    fn pick(&self, by: &dyn Sticky) -> Option<&Arc<ServedModel>> {
        if self.total == 0 {
            return self.highest().or_else(|| self.shares.iter().rev().find_map(|s| s.served.as_ref()));
        }
        let draw = self.draw(by);
        let share = at(self.shares.iter(), scale(draw, self.total))?;
        if let Some(served) = share.ready() {
            if share.down.load(Relaxed) && share.down.swap(false, Relaxed) {
                tracing::info!(
                    model = self.model,
                    version = share.version,
                    "ready again; it has its share back"
                );
            }
            return Some(served);
        }
        let ready: SmallVec<[&Share; 8]> = self.shares.iter().filter(|s| s.ready().is_some()).collect();
        let total = ready.iter().map(|s| s.weight).sum();
        // The other half of the draw: the first has just shown which part of the range it is in.
        let instead = at(ready.into_iter(), scale(draw.rotate_left(32), total));
        let Some(instead) = instead.and_then(|s| s.served.as_ref()) else {
            return share.served.as_ref().or_else(|| self.shares.iter().find_map(|s| s.served.as_ref()));
        };
        share.fallbacks.increment(1);
        if !share.down.swap(true, Relaxed) {
            tracing::warn!(
                model = self.model,
                version = share.version,
                "not ready; the other versions in [traffic] answer its share of the requests"
            );
        }
        Some(instead)
    }

    /// A point in 0..2^64: the key's, or the next of the even sequence.
    fn draw(&self, by: &dyn Sticky) -> u64 {
        let header = self.sticky_header.as_deref().and_then(|name| by.header(name));
        if let Some(key) = header.filter(|key| !key.is_empty()) {
            return key_hash(key);
        }
        let parameter = self.sticky_parameter.as_deref().and_then(|name| by.parameter(name));
        if let Some(key) = parameter.filter(|key| !key.is_empty()) {
            return key_hash(&key);
        }
        self.kept.drawn.fetch_add(1, Relaxed).wrapping_mul(GOLDEN_STEP)
    }
}

/// The share that `point` of the weights, laid end to end, falls into.
fn at<'a>(mut shares: impl Iterator<Item = &'a Share>, point: u64) -> Option<&'a Share> {
    let mut end = 0;
    shares.find(|share| {
        end += share.weight;
        point < end
    })
}
