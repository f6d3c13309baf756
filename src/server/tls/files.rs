//! The files of `--tls-cert`, `--tls-key` and `--tls-client-ca`, and what is made of them.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::expiry::expiry;

/// Most that is read of one file, bytes: bundles of every public CA are a quarter of this.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where the PEM files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `--tls-cert`: the server's certificate, then those between it and its root.
    pub cert: PathBuf,
    /// `--tls-key`: its private key.
    pub key: PathBuf,
    /// `--tls-client-ca`: roots of the certificates that clients must show; none asks for none.
    pub client_ca: Option<PathBuf>,
}

/// What stands in the files, or why it cannot be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    cert: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    client_ca: Option<Result<Vec<u8>, String>>,
}

/// The key is nobody's business.
impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

/// A mistake: the flag, its file, and what is wrong.
pub type Fault = (&'static str, PathBuf, String);

/// Files that belong together, ready to serve with.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Where they are.
    pub files: TlsFiles,
    /// What was read.
    pub(super) contents: Contents,
    /// What rustls makes of it.
    pub(super) config: Arc<ServerConfig>,
    /// When the certificate ends, seconds since 1970 in UTC; `None` where that cannot be read.
    pub expiry: Option<i64>,
}

impl TlsFiles {
    /// Reads the files; blocking.
    #[must_use]
    pub fn read(&self) -> Contents {
        Contents {
            cert: read(&self.cert),
            key: read(&self.key),
            client_ca: self.client_ca.as_deref().map(read),
        }
    }

    /// Reads and checks the files; blocking.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(self) -> Result<Credentials, Vec<Fault>> {
        let contents = self.read();
        Credentials::new(self, contents)
    }
}

impl Credentials {
    /// Checks what was read.
    pub(super) fn new(files: TlsFiles, contents: Contents) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut note = |flag, file: &Path, why: String| faults.push((flag, file.to_owned(), why));
        let chain = contents
            .cert
            .as_deref()
            .map_err(Clone::clone)
            .and_then(certificates)
            .map_err(|why| note("--tls-cert", &files.cert, why));
        let key = contents
            .key
            .as_deref()
            .map_err(Clone::clone)
            .and_then(key)
            .map_err(|why| note("--tls-key", &files.key, why));
        let roots = match (&files.client_ca, &contents.client_ca) {
            (Some(file), Some(pem)) => pem
                .as_deref()
                .map_err(Clone::clone)
                .and_then(roots)
                .map(Some)
                .map_err(|why| note("--tls-client-ca", file, why)),
            _ => Ok(None),
        };
        let (Ok(chain), Ok(key), Ok(roots)) = (chain, key, roots) else { return Err(faults) };
        let expiry = chain.first().and_then(|leaf| expiry(leaf));
        match server_config(chain, key, roots) {
            Ok(config) => Ok(Self { files, contents, config: Arc::new(config), expiry }),
            Err(error) => Err(vec![refused(&files, &error)]),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no file"));
        }
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)
    });
    match read {
        Ok(n) if n as u64 > MAX_FILE_BYTES => Err(format!("is over {MAX_FILE_BYTES} bytes: no PEM file")),
        Ok(_) => Ok(bytes),
        Err(e) => Err(format!("cannot be read: {e}")),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("is not valid PEM: {e}"))?;
    if chain.is_empty() {
        return Err("holds no certificate; it must be PEM, with BEGIN CERTIFICATE".to_owned());
    }
    Ok(chain)
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (i, certificate) in certificates(pem)?.into_iter().enumerate() {
        let nth = i + 1;
        roots.add(certificate).map_err(|e| format!("certificate {nth} in it cannot be a root: {e}"))?;
    }
    Ok(roots)
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| no_key(&e))
}

/// The roots in a PEM file; blocking.
///
/// # Errors
/// Why they cannot be used, without the file's name.
pub fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    roots(&read(path)?)
}

/// The certificates in a PEM file, in their order; blocking.
///
/// # Errors
/// Why they cannot be used, without the file's name.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(&read(path)?)
}

/// The private key in a PEM file; blocking.
///
/// # Errors
/// Why it cannot be used, without the file's name.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    key(&read(path)?)
}

fn no_key(error: &pem::Error) -> String {
    if matches!(error, pem::Error::NoItemsFound) {
        "holds no private key; it must be PEM, with BEGIN PRIVATE KEY, BEGIN RSA PRIVATE KEY or BEGIN EC PRIVATE \
         KEY, and not encrypted"
            .to_owned()
    } else {
        format!("is not valid PEM: {error}")
    }
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Option<RootCertStore>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match roots {
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn refused(files: &TlsFiles, error: &rustls::Error) -> Fault {
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        ("--tls-key", files.key.clone(), format!("is not the key of --tls-cert {}", files.cert.display()))
    } else if matches!(error, rustls::Error::InvalidCertificate(_)) {
        ("--tls-cert", files.cert.clone(), format!("its first certificate cannot be used: {error}"))
    } else {
        ("--tls-key", files.key.clone(), format!("cannot be used: {error}; RSA, ECDSA and Ed25519 keys can"))
    }
}
