//! What the integration tests share: a model repository in a temporary folder, the real `App` on free ports, and
//! a client that sends exactly what it is told.

#![allow(dead_code, reason = "each test binary uses its part of this")]

pub mod daemon;
pub mod fake;
pub mod http2;
pub mod onnx;
pub mod pki;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use visord::app::App;
use visord::cli::{self, Command as Subcommand};
use visord::config::Config;
use visord::problems::Problems;

/// Longest wait for an answer: only a failing test sees it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Backends of this machine.
pub fn backends() -> Vec<&'static str> {
    if openvino_dir().is_some() { vec!["rten", "openvino"] } else { vec!["rten"] }
}

#[allow(clippy::disallowed_methods, reason = "tests find the libraries where `make` puts them")]
pub fn openvino_dir() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/openvino/2026.4.1");
    let dir = std::env::var_os("VISORD_OPENVINO_DIR").map_or(target, PathBuf::from);
    dir.is_dir().then_some(dir)
}

/// A model repository that goes away with the test.
pub struct Repository(tempfile::TempDir);

impl Repository {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds a model of one version.
    pub fn model(self, name: &str, toml: &str, onnx: &[u8]) -> Self {
        self.file(&format!("{name}/model.toml"), toml.as_bytes()).file(&format!("{name}/1/model.onnx"), onnx)
    }

    pub fn file(self, path: &str, bytes: &[u8]) -> Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        self
    }

    /// Serves the repository on `backend` in this process.
    pub fn serve(&self, backend: &str) -> Server {
        self.serve_with(backend, &[])
    }

    pub fn serve_with(&self, backend: &str, flags: &[&str]) -> Server {
        Server::start(self.path(), backend, flags)
    }

    /// Runs the binary on the repository until it ends by itself.
    pub fn run(&self, command: &str, flags: &[&str]) -> Output {
        visord().args([command, "--model-repository"]).arg(self.path()).args(flags).output().unwrap()
    }
}

/// The binary, without the environment's say.
#[allow(
    clippy::disallowed_methods,
    reason = "what the tests' own environment sets must not reach the daemon"
)]
pub fn visord() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_visord"));
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("VISORD_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Both streams of a process that has ended.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A server in this process.
pub struct Server {
    pub runtime: tokio::runtime::Runtime,
    app: Option<App>,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub metrics: SocketAddr,
}

impl Server {
    /// Starts and waits until every model serves.
    pub fn start(repository: &Path, backend: &str, flags: &[&str]) -> Self {
        let repository = repository.to_str().unwrap();
        let mut arguments = vec!["visord", "serve", "--model-repository", repository, "--backend", backend];
        arguments.extend(["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]);
        let openvino = openvino_dir();
        if let Some(dir) = &openvino {
            arguments.extend(["--openvino-dir", dir.to_str().unwrap()]);
        }
        arguments.extend(flags);
        let mut problems = Problems::default();
        let cli = cli::parse(arguments.iter().map(Into::into).collect::<Vec<_>>(), &mut problems).unwrap();
        let Subcommand::Serve(args) = cli.command else { panic!("serve") };
        let config = Config::resolve(*args, &mut problems);
        assert!(problems.0.is_empty(), "{problems:?}");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let app = runtime.block_on(async {
            let mut app = App::start(config).await.unwrap();
            app.loaded().await.unwrap();
            app
        });
        Self { http: app.http, grpc: app.grpc, metrics: app.metrics, app: Some(app), runtime }
    }

    /// Starts the way down; the answer comes when it is done, and says whether every thread has ended.
    pub fn shut_down(&mut self) -> tokio::task::JoinHandle<bool> {
        self.runtime.spawn(self.app.take().expect("a server shuts down once").shut_down())
    }

    pub fn get(&self, path: &str) -> Answer {
        Client::connect(self.http).send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        Client::connect(self.http).send("POST", path, headers, body)
    }

    pub fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post(path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// The value of a metric's line.
    #[track_caller]
    pub fn metric(&self, line: &str) -> f64 {
        let text = self.get("/metrics").text();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(app) = self.app.take() {
            let _ = self.runtime.block_on(app.shut_down());
        }
    }
}

/// One connection.
pub struct Client(BufReader<TcpStream>);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends a request with that body and reads its answer; the connection stays open.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let whole = [head.as_bytes(), b"\r\n", body].concat();
        // A server may answer and close before it has read everything.
        let _ = self.raw(&whole);
        self.answer().unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// A request without a body on a connection of its own; `None` where nobody answers.
    pub fn try_send(address: SocketAddr, method: &str, path: &str) -> Option<Answer> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut client = Self(BufReader::new(stream));
        client.raw(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).ok()?;
        client.answer().ok()
    }

    pub fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Tells the server that nothing more comes.
    pub fn finish(&mut self) {
        let _ = self.0.get_mut().shutdown(std::net::Shutdown::Write);
    }

    /// Reads one answer; an error where the server closes without a whole one.
    pub fn answer(&mut self) -> std::io::Result<Answer> {
        let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(broken)?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None if line == "\r\n" => break,
                None => return Err(broken()),
            }
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        answer.body.resize(answer.header("content-length").map_or(0, |v| v.parse().unwrap()), 0);
        self.0.read_exact(&mut answer.body)?;
        Ok(answer)
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of a 200 as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {}", self.text()))
    }

    /// Expects an error of that status whose text has each of `words`.
    #[track_caller]
    pub fn refused(&self, status: u16, words: &[&str]) {
        let text = self.text();
        assert_eq!(self.status, status, "{text}");
        let document: Value = serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {text}"));
        let error = document["error"].as_str().unwrap_or_else(|| panic!("no error text in {text}"));
        for word in words {
            assert!(error.contains(word), "\"{word}\" is not in {error}");
        }
    }
}

/// Values of one output of a JSON answer, and its shape.
#[track_caller]
pub fn output(answer: &Value, name: &str) -> (Vec<usize>, Vec<f64>) {
    let outputs = answer["outputs"].as_array().unwrap();
    let found =
        outputs.iter().find(|o| o["name"] == name).unwrap_or_else(|| panic!("no output {name} in {answer}"));
    let list = |key: &str| found[key].as_array().unwrap_or_else(|| panic!("no {key} in {found}"));
    let shape = list("shape").iter().map(|v| v.as_u64().unwrap() as usize).collect();
    (shape, list("data").iter().map(|v| v.as_f64().unwrap()).collect())
}

/// A PNG of `width` times `height` pixels; `level` tells each channel of each.
pub fn png(width: u32, height: u32, level: impl Fn(u32, u32, usize) -> u8) -> Vec<u8> {
    let picture =
        image::RgbImage::from_fn(width, height, |x, y| image::Rgb([0, 1, 2].map(|c| level(x, y, c))));
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A multipart form with one file for each of `files`, and its content type.
pub fn form(files: &[&[u8]]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let head =
            format!("--xyz\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{i}.png\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--xyz--\r\n");
    ("multipart/form-data; boundary=xyz".to_owned(), body)
}
