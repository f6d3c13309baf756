//! `visord doctor --health URL`: one GET, for probes that run in the container. It opens no library and no file but
//! `--tls-ca`, so that it ends within milliseconds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::args::DoctorArgs;
use crate::server::tls::read_roots;

/// Most of an answer's body that is shown, bytes: the reason why a server is not ready is one line.
const SHOWN_BYTES: usize = 200;

/// Why a server is not healthy, or could not be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Unhealthy {
    /// The command line is wrong.
    Usage(String),
    /// The answer is no 200, or there is none in time; one line.
    Answer(String),
}

/// The parts of a URL that a GET needs.
struct Target {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

/// Asks for `url` as `args` say; blocking, for at most `--timeout-secs`.
///
/// # Errors
/// [`Unhealthy`].
pub fn check(url: &str, args: &DoctorArgs) -> Result<(), Unhealthy> {
    let target = Target::parse(url, args.tls_ca.as_deref()).map_err(Unhealthy::Usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Unhealthy::Answer(format!("{url}: no runtime: {e}")))?;
    let limit = Duration::from_secs(args.timeout_secs);
    let answer = runtime.block_on(async {
        tokio::time::timeout(limit, target.get())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
    });
    // A name that does not resolve keeps a thread of the resolver busy for longer than anyone waits.
    runtime.shutdown_background();
    answer.map_err(|why| Unhealthy::Answer(format!("{url}: {why}")))
}

impl Target {
    fn parse(url: &str, ca: Option<&Path>) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("--health = {url}: {why}; as in http://127.0.0.1:8002/v2/health/ready");
        let uri: Uri = url.parse().map_err(|e| wrong(&format!("is no URL: {e}")))?;
        let tls = match (uri.scheme_str(), ca) {
            (Some("http"), None) => None,
            (Some("http"), Some(_)) => return Err(wrong("is http://, which needs no --tls-ca")),
            (Some("https"), Some(ca)) => Some(connector(ca)?),
            (Some("https"), None) => {
                return Err(wrong(
                    "is https://, which needs --tls-ca, the roots of its certificate; the metrics port answers health \
                     without TLS",
                ));
            }
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("must not have a user in it"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        Ok(Self { host, port, tls, uri })
    }

    async fn get(&self) -> Result<(), String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| format!("cannot connect: {e}"))?;
        let Some(tls) = &self.tls else { return self.ask(stream).await };
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let stream = tls.connect(name, stream).await.map_err(|e| format!("no TLS: {e}"))?;
        self.ask(stream).await
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<(), String> {
        let failed = |e: hyper::Error| format!("no answer in HTTP: {e}");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection);
        let path = self.uri.path_and_query().map_or("/", |p| p.as_str());
        let authority = self.uri.authority().map_or("", |a| a.as_str());
        let request = Request::get(path)
            .header(HOST, authority)
            .header(USER_AGENT, concat!("visord-doctor/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            status => Err(format!("{status}{}", beginning(answer).await)),
        }
    }
}

/// The beginning of an answer's body in one line, with what goes before it; empty where there is none.
async fn beginning(answer: Response<Incoming>) -> String {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < SHOWN_BYTES {
        let Some(Ok(frame)) = body.frame().await else { break };
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    bytes.truncate(SHOWN_BYTES);
    let text = String::from_utf8_lossy(&bytes);
    let line = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|w| !w.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    if line.is_empty() { line } else { format!(": {line}") }
}

fn connector(ca: &Path) -> Result<TlsConnector, String> {
    let roots = read_roots(ca).map_err(|why| format!("--tls-ca = {}: {why}", ca.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_or_refused() {
        for (url, host, port, path) in [
            ("http://127.0.0.1:8002/v2/health/ready", "127.0.0.1", 8002, "/v2/health/ready"),
            ("http://localhost", "localhost", 80, "/"),
            ("http://[::1]:9/a?b=c", "::1", 9, "/a?b=c"),
        ] {
            let target = Target::parse(url, None).unwrap_or_else(|e| panic!("{url}: {e}"));
            let of = target.uri.path_and_query().map(|p| p.as_str());
            assert_eq!((target.host.as_str(), target.port, of), (host, port, Some(path)), "{url}");
        }
        for (url, ca, why) in [
            ("", None, "no URL"),
            ("127.0.0.1:8002/ready", None, "no URL"),
            ("/ready", None, "must begin with http://"),
            ("ftp://a/b", None, "must begin with http://"),
            ("http://user:secret@a/b", None, "must not have a user"),
            ("http://:80/b", None, "names no host"),
            ("http://a b/", None, "no URL"),
            ("https://a/b", None, "needs --tls-ca"),
            ("http://a/b", Some("ca.pem"), "needs no --tls-ca"),
            ("https://a/b", Some("/nonexistent/ca.pem"), "--tls-ca = /nonexistent/ca.pem: cannot be read"),
        ] {
            let error = Target::parse(url, ca.map(Path::new)).err();
            let error = error.unwrap_or_else(|| panic!("{url} was taken"));
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
