//! The real binary, as a process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::fake::{self, Counters};
use super::{Answer, Client};

/// Longest wait for a state that is sure to come; only a failing test sees it.
const PATIENCE: Duration = Duration::from_secs(60);

/// `visord serve` on the host device of `tests/fake`.
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
    folder: tempfile::TempDir,
    address: Option<SocketAddr>,
    pub counters: Counters,
}

impl Daemon {
    /// Starts it, and waits for nothing. Mistakes of the driver's caller abort it.
    ///
    /// Plans go to a folder of its own, unless `flags` has another. `env` is set last; `@` stands for the folder.
    pub fn spawn(repository: &Path, flags: &[&str], env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let counters = Counters::new(folder.path().join("counters.json"));
        let mut command = super::visord();
        command.args([
            "serve",
            "--http-port",
            "0",
            "--grpc-port",
            "0",
            "--metrics-port",
            "0",
            "--model-repository",
        ]);
        command.arg(repository);
        if !flags.contains(&"--plan-cache") {
            command.arg("--plan-cache").arg(folder.path().join("plans"));
        }
        command.args(flags);
        command.env("LD_LIBRARY_PATH", fake::libraries());
        command.env("VISORD_FAKE_CUDA_STRICT", "1").env("VISORD_FAKE_CUDA_COUNTERS", counters.file());
        command.env_remove("CUDA_VISIBLE_DEVICES");
        for (name, value) in env {
            command.env(name, value.replace('@', folder.path().to_str().unwrap()));
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let to = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = to.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, log, reader: Some(reader), folder, address: None, counters }
    }

    /// Starts it, and waits until it serves or has ended.
    pub fn launch(repository: &Path, flags: &[&str], env: &[(&str, &str)]) -> Self {
        let mut daemon = Self::spawn(repository, flags, env);
        daemon.wait("it serves or ends", |d| d.ended().is_some() || d.ready());
        daemon
    }

    /// Starts it on the TensorRT backend; it must serve.
    #[track_caller]
    pub fn start(repository: &Path, flags: &[&str], env: &[(&str, &str)]) -> Self {
        let flags = [&["--backend", "tensorrt"], flags].concat();
        let mut daemon = Self::launch(repository, &flags, env);
        assert!(daemon.ended().is_none(), "it ended: {:?}\n{}", daemon.ended(), daemon.log());
        daemon
    }

    /// Its own folder, `@` in its environment.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    fn address(&mut self) -> Option<SocketAddr> {
        if self.address.is_none() {
            let log = self.log.lock().unwrap();
            let line = log.lines().find(|l| l.contains("listening"));
            let text = line.and_then(|l| l.split("http=").nth(1)?.split(' ').next());
            self.address = text.and_then(|t| t.parse().ok());
        }
        self.address
    }

    /// Whether it says that it is ready.
    pub fn ready(&mut self) -> bool {
        let Some(address) = self.address() else { return false };
        Client::try_send(address, "GET", "/v2/health/ready").is_some_and(|a| a.status == 200)
    }

    /// Waits for `reached`, which is sure to come.
    #[track_caller]
    pub fn wait(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !reached(self) {
            assert!(start.elapsed() < PATIENCE, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A connection.
    pub fn client(&self) -> Client {
        Client::connect(self.address.expect("it listens"))
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.client().send("POST", path, headers, body)
    }

    /// The value of a metric's line.
    #[track_caller]
    pub fn metric(&self, line: &str) -> f64 {
        let text = self.client().send("GET", "/metrics", &[], b"").text();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
    }

    /// Sends SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
        self.exit()
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn exit(&mut self) -> ExitStatus {
        self.wait("it ends", |d| d.ended().is_some());
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.ended().expect("it has ended")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}
