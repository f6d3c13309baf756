//! Where a server is, and connections to it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::HOST;
use hyper::rt::{Read, Write};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::args::{BenchArgs, HttpVersion};
use super::failure::{Failure, Kind};
use crate::server::tls::{read_chain, read_key, read_roots};

/// Largest head of an answer, bytes: what visord itself takes of a request is a quarter of this.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// HTTP/2's flow control: what a server may send ahead on a stream and on a connection, bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// What requests are made of.
pub type Body = Full<Bytes>;

/// A server's address, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host and port as they stand in the URL.
    pub authority: String,
    /// The URL's path where it has one.
    pub path: Option<String>,
    /// What the host's name stands for; connections try one after the other.
    pub addresses: Vec<SocketAddr>,
    /// Version of HTTP.
    pub http: HttpVersion,
    /// With https.
    pub tls: Option<Tls>,
}

/// What a TLS handshake needs.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Target {
    /// Takes a URL apart and looks its host up; blocking.
    ///
    /// # Errors
    /// A URL that is none, a host that is not known, PEM files that cannot be used.
    pub fn new(url: &str, http: HttpVersion, args: &BenchArgs) -> Result<Self, String> {
        let text = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = text.parse().map_err(|e| format!("{url}: {e}; http://HOST:PORT is wanted"))?;
        let (scheme, port) = match uri.scheme_str() {
            Some("http") => ("http", 80),
            Some("https") => ("https", 443),
            other => return Err(format!("{url}: {} is neither http nor https", other.unwrap_or_default())),
        };
        let authority = uri.authority().ok_or_else(|| format!("{url}: no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(port);
        let addresses: Vec<SocketAddr> = std::net::ToSocketAddrs::to_socket_addrs(&(host, port))
            .map_err(|e| format!("{url}: the host {host} is not found: {e}"))?
            .collect();
        if addresses.is_empty() {
            return Err(format!("{url}: the host {host} has no address"));
        }
        let path = uri.path_and_query().map(|p| p.as_str().to_owned()).filter(|p| p != "/");
        let tls = match scheme {
            "https" => Some(Tls::new(host, http, args)?),
            _ => None,
        };
        Ok(Self { scheme, authority: authority.to_string(), path, addresses, http, tls })
    }

    /// Opens a connection, and starts the task that drives it, on this thread.
    ///
    /// # Errors
    /// [`Kind::Connect`].
    pub async fn connect(&self) -> Result<Sender, Failure> {
        let failed =
            |what: &str, e: &dyn std::fmt::Display| Failure::new(Kind::Connect, format!("{what}: {e}"));
        let mut last = None;
        for address in &self.addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Small requests would wait for the acknowledgement of those before.
                    stream.set_nodelay(true).map_err(|e| failed("TCP_NODELAY", &e))?;
                    let Some(tls) = &self.tls else { return self.shake(TokioIo::new(stream)).await };
                    let connector = TlsConnector::from(Arc::clone(&tls.config));
                    let stream =
                        connector.connect(tls.name.clone(), stream).await.map_err(|e| failed("TLS", &e))?;
                    let chosen = stream.get_ref().1.alpn_protocol();
                    if self.http == HttpVersion::V2 && chosen != Some(b"h2") {
                        return Err(Failure::new(Kind::Connect, "TLS: the server does not speak HTTP/2"));
                    }
                    return self.shake(TokioIo::new(stream)).await;
                }
                Err(e) => last = Some(failed(&address.to_string(), &e)),
            }
        }
        Err(last.unwrap_or_else(|| Failure::new(Kind::Connect, "no address")))
    }

    async fn shake(&self, io: impl Read + Write + Unpin + 'static) -> Result<Sender, Failure> {
        let failed = |e: hyper::Error| Failure::new(Kind::Connect, format!("{}: {e}", self.authority));
        match self.http {
            HttpVersion::V1 => {
                let (sender, connection) =
                    http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(io).await.map_err(failed)?;
                tokio::task::spawn_local(connection);
                Ok(Sender::V1(sender))
            }
            HttpVersion::V2 => {
                let (sender, connection) = http2::Builder::new(Local)
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_header_list_size(MAX_HEAD_BYTES as u32)
                    .handshake(io)
                    .await
                    .map_err(failed)?;
                tokio::task::spawn_local(connection);
                Ok(Sender::V2(sender))
            }
        }
    }

    /// GETs `path` on a connection of its own: status and body, which has at most `max_bytes`.
    ///
    /// # Errors
    /// What kept the answer from coming.
    pub async fn get(&self, path: &str, max_bytes: usize) -> Result<(u16, Bytes), String> {
        let mut sender = self.connect().await.map_err(|e| e.text)?;
        let request = Request::get(path).header(HOST, &self.authority).body(Body::default());
        let answer = sender.send(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), max_bytes).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    }
}

impl Tls {
    fn new(host: &str, http: HttpVersion, args: &BenchArgs) -> Result<Self, String> {
        let name = args.tls_server_name.as_deref().unwrap_or(host).to_owned();
        let name =
            ServerName::try_from(name.clone()).map_err(|e| format!("--tls-server-name {name}: {e}"))?;
        let wrong = |flag: &str, file: &Path, why: &dyn std::fmt::Display| {
            format!("{flag} {}: {why}", file.display())
        };
        let roots = match &args.tls_ca {
            Some(file) => read_roots(file).map_err(|why| wrong("--tls-ca", file, &why))?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err("this system has no root certificates: --tls-ca names a file".to_owned());
                }
                roots
            }
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let mut config = match (&args.tls_cert, &args.tls_key) {
            (Some(cert), Some(file)) => {
                let chain = read_chain(cert).map_err(|why| wrong("--tls-cert", cert, &why))?;
                let key = read_key(file).map_err(|why| wrong("--tls-key", file, &why))?;
                builder.with_client_auth_cert(chain, key).map_err(|e| wrong("--tls-key", file, &e))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![match http {
            HttpVersion::V1 => b"http/1.1".to_vec(),
            HttpVersion::V2 => b"h2".to_vec(),
        }];
        Ok(Self { config: Arc::new(config), name })
    }
}

/// Runs what a connection needs on the thread that opened it.
#[derive(Debug, Clone, Copy)]
pub struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// The sending end of a connection.
#[derive(Debug)]
pub enum Sender {
    /// One request at a time.
    V1(http1::SendRequest<Body>),
    /// Any number; clones share the connection.
    V2(http2::SendRequest<Body>),
}

impl Sender {
    /// Whether the other end has gone.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::V1(sender) => sender.is_closed(),
            Self::V2(sender) => sender.is_closed(),
        }
    }

    /// Waits until the connection takes a request.
    ///
    /// # Errors
    /// It is closed.
    pub async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::V1(sender) => sender.ready().await,
            Self::V2(sender) => sender.ready().await,
        }
    }

    /// Sends a request; done when the answer's head is here.
    ///
    /// # Errors
    /// What hyper says.
    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::V1(sender) => sender.send_request(request).await,
            Self::V2(sender) => sender.send_request(request).await,
        }
    }
}
