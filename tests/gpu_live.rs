//! Models that come, change and go on a GPU, on the host device of `tests/fake`: nobody notices, and nothing is left.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::common::daemon::Daemon;
use crate::common::onnx::{self, Pixels};
use crate::common::{Client, Repository, png};

/// Longest wait for answers: only a failing test sees it.
const PATIENCE: Duration = Duration::from_secs(30);

const EXPLICIT: [&str; 4] = ["--model-control-mode", "explicit", "--load-model", "m"];

/// Without measuring which decoder is the fastest, which takes a second.
const TOML: &str = "max_batch_size = 4\n[image]\ndecoder = \"hybrid\"\n";

fn repository() -> Repository {
    Repository::new().model("m", TOML, &onnx::classifier(Pixels::Nchw, 1.0))
}

#[track_caller]
fn control(client: &mut Client, what: &str) {
    let answer = client.send("POST", &format!("/v2/repository/models/m/{what}"), &[], b"");
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
}

fn ask(client: &mut Client) -> u16 {
    let picture = png(30, 26, |x, y, c| ((x * 31 + y * 17) * (c as u32 + 2) % 256) as u8);
    client.send("POST", "/v1/models/m/infer", &[("Content-Type", "image/png")], &picture).status
}

#[test]
fn what_was_unloaded_leaves_nothing_on_the_device() {
    let repository = repository();
    let mut daemon = Daemon::start(repository.path(), &EXPLICIT, &[]);
    let mut client = daemon.client();
    let mut cycles = |count: u32| {
        for _ in 0..count {
            control(&mut client, "load");
            assert_eq!(ask(&mut client), 200);
            control(&mut client, "unload");
            assert_eq!(ask(&mut client), 503);
        }
        daemon.counters.read()
    };
    let before = cycles(3);
    let after = cycles(20);
    for name in
        ["device_bytes", "host_bytes", "live_streams", "live_events", "live_graphs_and_modules", "mistakes"]
    {
        assert_eq!(after.get(name), before.get(name), "{name}\n{before:#?}\n{after:#?}");
    }
    assert!(after.since(&before, "device_allocations") >= 20, "it was not loaded on the device: {after:#?}");
    assert!(daemon.stop().success(), "{}", daemon.log());
}

#[test]
fn a_reload_under_load_fails_nobody() {
    let repository = repository();
    let daemon = Daemon::start(repository.path(), &EXPLICIT, &[]);
    let (done, answered, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let mut senders: Vec<Client> = (0..3).map(|_| daemon.client()).collect();
    std::thread::scope(|scope| {
        for client in &mut senders {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let count = if ask(client) == 200 { &answered } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut client = daemon.client();
        for reload in 1..=10 {
            let toml = format!("{TOML}[model_warmup]\ncount = {reload}\n");
            std::fs::write(repository.path().join("m/model.toml"), toml).unwrap();
            let before = answered.load(Ordering::Relaxed);
            control(&mut client, "load");
            // The version that is new has answered somebody before the next one takes its place.
            let start = Instant::now();
            while answered.load(Ordering::Relaxed) < before + 6 && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.into_inner(), 0, "{}", daemon.log());
    assert_eq!(daemon.metric(r#"visord_model_loads_total{model="m",outcome="success"}"#), 11.0);
    assert_eq!(daemon.counters.read().get("mistakes"), 0);
}
