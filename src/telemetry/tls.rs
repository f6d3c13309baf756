//! What TLS records.

use metrics::{Counter, Gauge, Label};

use super::metrics::Telemetry;
use super::names;

/// Why a handshake failed; the `reason` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// It took longer than `--header-read-timeout-secs`.
    Timeout,
    /// The client closed, as port scanners and some load balancers' checks do.
    Closed,
    /// The client spoke something else, such as HTTP without TLS.
    NotTls,
    /// The client's certificate was missing or not good.
    ClientCertificate,
    /// The client refused, mostly because it does not trust the server's certificate.
    Alert,
    /// No version, cipher suite or ALPN protocol in common.
    Negotiation,
    /// Anything else.
    Other,
}

impl HandshakeFailure {
    /// Every reason, for metrics that must exist at zero.
    pub const ALL: [HandshakeFailure; 7] = [
        Self::Timeout,
        Self::Closed,
        Self::NotTls,
        Self::ClientCertificate,
        Self::Alert,
        Self::Negotiation,
        Self::Other,
    ];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::ClientCertificate => "client_certificate",
            Self::Alert => "alert",
            Self::Negotiation => "negotiation",
            Self::Other => "other",
        }
    }
}

/// The recording side of TLS.
#[derive(Clone)]
pub struct TlsMetrics {
    failures: [Counter; HandshakeFailure::ALL.len()],
    reloads: [Counter; 2],
    expiry: Gauge,
}

impl std::fmt::Debug for TlsMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsMetrics").finish_non_exhaustive()
    }
}

impl TlsMetrics {
    /// Registers everything.
    #[must_use]
    pub fn new(telemetry: &Telemetry) -> Self {
        let counter = |name, key, value| telemetry.counter(name, vec![Label::new(key, value)]);
        Self {
            failures: HandshakeFailure::ALL.map(|f| counter(names::TLS_FAILURES, "reason", f.name())),
            reloads: ["failure", "success"].map(|outcome| counter(names::TLS_RELOADS, "outcome", outcome)),
            expiry: telemetry.gauge(names::TLS_EXPIRY, Vec::new()),
        }
    }

    /// Counts a handshake that failed.
    pub fn handshake_failed(&self, reason: HandshakeFailure) {
        self.failures[reason as usize].increment(1);
    }

    /// Counts files that changed, and whether they could be used.
    pub fn reloaded(&self, good: bool) {
        self.reloads[usize::from(good)].increment(1);
    }

    /// When the certificate in use ends, seconds since 1970.
    pub fn expiry(&self, seconds: i64) {
        self.expiry.set(seconds as f64);
    }
}
