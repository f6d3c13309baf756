//! The scheduler against a backend that runs a batch when the test says so. A request is polled once to enter
//! the queue and again for its answer, so that the order of everything is the test's.

pub(in crate::scheduler) mod harness;
mod pipelined;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use self::harness::{Harness, Held, InFlight, PATIENCE, TestBackend, Verdict, ints, row};
use self::pipelined::{InHand, PipelinedBackend};
use super::batcher::BatchPolicy;
use super::queue::Queue;
use super::request::{Row, Shared};
use super::served::ServedModel;
use crate::error::ErrorKind;
use crate::image::Limits;
use crate::model::config::ModelConfig;
use crate::model::repository::RepositoryVersion;
use crate::problems::Problems;
use crate::telemetry::context::Context;
use crate::telemetry::metrics::Telemetry;

/// A deadline that a test lets pass.
const SOON: Duration = Duration::from_millis(10);

const BATCH_OF_1: &str = "[dynamic_batching]\npreferred_batch_size = [1]\n";

#[test]
fn rows_of_a_request_are_split_over_batches_and_joined_in_order() {
    let h = Harness::with("", 2, &[1]);
    let request = h.ask(&[1, 2, 3, 4, 5]);
    h.runs(&[&[1, 2], &[3, 4], &[5]]);
    assert_eq!(request.ints(), [10, 20, 30, 40, 50]);

    // Two instances at once, the later rows first.
    let h = Harness::with("[[instance_group]]\ncount = 2\n", 2, &[1]);
    let request = h.ask(&[1, 2, 3, 4]);
    let (one, other) = (h.take(), h.take());
    let (first, second) = if one.rows[0] == 1 { (one, other) } else { (other, one) };
    assert_eq!((first.rows.as_slice(), second.rows.as_slice()), (&[1, 2][..], &[3, 4][..]));
    second.run();
    first.run();
    assert_eq!(request.ints(), [10, 20, 30, 40]);
}

#[test]
fn requests_that_share_a_batch_get_slices_of_it() {
    let h = Harness::new("");
    let (plug, held) = h.busy();
    let (a, b) = (h.ask(&[1]), h.ask(&[2, 3]));
    held.run();
    h.runs(&[&[1, 2, 3]]);
    let (a, b) = (a.response().unwrap(), b.response().unwrap());
    assert_eq!((ints(&a.outputs[0]), ints(&b.outputs[0])), (vec![10], vec![20, 30]));
    let [a, b] = [a, b].map(|r| r.outputs[0].data.as_ptr() as usize);
    assert_eq!(b, a + 4, "the rows were copied");
    assert_eq!(plug.ints(), [0]);
}

#[test]
fn a_full_queue_refuses_whole_requests_at_once() {
    let h = Harness::new("[dynamic_batching]\nmax_queue_size = 3\n");
    let (_plug, held) = h.busy();
    let waiting = h.ask(&[1, 2]);
    let refused = h.ask(&[3, 4]).fails(ErrorKind::QueueFull, "2 of max_queue_size 3 rows");
    assert_eq!(refused.retry_after, Some(Duration::from_secs(1)), "nothing was measured yet");
    assert_eq!(h.served.pending(), 2, "a part of the refused request was queued");
    let fits = h.ask(&[5]);
    h.ask(&[6]).fails(ErrorKind::QueueFull, "3 of max_queue_size 3 rows");
    for rows in [vec![], vec![1; 4]] {
        h.ask(&rows).fails(ErrorKind::InvalidArgument, "from 1 to max_queue_size 3 rows");
    }
    assert_eq!(h.metric("visord_pending_rows{model=\"m\",version=\"1\"}"), 3);
    held.run();
    h.runs(&[&[1, 2, 5]]);
    assert_eq!((waiting.ints(), fits.ints()), (vec![10, 20], vec![50]));
}

#[test]
fn retry_after_is_the_time_to_work_off_what_is_too_much() {
    let metrics = Arc::new(Telemetry::new(false).model("m", 1));
    let policy =
        BatchPolicy { max_batch_size: 1, preferred_batch_size: vec![], max_queue_delay: Duration::ZERO };
    let queue = Queue::new(policy, 100, 1, false, metrics);
    let push = |rows: usize| {
        let (request, answer) =
            Shared::new(rows, Instant::now(), None, true, 0, Context::unobserved(Instant::now()));
        let rows = (0..rows).map(|index| Row {
            input: row(&[0]),
            request: Arc::clone(&request),
            index,
            enqueued: Instant::now(),
        });
        queue.push(rows, 0).map(|()| answer)
    };
    let t0 = Instant::now();
    let seconds = |n: u64| t0 + Duration::from_secs(n);
    let _kept = push(100).unwrap();
    let retry_after = |rows| push(rows).unwrap_err().retry_after.unwrap().as_secs();
    assert_eq!(retry_after(50), 1);
    // The first report only starts the clock; then 10 rows each second.
    for (rows, at) in [(7, 0), (10, 1), (20, 3)] {
        queue.drained(rows, seconds(at));
    }
    assert_eq!([1, 10, 11, 50, 100].map(retry_after), [1, 1, 2, 5, 10]);
    // Another 90 rows/s: the average of both.
    queue.drained(90, seconds(4));
    assert_eq!(retry_after(100), 2);
    for second in 5..30 {
        queue.drained(usize::from(second % 2 == 0), seconds(second));
    }
    assert_eq!(retry_after(100), 60, "bounded");
}

#[test]
fn priority_goes_before_arrival() {
    let levels = "max_queue_size = 9\npriority_levels = 3\n";
    // (priorities asked for, order of answers) with batches of one row
    let cases: [(&str, &[u64], &[i32]); 4] = [
        (levels, &[3, 2, 1, 3, 1], &[2, 4, 1, 0, 3]),
        // 0 and levels that do not exist take the default, 2.
        (levels, &[3, 0, 99, 2, 1, u64::MAX], &[4, 1, 2, 3, 5, 0]),
        ("default_priority_level = 3\npriority_levels = 3\n", &[0, 3, 2, 1, 0], &[3, 2, 0, 1, 4]),
        ("", &[3, 1, 2, 0], &[0, 1, 2, 3]),
    ];
    for (toml, priorities, order) in cases {
        let h = Harness::with(&format!("{BATCH_OF_1}{toml}"), 1, &[1]);
        let (_plug, held) = h.busy();
        let ask = |(i, p): (usize, &u64)| h.request(vec![row(&[i as i32])], *p, None, Instant::now());
        let requests: Vec<_> = priorities.iter().enumerate().map(ask).collect();
        held.run();
        for want in order {
            let held = h.take();
            assert_eq!(held.rows, [*want], "{toml} {priorities:?}");
            held.run();
        }
        requests.into_iter().enumerate().for_each(|(i, r)| assert_eq!(r.ints(), [i as i32 * 10]));
    }
}

#[test]
fn a_request_s_timeout_only_shortens_the_default() {
    let ms = Duration::from_millis;
    // (model.toml, asked for in ms, limit in ms; none means that it waits)
    let cases: [(&str, Option<u64>, Option<u64>); 9] = [
        ("", None, None),
        ("", Some(0), None),
        ("", Some(7), Some(7)),
        ("default_timeout_microseconds = 9000\n", None, Some(9)),
        ("default_timeout_microseconds = 9000\n", Some(0), Some(9)),
        ("default_timeout_microseconds = 9000\n", Some(7), Some(7)),
        ("default_timeout_microseconds = 9000\n", Some(90), Some(9)),
        ("default_timeout_microseconds = 9000\nallow_timeout_override = false\n", Some(7), Some(9)),
        ("allow_timeout_override = false\n", Some(7), None),
    ];
    for (toml, asked, limit) in cases {
        let h = Harness::new(&format!("[dynamic_batching]\n{toml}"));
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let request = h.request(vec![row(&[1])], 0, asked.map(ms), long_ago);
        match limit {
            Some(ms) => {
                let text = format!("not answered within {} microseconds of arrival", ms * 1000);
                request.fails(ErrorKind::DeadlineExceeded, &text);
                assert_eq!(
                    h.held.try_recv().err(),
                    Some(TryRecvError::Empty),
                    "{toml}{asked:?} reached the engine"
                );
            }
            None => {
                h.runs(&[&[1]]);
                assert_eq!(request.ints(), [10], "{toml}{asked:?}");
            }
        }
    }
}

#[test]
fn what_expires_in_the_queue_never_reaches_the_engine() {
    let h = Harness::new("");
    let (_plug, held) = h.busy();
    let limited =
        |v: &[i32], t| h.request(v.iter().map(|v| row(&[*v])).collect(), 0, Some(t), Instant::now());
    // Nobody looks at the first any more: the instance drops it. The second withdraws itself.
    let (forgotten, waited_for, patient) =
        (limited(&[1, 2], SOON), limited(&[3], SOON * 2), limited(&[4], PATIENCE));
    waited_for.fails(ErrorKind::DeadlineExceeded, "not answered within 20000 microseconds");
    assert_eq!(h.served.pending(), 3);
    held.run();
    h.runs(&[&[4]]);
    assert_eq!(patient.ints(), [40]);
    forgotten.fails(ErrorKind::DeadlineExceeded, "not answered within 10000 microseconds");
}

#[test]
fn what_expires_while_its_batch_is_prepared_leaves_the_batch() {
    let h = Harness::new("");
    let (_plug, held) = h.busy();
    let limited = h.request(vec![row(&[1])], 0, Some(Duration::from_millis(200)), Instant::now());
    let (gone, other) = (h.ask(&[2]), h.ask(&[3]));
    held.run();
    let held = h.take();
    assert_eq!(held.rows, [1, 2, 3]);
    drop(gone);
    limited.fails(ErrorKind::DeadlineExceeded, "timeout");
    held.run();
    assert_eq!(other.ints(), [30]);
    let batches = h.served.metrics.statistics.batches();
    assert_eq!(
        batches.iter().map(|b| (b.batch_size, b.count)).collect::<Vec<_>>(),
        [(1, 2)],
        "rows that ran"
    );
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let h = Harness::new("[dynamic_batching]\nmax_queue_size = 2\n");
    let (_plug, held) = h.busy();
    let leaving = h.ask(&[1, 2]);
    h.ask(&[3]).fails(ErrorKind::QueueFull, "");
    drop(leaving);
    assert_eq!(h.served.pending(), 0);
    let staying = h.ask(&[4]);
    held.run();
    h.runs(&[&[4]]);
    assert_eq!(staying.ints(), [40]);
    let cancelled =
        r#"visord_inference_requests_total{model="m",version="1",protocol="http",outcome="cancelled"}"#;
    assert_eq!(h.metric(cancelled), 1);
}

#[test]
fn a_bad_row_fails_its_own_request_only() {
    let h = Harness::new("");
    let (_plug, held) = h.busy();
    let (before, bad, after) = (h.ask(&[1]), h.ask(&[2, -1, 3, 4]), h.ask(&[5]));
    held.run();
    h.runs(&[&[1, 2, -1, 3]]);
    assert_eq!(before.ints(), [10]);
    bad.fails(ErrorKind::NotAnImage, "row 1 of 4: bad row");
    // What is left of the bad request takes no place beside its neighbour.
    let held = h.take();
    assert!(held.rows.ends_with(&[5]) && !held.rows.contains(&4), "{:?}", held.rows);
    held.run();
    assert_eq!(after.ints(), [50]);

    let (_plug, held) = h.busy();
    let (bad, waiting) = (h.ask(&[-1, 1, 2, 3, 4, 5, 6]), h.ask(&[7]));
    held.run();
    let first = h.take();
    first.run();
    bad.fails(ErrorKind::NotAnImage, "row 0 of 7");
    h.take().run();
    assert_eq!(waiting.ints(), [70]);
}

#[test]
fn a_failing_batch_fails_every_request_in_it_alike() {
    let h = Harness::new("");
    let (_plug, held) = h.busy();
    let requests = [h.ask(&[1]), h.ask(&[2])];
    held.run();
    h.take().verdict.send(Verdict::Fail("no memory")).unwrap();
    let texts = requests.map(|r| r.fails(ErrorKind::Backend, "test: run failed: no memory").message);
    assert_eq!(texts[0], texts[1]);
    let next = h.ask(&[3]);
    h.runs(&[&[3]]);
    assert_eq!(next.ints(), [30]);
    assert_eq!(h.backend.built.load(Ordering::SeqCst), 1, "an error is no reason to rebuild");
}

#[test]
fn a_panic_fails_its_batch_and_the_instance_is_rebuilt() {
    let h = Harness::new("");
    let (plug, held) = h.busy();
    let waiting = h.ask(&[1]);
    held.verdict.send(Verdict::Panic("index out of range")).unwrap();
    plug.fails(ErrorKind::Internal, "the model instance failed: index out of range");
    h.runs(&[&[1]]);
    assert_eq!(waiting.ints(), [10]);
    assert_eq!(h.metric(r#"visord_instance_restarts_total{model="m",version="1"}"#), 1);
    assert_eq!(h.metric(r#"visord_ready_instances{model="m",version="1"}"#), 1);
    assert_eq!(h.backend.built.load(Ordering::SeqCst), 2);
    assert!(h.served.ready());
}

#[test]
fn without_a_working_instance_nothing_is_admitted_and_nothing_waits() {
    let h = Harness::new("[[instance_group]]\ncount = 2\n");
    let (one, first) = h.busy();
    let (two, second) = h.busy();
    let waiting = h.ask(&[3]);
    h.backend.broken.store(true, Ordering::SeqCst);
    // Both end at the same time, which must not make each wait for the other to answer.
    for (request, held) in [(one, first), (two, second)] {
        held.verdict.send(Verdict::Panic("fault")).unwrap();
        request.fails(ErrorKind::Internal, "fault");
    }
    waiting.fails(ErrorKind::NotReady, "model \"m\" has no working instance left");
    assert!(!h.served.ready());
    h.ask(&[4]).fails(ErrorKind::NotReady, "no working instance left");
    assert_eq!(h.metric(r#"visord_ready_instances{model="m",version="1"}"#), 0);
    assert_eq!(h.metric(r#"visord_instance_restarts_total{model="m",version="1"}"#), 2);
}

#[test]
fn a_row_waits_for_company_no_longer_than_the_delay() {
    let h = Harness::new("[dynamic_batching]\nmax_queue_delay_microseconds = 20000\n");
    let start = Instant::now();
    let request = h.ask(&[1]);
    let held = h.take();
    assert!(start.elapsed() >= Duration::from_millis(20), "taken after {:?}", start.elapsed());
    held.run();
    assert!(request.response().unwrap().stages.queue >= Duration::from_millis(20));

    let h = Harness::new(
        "[dynamic_batching]\nmax_queue_delay_microseconds = 10000000\npreferred_batch_size = [2]\n",
    );
    let requests = [h.ask(&[1]), h.ask(&[2])];
    h.runs(&[&[1, 2]]);
    assert_eq!(requests.map(InFlight::ints), [[10], [20]]);
    // 3 rows are one preferred batch, and the rest waits: until it is drained.
    let request = h.ask(&[3, 4, 5]);
    h.runs(&[&[3, 4]]);
    h.served.drain();
    h.runs(&[&[5]]);
    assert_eq!(request.ints(), [30, 40, 50]);
}

#[test]
fn rows_of_different_shapes_never_share_a_batch() {
    let h = Harness::with("", 4, &[-1]);
    let (_plug, held) = h.busy();
    let ask = |values: &[i32]| h.request(vec![row(values)], 0, None, Instant::now());
    let requests: Vec<_> =
        [&[1][..], &[2, 2], &[3], &[4, 4], &[5, 5, 5], &[6]].into_iter().map(ask).collect();
    held.run();
    h.runs(&[&[1, 3, 6], &[2, 4], &[5]]);
    let answers: Vec<_> = requests.into_iter().flat_map(InFlight::ints).collect();
    assert_eq!(answers, [10, 40, 30, 80, 150, 60]);
}

#[test]
fn draining_answers_what_waits_and_what_is_still_arriving() {
    let h = Harness::new("");
    let (plug, held) = h.busy();
    let waiting = h.ask(&[1]);
    h.served.drain();
    let late = h.ask(&[2]);
    held.run();
    h.runs(&[&[1, 2]]);
    assert_eq!((plug.ints(), waiting.ints(), late.ints()), (vec![0], vec![10], vec![20]));
    h.served.stop();
    h.ask(&[3]).fails(ErrorKind::Draining, "shutting down");
    assert_eq!(h.metric(r#"visord_ready_instances{model="m",version="1"}"#), 0, "threads were joined");
}

#[test]
fn stopping_fails_what_waits_and_lets_the_batch_in_hand_finish() {
    let h = Harness::new("");
    let (plug, held) = h.busy();
    let waiting = h.ask(&[1]);
    let served = Arc::clone(&h.served);
    let stop = std::thread::spawn(move || served.stop());
    waiting.fails(ErrorKind::Draining, "shutting down");
    assert!(!stop.is_finished(), "the batch in hand was not waited for");
    held.run();
    assert_eq!(plug.ints(), [0]);
    stop.join().unwrap();
    assert!(!h.served.ready());
}

#[test]
fn a_model_loads_when_every_instance_is_built_and_warm() {
    let load = |toml: &str, broken: bool, verdict: fn() -> Verdict| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.toml"), toml).unwrap();
        let config = Arc::new(ModelConfig::read(dir.path(), "m", &mut Problems::default()));
        let spec = Harness::new("").served.spec.clone();
        let (sender, held) = sync_channel::<Held>(1024);
        let backend = TestBackend { held: sender, broken: Arc::new(broken.into()), built: Arc::default() };
        let runner = std::thread::spawn(move || {
            let answer = |held: Held| held.verdict.send(verdict()).map(|()| held.rows).unwrap();
            held.into_iter().map(answer).collect::<Vec<_>>()
        });
        let limits = Limits { max_image_pixels: 1 };
        let version = RepositoryVersion { version: 1, spec, golden: None };
        let outcome =
            ServedModel::load(&config, &version, &backend, limits, &Telemetry::new(false)).map(drop);
        drop(backend);
        (outcome.err().map(|e| e.to_string()), runner.join().unwrap())
    };
    let run = || Verdict::Run;
    let one = "[[instance_group]]\ncount = 1\n";
    assert_eq!(load(one, false, run), (None, vec![vec![0], vec![0; 4]]));
    let (error, warm) = load(&format!("{one}[model_warmup]\ncount = 2\nbatch_size = [3]\n"), false, run);
    assert_eq!((error, warm), (None, vec![vec![0; 3]; 2]));
    type Refusal = (bool, fn() -> Verdict, &'static str);
    let refusals: [Refusal; 3] = [
        (true, run, "broken"),
        (false, || Verdict::Fail("no memory"), "warm-up: test: run failed: no memory"),
        (false, || Verdict::Panic("fault"), "panicked: fault"),
    ];
    for (broken, verdict, want) in refusals {
        let (error, _) = load("[[instance_group]]\ncount = 2\n", broken, verdict);
        assert!(error.as_ref().is_some_and(|e| e.contains(want)), "{error:?}: {want}");
    }
}

#[test]
fn metrics_and_statistics_tell_the_same_story() {
    let h = Harness::with("[dynamic_batching]\nmax_queue_size = 4\n", 2, &[1]);
    let (plug, held) = h.busy();
    let requests = [h.ask(&[1]), h.ask(&[2, 3]), h.ask(&[-1])];
    h.ask(&[9]).fails(ErrorKind::QueueFull, "");
    held.run();
    h.runs(&[&[1, 2], &[3, -1]]);
    let [one, two, bad] = requests;
    assert_eq!((plug.ints(), one.ints(), two.ints()), (vec![0], vec![10], vec![20, 30]));
    bad.fails(ErrorKind::NotAnImage, "bad row");
    let s = &h.served.metrics.statistics;
    let batches: Vec<_> = s.batches().iter().map(|b| (b.batch_size, b.count)).collect();
    assert_eq!(batches, [(1, 2), (2, 1)]);
    assert_eq!((s.inference_count.load(Ordering::SeqCst), s.execution_count.load(Ordering::SeqCst)), (4, 3));
    assert_eq!((s.success.get().0, s.fail.get().0, s.queue.get().0), (3, 2, 3));
    let mut seen = String::new();
    for (name, labels) in [
        ("inference_rows_total", ""),
        ("inference_executions_total", ""),
        ("inference_batch_size_count", ""),
        ("inference_batch_size_sum", ""),
        ("inference_compute_duration_seconds_count", ""),
        ("inference_request_duration_seconds_count", ""),
        ("inference_requests_total", r#",protocol="http",outcome="success""#),
        ("inference_requests_total", r#",protocol="http",outcome="queue_full""#),
        ("inference_requests_total", r#",protocol="http",outcome="not_an_image""#),
        ("pending_rows", ""),
    ] {
        let value = h.metric(&format!("visord_{name}{{model=\"m\",version=\"1\"{labels}}}"));
        write!(seen, "{value} ").unwrap();
    }
    assert_eq!(seen, "4 3 3 4 3 3 3 1 1 0 ");
}

fn next(held: &std::sync::mpsc::Receiver<InHand>) -> InHand {
    held.recv_timeout(PATIENCE).expect("an instance takes a batch")
}

#[test]
fn an_instance_has_a_second_batch_in_hand_and_no_third() {
    let (backend, held) = PipelinedBackend::new();
    let s = backend.serve("", 4);
    let first = s.ask(&[1]);
    let one = next(&held);
    let second = s.ask(&[2]);
    let two = next(&held);
    let (third, fourth) = (s.ask(&[3]), s.ask(&[4]));
    assert!(held.recv_timeout(SOON).is_err(), "a third batch was taken");
    // The order of answers is that of the batches, whichever is done first.
    two.run();
    one.run();
    assert_eq!((first.ints(), second.ints()), (vec![10], vec![20]));
    let rest = next(&held);
    assert_eq!(rest.rows, [3, 4], "what waited runs together");
    rest.run();
    assert_eq!((third.ints(), fourth.ints()), (vec![30], vec![40]));
}

#[test]
fn an_idle_instance_goes_before_one_that_computes() {
    let (backend, held) = PipelinedBackend::new();
    let s = backend.serve("[[instance_group]]\ncount = 2\n", 4);
    let mut asked = Vec::new();
    let mut taken = Vec::new();
    for value in 0..4 {
        asked.push(s.ask(&[value]));
        taken.push(next(&held));
    }
    let ordinals: Vec<usize> = taken.iter().map(|t| t.ordinal).collect();
    assert_ne!(ordinals[0], ordinals[1], "the second batch went to the instance that computes: {ordinals:?}");
    assert_ne!(ordinals[2], ordinals[3], "{ordinals:?}");
    taken.into_iter().for_each(InHand::run);
    let answers: Vec<_> = asked.into_iter().flat_map(InFlight::ints).collect();
    assert_eq!(answers, [0, 10, 20, 30]);
}

#[test]
fn a_batch_that_does_not_say_that_it_is_done_is_found() {
    let (backend, held) = PipelinedBackend::new();
    let s = backend.serve("", 4);
    let request = s.ask(&[7]);
    next(&held).run_silently();
    assert_eq!(request.ints(), [70]);
}

#[test]
fn a_lost_device_fails_what_is_in_hand_and_the_instance_is_rebuilt() {
    let (backend, held) = PipelinedBackend::new();
    let s = backend.serve("", 4);
    let (one, first) = (s.ask(&[1]), next(&held));
    let (two, _second) = (s.ask(&[2]), next(&held));
    first.lose();
    one.fails(ErrorKind::Backend, "CUDA_ERROR_ILLEGAL_ADDRESS");
    two.fails(ErrorKind::Backend, "was lost while it had this batch in hand");
    let three = s.ask(&[3]);
    next(&held).run();
    assert_eq!(three.ints(), [30]);
    assert_eq!(backend.built.load(Ordering::SeqCst), 2);
    assert_eq!(s.metric(r#"visord_instance_restarts_total{model="m",version="1"}"#), 1);
    assert_eq!((s.served.ready(), s.served.lost()), (true, None));

    // A device that does not come back: nothing is admitted, and the server can tell why.
    backend.broken.store(true, Ordering::SeqCst);
    let four = s.ask(&[4]);
    next(&held).lose();
    four.fails(ErrorKind::Backend, "CUDA_ERROR_ILLEGAL_ADDRESS");
    let start = Instant::now();
    while s.served.lost().is_none() {
        assert!(start.elapsed() < PATIENCE, "the loss is not told");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!s.served.ready());
    assert!(s.served.lost().is_some_and(|why| why.contains("CUDA_ERROR_ILLEGAL_ADDRESS")));
}

#[test]
fn closing_waits_for_every_batch_in_hand() {
    let (backend, held) = PipelinedBackend::new();
    let s = backend.serve("", 4);
    let (one, first) = (s.ask(&[1]), next(&held));
    let (two, second) = (s.ask(&[2]), next(&held));
    let served = Arc::clone(&s.served);
    let stop = std::thread::spawn(move || served.stop());
    first.run();
    second.run();
    assert_eq!((one.ints(), two.ints()), (vec![10], vec![20]));
    stop.join().unwrap();
}
