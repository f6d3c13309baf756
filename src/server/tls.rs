//! TLS through rustls: certificate, key and client CA out of PEM files, read again when they change.
//!
//! Versions 1.2 and 1.3 with ring's cipher suites, session resumption within one set of files, ALPN `h2` before
//! `http/1.1`. What a bad set of files would break stays unbroken: the last good one serves on.

mod expiry;
mod files;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use files::{Credentials, TlsFiles, read_chain, read_key, read_roots};

use crate::telemetry::tls::{HandshakeFailure, TlsMetrics};

/// How often the files are read. A set that changes is used once it has been the same twice, so that a
/// certificate is not tried with the key of the one before.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// What a TLS port needs: the files in use, and where to count.
#[derive(Debug)]
pub struct Tls {
    current: ArcSwap<ServerConfig>,
    metrics: TlsMetrics,
}

impl Tls {
    /// Serves with `credentials`.
    #[must_use]
    pub fn new(credentials: &Credentials, metrics: TlsMetrics) -> Self {
        let tls = Self { current: ArcSwap::new(Arc::clone(&credentials.config)), metrics };
        tls.announce(credentials);
        tls
    }

    /// Shakes hands by `deadline`; `None`, counted, where that fails.
    pub async fn accept(&self, stream: TcpStream, deadline: Instant) -> Option<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let failure = match timeout_at(deadline, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                why(&error)
            }
            Err(_) => HandshakeFailure::Timeout,
        };
        self.metrics.handshake_failed(failure);
        None
    }

    /// Looks at the files until `stop` turns true, and takes up what changes.
    pub async fn keep_current(&self, credentials: Credentials, mut stop: watch::Receiver<bool>) {
        let files = credentials.files;
        let mut used = credentials.contents;
        let mut seen = used.clone();
        let mut tick = tokio::time::interval(READ_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            let read = {
                let files = files.clone();
                tokio::task::spawn_blocking(move || files.read()).await
            };
            let Ok(now) = read else { continue };
            if now == seen && now != used {
                used = now;
                self.take_up(&files, &used);
            } else {
                seen = now;
            }
        }
    }

    fn take_up(&self, files: &TlsFiles, contents: &files::Contents) {
        match Credentials::new(files.clone(), contents.clone()) {
            Ok(credentials) => {
                self.current.store(Arc::clone(&credentials.config));
                self.metrics.reloaded(true);
                self.announce(&credentials);
                tracing::info!(certificate = %files.cert.display(), "TLS files have changed and are in use");
            }
            Err(faults) => {
                self.metrics.reloaded(false);
                for (flag, file, why) in faults {
                    tracing::error!(
                        "{flag} {}: {why}; the TLS files that were read before stay in use",
                        file.display()
                    );
                }
            }
        }
    }

    fn announce(&self, credentials: &Credentials) {
        let Some(expiry) = credentials.expiry else { return };
        self.metrics.expiry(expiry);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if i64::try_from(now.as_secs()).is_ok_and(|now| now >= expiry) {
            let file = credentials.files.cert.display();
            tracing::warn!("--tls-cert {file}: the certificate has expired: clients will refuse it");
        }
    }
}

/// The reason of a failed handshake.
fn why(error: &io::Error) -> HandshakeFailure {
    use HandshakeFailure as F;
    use rustls::Error as E;
    let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<E>()) else { return F::Closed };
    if matches!(error, E::InvalidMessage(_) | E::InappropriateMessage { .. }) {
        F::NotTls
    } else if matches!(error, E::NoCertificatesPresented | E::InvalidCertificate(_)) {
        F::ClientCertificate
    } else if matches!(error, E::AlertReceived(_)) {
        F::Alert
    } else if matches!(error, E::PeerIncompatible(_) | E::NoApplicationProtocol) {
        F::Negotiation
    } else {
        F::Other
    }
}
