//! Looks at libraries in processes of their own: this very program with `--probe`. A library that aborts, or never
//! comes back, is then a finding, and not the end of the doctor.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::Part;
use super::finding::{Fault, Id};
use crate::process::exit;

/// Before the answer, on a line of its own: libraries print too.
const ANSWER: &str = "visord-doctor-answer: ";
/// Most that is read of each of a child's streams, bytes.
const MAX_OUTPUT_BYTES: u64 = 8 << 20;
/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);
/// How long the streams of a child that has ended may stay open: something that it started may hold them.
const DRAIN: Duration = Duration::from_secs(1);

/// How this process was called, for its children.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its arguments, without the program.
    pub arguments: Vec<OsString>,
    /// Longest time for each child.
    pub limit: Duration,
}

impl Caller {
    /// Has a child look at `part`; blocking.
    ///
    /// # Errors
    /// A fault that names the signal, or the last line that the child wrote.
    pub fn ask<T: DeserializeOwned>(&self, part: Part) -> Result<T, Fault> {
        let name = part.name();
        let failed = |why: String| {
            Fault::new(
                Id::ProbeFailed,
                format!("{name} could not be looked at: {why}"),
                "run `visord doctor` as the user that runs `visord serve`, where processes can be started",
            )
        };
        let program = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
        let mut child = Command::new(program)
            .args(&self.arguments)
            .args(["--probe", name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let (stdout, stderr) = (child.stdout.take().map(read), child.stderr.take().map(read));
        let start = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if start.elapsed() < self.limit => std::thread::sleep(POLL),
                ended => {
                    let _ = child.kill();
                    let _ = child.wait();
                    let Err(e) = ended else { return Err(self.hung(name)) };
                    return Err(failed(e.to_string()));
                }
            }
        };
        let text = |stream: Option<Receiver<String>>| {
            stream.and_then(|s| s.recv_timeout(DRAIN).ok()).unwrap_or_default()
        };
        let (stdout, stderr) = (text(stdout), text(stderr));
        if !status.success() {
            return Err(crashed(name, status, &stderr));
        }
        let answer = stdout.lines().find_map(|line| line.strip_prefix(ANSWER));
        let answer = answer.ok_or_else(|| failed("its process gave no answer".to_owned()))?;
        serde_json::from_str(answer).map_err(|e| failed(e.to_string()))
    }

    fn hung(&self, name: &str) -> Fault {
        Fault::new(
            Id::ProbeHung,
            format!("{name}: a look at it did not end within {} s", self.limit.as_secs()),
            "look at the kernel's log and `nvidia-smi`; --probe-timeout-secs allows a slow disk more time",
        )
    }
}

/// Reads a stream to its end on a thread of its own, so that no child waits for it.
fn read(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut stream = BufReader::new(stream);
        let _ = (&mut stream).take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        // The rest is not kept, and must not block the child.
        while stream.fill_buf().is_ok_and(|b| !b.is_empty()) {
            let n = stream.buffer().len();
            stream.consume(n);
        }
    });
    receiver
}

fn crashed(name: &str, status: ExitStatus, stderr: &str) -> Fault {
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => signal_name(signal).map_or(format!("signal {signal}"), str::to_owned),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => status.to_string(),
    };
    let last = stderr.lines().map(str::trim).rfind(|l| !l.is_empty());
    let last = last
        .map_or(String::new(), |l| format!("; its last words: {}", l.chars().take(300).collect::<String>()));
    Fault::new(
        Id::ProbeCrashed,
        format!("{name}: it brings its process down with {how}{last}"),
        "`visord serve` would go down the same way: install the library anew, in a version that fits the driver, or \
         choose another --backend",
    )
}

/// The signals that end a process by its own fault, or by the kernel's. **Source:** signal(7).
fn signal_name(signal: i32) -> Option<&'static str> {
    let known = [
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (15, "SIGTERM"),
        (31, "SIGSYS"),
    ];
    known.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

/// Ends a child with its answer. Destructors of libraries do not run: some crash.
pub fn answer(value: &impl Serialize) -> ! {
    let text = serde_json::to_string(value).unwrap_or_default();
    // A library may have left a line unfinished.
    let _ = write!(std::io::stdout(), "\n{ANSWER}{text}\n");
    exit(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_child_is_named() {
        for (raw, want) in
            [(6, "with SIGABRT"), (11, "with SIGSEGV"), (40, "with signal 40"), (101 << 8, "exit status 101")]
        {
            let fault = crashed("gpu", ExitStatus::from_raw(raw), "one\n\nlast line\n \n");
            assert!(fault.text.contains(want) && fault.text.ends_with("last line"), "{raw}: {}", fault.text);
        }
    }
}
