//! Copies of requests: when they run, when they are given up, and that no answer depends on them.

use std::future::Future;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::*;
use crate::error::InferError;
use crate::scheduler::request::{InferRequest, InferResponse};
use crate::scheduler::tests::harness::Verdict;
use crate::telemetry::context::Context;

/// Version 1 answers, version 2 runs copies, and the runtime that copies run on.
struct Pair {
    model: Model,
    runtime: tokio::runtime::Runtime,
}

fn toml(fraction: &str, more: &str) -> String {
    format!("[traffic]\n1 = 100\n[shadow]\nversion = \"2\"\nfraction = {fraction}\n{more}\n")
}

fn request(values: &[i32]) -> InferRequest {
    let rows = values.iter().map(|v| row(&[*v])).collect();
    let arrival = Instant::now();
    InferRequest { rows, priority: 0, timeout: None, arrival, context: Context::unobserved(arrival) }
}

impl Pair {
    fn new(more: &str) -> Self {
        Self::with(&toml("1", more))
    }

    fn with(toml: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { model: Model::new(toml, &[1, 2]), runtime }
    }

    /// Which batch that version has taken next.
    fn take(&self, version: u64) -> Held {
        let batches = &self.model.versions.iter().find(|(v, ..)| *v == version).unwrap().2;
        self.until(|| batches.try_recv().ok(), &format!("version {version} takes a batch"))
    }

    /// Runs what the runtime has to run until `done` has something.
    fn until<T>(&self, mut done: impl FnMut() -> Option<T>, what: &str) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = done() {
                return value;
            }
            assert!(Instant::now() < deadline, "{what}");
            self.runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(1)).await });
        }
    }

    fn served(&self, version: u64) -> Arc<ServedModel> {
        self.model.registry.find("m", Some(&version.to_string())).unwrap()
    }

    fn choose(&self) -> Chosen {
        self.model.registry.target("m", None).unwrap().pick(&NOBODY)
    }

    /// Asks version 1 and has it answer `verdict`; the copy waits for `chosen` to go.
    fn ask(&self, chosen: &Chosen, values: &[i32], verdict: Verdict) -> Result<InferResponse, InferError> {
        let mut future = Box::pin(chosen.infer(request(values), Protocol::Http));
        self.enter(&mut future);
        self.take(1).verdict.send(verdict).unwrap();
        self.runtime.block_on(future)
    }

    /// Polls a request once, which queues it.
    fn enter<F: Future + Unpin>(&self, future: &mut F) {
        let _entered = self.runtime.enter();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::Pin::new(future).poll(&mut context).is_pending());
    }

    fn answered(&self, values: &[i32]) -> Chosen {
        let chosen = self.choose();
        let response = self.ask(&chosen, values, Verdict::Run).unwrap();
        let want: Vec<i32> = values.iter().map(|v| v * 10).collect();
        assert_eq!(harness::ints(&response.outputs[0]), want);
        chosen
    }

    fn in_hand(&self) -> (usize, usize) {
        let models = self.model.registry.models();
        let kept = &models["m"].traffic.kept;
        (kept.copies.load(SeqCst), kept.copied_bytes.load(SeqCst))
    }

    fn line(&self, name: &str, more: &str) -> Option<f64> {
        let line = format!("{name}{{model=\"m\",version=\"1\",shadow=\"2\"{more}}} ");
        let text = self.model.telemetry.render();
        text.lines().find_map(|l| l.strip_prefix(&line)).map(|v| v.parse().unwrap())
    }

    #[track_caller]
    fn shed(&self, reason: &str) {
        let more = format!(",reason=\"{reason}\"");
        let shed = || self.line("visord_shadow_shed_total", &more).filter(|n| *n > 0.0);
        let count = self.until(shed, &format!("a copy is shed because of {reason}"));
        assert!(count == 1.0 && self.in_hand() == (0, 0), "{reason}: {count}, {:?}", self.in_hand());
        let ran = "visord_inference_rows_total{model=\"m\",version=\"2\"}";
        assert_eq!(self.model.metric(ran), 0.0, "{reason}: nothing ran on version 2");
    }
}

#[test]
fn a_copy_runs_after_the_answer_and_is_compared() {
    let p = Pair::new("");
    let chosen = p.answered(&[4, 5]);
    assert_eq!(p.in_hand(), (1, 16), "two rows and two answers of 4 bytes");
    // As long as the answer is being written, nothing happens.
    (0..100).for_each(|_| p.runtime.block_on(tokio::task::yield_now()));
    assert!(p.model.versions[1].2.try_recv().is_err());
    drop(chosen);
    let copy = p.take(2);
    assert_eq!(copy.rows, [4, 5]);
    copy.run();
    p.until(|| (p.in_hand() == (0, 0)).then_some(()), "the copy is done");
    let agree =
        |agree: &str| p.line("visord_shadow_agreement_total", &format!(",output=\"x\",agree=\"{agree}\""));
    assert_eq!((agree("true"), agree("false")), (Some(2.0), None));
    for side in ["primary", "shadow"] {
        let count = p.line("visord_shadow_duration_seconds_count", &format!(",side=\"{side}\""));
        assert_eq!(count, Some(1.0), "{side}");
    }
    for reason in ["requests", "bytes", "queue", "not_ready", "inputs"] {
        let more = format!(",reason=\"{reason}\"");
        assert_eq!(p.line("visord_shadow_shed_total", &more), Some(0.0), "{reason}");
    }
    // It is told apart from what clients asked.
    let requests = |v, protocol| {
        let more = format!("version=\"{v}\",protocol=\"{protocol}\",outcome=\"success\"");
        p.model.metric(&format!("visord_inference_requests_total{{model=\"m\",{more}}}"))
    };
    assert_eq!((requests(1, "http"), requests(1, "shadow")), (1.0, 0.0));
    assert_eq!((requests(2, "http"), requests(2, "shadow")), (0.0, 1.0));
    let text = p.model.telemetry.render();
    let seconds =
        |v| format!("visord_inference_request_duration_seconds_count{{model=\"m\",version=\"{v}\"}} 1");
    assert!(text.contains(&seconds(1)) && !text.contains(&seconds(2)), "{text}");
    assert_eq!(p.served(2).metrics.statistics.success.get().0, 0);
}

#[test]
fn a_copy_is_given_up_under_load() {
    // A row waits for the version that answers.
    let p = Pair::new("");
    let chosen = p.answered(&[1]);
    let one = p.served(1);
    let mut busy = Box::pin(one.infer(request(&[2]), Protocol::Http));
    p.enter(&mut busy);
    let held = p.take(1);
    let mut waiting = Box::pin(one.infer(request(&[3]), Protocol::Http));
    p.enter(&mut waiting);
    assert_eq!(one.pending(), 1);
    drop(chosen);
    p.shed("queue");
    held.run();
    assert!(p.runtime.block_on(busy).is_ok());
    p.take(1).run();
    assert!(p.runtime.block_on(waiting).is_ok());

    // Or for the shadow.
    let p = Pair::new("");
    let two = p.served(2);
    let mut busy = Box::pin(two.infer(request(&[2]), Protocol::Http));
    p.enter(&mut busy);
    let held = p.take(2);
    let mut waiting = Box::pin(two.infer(request(&[3]), Protocol::Http));
    p.enter(&mut waiting);
    drop(p.answered(&[1]));
    p.shed("queue");
    held.run();
    assert!(p.runtime.block_on(busy).is_ok());
    let next = p.take(2);
    assert_eq!(next.rows, [3], "the copy is not behind it");
    next.run();
    assert!(p.runtime.block_on(waiting).is_ok());
}

#[test]
fn copies_are_bounded() {
    let p = Pair::new("max_requests = 1");
    let first = p.answered(&[1]);
    drop(p.answered(&[2]));
    assert_eq!(p.in_hand(), (1, 8), "the first one still has its place");
    assert_eq!(p.line("visord_shadow_shed_total", ",reason=\"requests\""), Some(1.0));
    // A reload in between does not forget it.
    p.model.configure(&toml("1", "max_requests = 1"));
    drop(p.answered(&[3]));
    assert_eq!(p.line("visord_shadow_shed_total", ",reason=\"requests\""), Some(2.0));
    drop(first);
    let copy = p.take(2);
    assert_eq!(copy.rows, [1]);
    copy.run();
    p.until(|| (p.in_hand() == (0, 0)).then_some(()), "the copy is done");

    for (bytes, why) in [(3, "a row has 4 bytes"), (7, "and its answer 4 more")] {
        let p = Pair::new(&format!("max_bytes = {bytes}"));
        drop(p.answered(&[1]));
        assert_eq!(p.line("visord_shadow_shed_total", ",reason=\"bytes\""), Some(1.0), "{why}");
        p.shed("bytes");
    }
}

#[test]
fn a_shadow_that_is_not_ready_or_takes_other_inputs_gets_no_copies() {
    let p = Pair::new("");
    p.model.break_down(2);
    drop(p.answered(&[1]));
    p.shed("not_ready");

    let p = Pair::new("");
    let (held, _batches) = sync_channel(1024);
    let backend = TestBackend { held, broken: Arc::default(), built: Arc::default() };
    let other = harness::load(&backend, 2, "", 4, &[2], &p.model.telemetry);
    let config = Arc::new(harness::config(&toml("1", "")));
    p.model.registry.set(&config, 2, &VersionState::Ready(Arc::new(other)));
    drop(p.answered(&[1]));
    p.shed("inputs");
}

#[test]
fn only_answers_of_other_versions_are_copied() {
    let p = Pair::with("[traffic]\n1 = 50\n2 = 50\n[shadow]\nversion = \"2\"\nfraction = 1\n");
    // A request that fails has nothing to compare with, and one whose client leaves has no answer.
    let chosen = p.choose();
    assert_eq!(chosen.version, 1);
    assert!(p.ask(&chosen, &[-1], Verdict::Run).is_err());
    assert_eq!(p.in_hand(), (0, 0));
    let mut left = Box::pin(chosen.infer(request(&[1]), Protocol::Http));
    p.enter(&mut left);
    let held = p.take(1);
    assert_eq!(p.in_hand(), (1, 4));
    drop(left);
    assert_eq!(p.in_hand(), (0, 0));
    held.run();
    drop(chosen);
    let named = p.model.registry.target("m", Some("2")).unwrap().pick(&NOBODY);
    let mut future = Box::pin(named.infer(request(&[1]), Protocol::Http));
    p.enter(&mut future);
    assert_eq!(p.in_hand(), (0, 0));
    p.take(2).run();
    assert!(p.runtime.block_on(future).is_ok());
    // One that names the version that answers is copied like any other.
    let named = p.model.registry.target("m", Some("1")).unwrap().pick(&NOBODY);
    assert!(p.ask(&named, &[7], Verdict::Run).is_ok());
    assert_eq!(p.in_hand(), (1, 8));
}

#[test]
fn a_shadow_that_fails_is_counted_and_nothing_else() {
    let cases = [(Verdict::Fail("no"), "backend"), (Verdict::Panic("no"), "internal")];
    for (verdict, reason) in cases {
        let p = Pair::new("");
        drop(p.answered(&[1]));
        p.take(2).verdict.send(verdict).unwrap();
        let errors = || p.line("visord_shadow_errors_total", &format!(",reason=\"{reason}\""));
        assert_eq!(p.until(errors, reason), 1.0);
        p.until(|| (p.in_hand() == (0, 0)).then_some(()), "the copy is done");
        drop(p.answered(&[2]));
        let outcome = |v, protocol, outcome| {
            let more = format!("version=\"{v}\",protocol=\"{protocol}\",outcome=\"{outcome}\"");
            p.model.metric(&format!("visord_inference_requests_total{{model=\"m\",{more}}}"))
        };
        assert_eq!((outcome(1, "http", "success"), outcome(2, "shadow", reason)), (2.0, 1.0));
        assert_eq!(p.served(2).metrics.statistics.fail.get().0, 0);
    }
}

#[test]
fn the_fraction_is_kept() {
    for (fraction, want) in
        [("0", 0), ("0.0001", 1), ("0.05", 500), ("0.5", 5_000), ("0.999", 9_990), ("1.0", 10_000)]
    {
        let p = Pair::with(&toml(fraction, ""));
        let (one, traffic) = (p.served(1), Arc::clone(&p.model.registry.models()["m"].traffic));
        let shadow = traffic.shadow.as_ref().unwrap();
        let request = request(&[1]);
        let copies = (0..10_000).filter(|_| shadow.copy(&one, &request).is_some()).count();
        assert!(copies.abs_diff(want) <= 3, "fraction {fraction}: {copies} of 10000");
    }
}
