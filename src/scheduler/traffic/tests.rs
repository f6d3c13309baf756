mod shadow;

use std::sync::mpsc::{Receiver, sync_channel};

use super::*;
use crate::error::ErrorKind;
use crate::scheduler::registry::Registry;
use crate::scheduler::tests::harness::{self, Held, PATIENCE, TestBackend, row};
use crate::telemetry::metrics::{Protocol, Telemetry};

/// What a request offers.
#[derive(Default)]
struct By<'a> {
    header: Option<(&'a str, &'a str)>,
    parameter: Option<(&'a str, &'a str)>,
}

impl Sticky for By<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.header.filter(|(n, _)| *n == name).map(|(_, v)| v)
    }

    fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        self.parameter.filter(|(n, _)| *n == name).map(|(_, v)| Cow::Borrowed(v))
    }
}

const NOBODY: By<'_> = By { header: None, parameter: None };

/// A model `m` whose versions are all on test backends.
struct Model {
    registry: Registry,
    telemetry: Telemetry,
    versions: Vec<(u64, Arc<ServedModel>, Receiver<Held>)>,
}

impl Model {
    fn new(toml: &str, versions: &[u64]) -> Self {
        let telemetry = Telemetry::new(false);
        let registry = Registry::default();
        let load = |version: &u64| {
            let (held, batches) = sync_channel(1024);
            let backend = TestBackend { held, broken: Arc::default(), built: Arc::default() };
            let served = Arc::new(harness::load(&backend, *version, "", 4, &[1], &telemetry));
            (*version, served, batches)
        };
        let versions: Vec<_> = versions.iter().map(load).collect();
        let model = Self { registry, telemetry, versions };
        model.configure(toml);
        model
    }

    /// As a reload of `model.toml` does.
    fn configure(&self, toml: &str) {
        let config = Arc::new(harness::config(toml));
        for (version, served, _) in &self.versions {
            self.registry.set(&config, *version, &VersionState::Ready(Arc::clone(served)));
        }
    }

    fn pick(&self, by: &By<'_>) -> u64 {
        self.registry.target("m", None).unwrap().pick(by).version
    }

    /// How many of `n` picks without a key went to `version`.
    fn count(&self, n: usize, version: u64) -> usize {
        (0..n).filter(|_| self.pick(&NOBODY) == version).count()
    }

    /// Loses the instance of a version for good.
    fn break_down(&self, version: u64) {
        let (_, served, batches) = self.versions.iter().find(|(v, ..)| *v == version).unwrap();
        served.stop();
        let deadline = std::time::Instant::now() + PATIENCE;
        while served.ready() {
            assert!(std::time::Instant::now() < deadline, "version {version} is still ready");
            std::thread::yield_now();
        }
        assert!(batches.try_recv().is_err(), "nothing ran");
    }

    fn metric(&self, line: &str) -> f64 {
        let text = self.telemetry.render();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
    }
}

#[test]
fn shares_are_kept_at_every_length() {
    let cases: [(&str, &[(u64, f64)]); 6] = [
        ("1 = 90\n2 = 10", &[(1, 0.9), (2, 0.1)]),
        ("1 = 1\n2 = 1", &[(1, 0.5), (2, 0.5)]),
        ("1 = 1000000\n2 = 1", &[(1, 1_000_000.0 / 1_000_001.0), (2, 1.0 / 1_000_001.0)]),
        ("1 = 70\n2 = 20\n3 = 10", &[(1, 0.7), (2, 0.2), (3, 0.1)]),
        ("1 = 0\n2 = 7", &[(1, 0.0), (2, 1.0)]),
        ("2 = 0\n3 = 3\n1 = 3", &[(1, 0.5), (2, 0.0), (3, 0.5)]),
    ];
    for (weights, shares) in cases {
        let model = Model::new(&format!("[traffic]\n{weights}\n"), &[1, 2, 3]);
        let mut counts = BTreeMap::new();
        for n in 1..=10_000 {
            *counts.entry(model.pick(&NOBODY)).or_insert(0) += 1;
            for (version, share) in shares {
                let got = f64::from(counts.get(version).copied().unwrap_or(0));
                let want = share * f64::from(n);
                assert!((got - want).abs() <= 4.0, "{weights}: version {version} has {got} of {n}");
                assert!(*share > 0.0 || got == 0.0, "{weights}: version {version} has no share");
            }
        }
    }
}

#[test]
fn a_client_s_own_rhythm_does_not_favour_a_version() {
    for every in [2, 3, 5, 10, 20] {
        let model = Model::new("[traffic]\n1 = 50\n2 = 50\n", &[1, 2]);
        let picks: Vec<u64> = (0..10_000).map(|_| model.pick(&NOBODY)).collect();
        let (n, first) = picks.iter().step_by(every).fold((0, 0), |(n, f), v| (n + 1, f + (2 - v)));
        assert!(first.abs_diff(n / 2) <= 16, "of every {every}th request, {first} of {n} went to version 1");
    }
}

#[test]
fn hashes_of_keys() {
    // python3 -c 'import hashlib; print(hashlib.sha256("alice".encode()[:256]).hexdigest()[:16])'
    let cases = [
        ("alice", 0x2bd8_06c9_7f0e_00af),
        ("bob", 0x81b6_37d8_fcd2_c6da),
        ("42", 0x7347_5cb4_0a56_8e8d),
        ("ä", 0x33e6_d73f_ee82_904c),
        (&*"x".repeat(256), 0x85e6_2acd_750c_4eb5),
        (&*"x".repeat(300), 0x85e6_2acd_750c_4eb5),
        (&*"x".repeat(10_000_000), 0x85e6_2acd_750c_4eb5),
    ];
    for (key, want) in cases {
        assert_eq!(key_hash(key), want, "{}", &key[..key.len().min(20)]);
    }
    // A character that the limit cuts through counts with the bytes before it.
    assert_ne!(key_hash(&("x".repeat(255) + "ä")), key_hash(&("x".repeat(255) + "y")));
}

const STICKY: &str = "sticky_header = \"x-user-id\"\nsticky_parameter = \"user_id\"\n";

fn users(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("user-{i}")).collect()
}

#[test]
fn a_key_stays_with_its_version() {
    let model = |weights: &str| Model::new(&format!("[traffic]\n{weights}\n{STICKY}"), &[1, 2]);
    let (model, twin) = (model("1 = 90\n2 = 10"), model("1 = 90\n2 = 10"));
    let users = users(2_000);
    let pick =
        |model: &Model, user: &str| model.pick(&By { header: Some(("x-user-id", user)), ..By::default() });
    let first: Vec<u64> = users.iter().map(|u| pick(&model, u)).collect();
    // Not exact, as it is a hash: three standard deviations of 13.4.
    let second = first.iter().filter(|v| **v == 2).count();
    assert!(second.abs_diff(200) <= 40, "{second} of 2000 users have version 2");
    for (user, want) in users.iter().zip(&first) {
        let by = |h, p| By { header: h, parameter: p };
        let header = Some(("x-user-id", user.as_str()));
        let parameter = Some(("user_id", user.as_str()));
        for by in [by(header, None), by(None, parameter), by(header, Some(("user_id", "somebody else")))] {
            assert_eq!(model.pick(&by), *want, "{user}");
        }
        assert_eq!(pick(&twin, user), *want, "{user}: another replica");
        // The documented formula.
        let position = (u128::from(key_hash(user)) * 100) >> 64;
        assert_eq!(if position < 90 { 1 } else { 2 }, *want, "{user}");
    }
    // From 10 % to 30 %: whoever had version 2 keeps it, and nobody gets version 1 back.
    model.configure(&format!("[traffic]\n1 = 70\n2 = 30\n{STICKY}"));
    let moved: Vec<u64> = users.iter().map(|u| pick(&model, u)).collect();
    assert!(first.iter().zip(&moved).all(|(a, b)| b >= a));
    let second = moved.iter().filter(|v| **v == 2).count();
    assert!(second.abs_diff(600) <= 62, "{second} of 2000 users have version 2");
}

#[test]
fn what_is_no_key_is_drawn() {
    let long = "x".repeat(1 << 20);
    let cases: [(By<'_>, bool); 6] = [
        (By { header: Some(("x-user-id", "")), ..By::default() }, false),
        (By { parameter: Some(("user_id", "")), ..By::default() }, false),
        (By { header: Some(("x-other", "a")), parameter: Some(("other", "b")) }, false),
        (By { header: Some(("x-user-id", "")), parameter: Some(("user_id", "a")) }, true),
        (By { header: Some(("x-user-id", long.as_str())), ..By::default() }, true),
        (By { header: Some(("x-user-id", "\u{0}\u{ffff}")), ..By::default() }, true),
    ];
    for (i, (by, sticky)) in cases.iter().enumerate() {
        let model = Model::new(&format!("[traffic]\n1 = 50\n2 = 50\n{STICKY}"), &[1, 2]);
        let first = (0..1_000).filter(|_| model.pick(by) == 1).count();
        assert_eq!(first % 1_000 == 0, *sticky, "case {i}: {first} of 1000 went to version 1");
    }
}

#[test]
fn a_version_that_is_named_answers() {
    let model = Model::new("[traffic]\n1 = 100\n2 = 0\n[version_policy.all]\n", &[1, 2, 3]);
    for version in ["1", "2", "3"] {
        let target = model.registry.target("m", Some(version)).unwrap();
        assert_eq!(target.pick(&NOBODY).version.to_string(), version);
    }
    assert_eq!(model.count(100, 1), 100);
    let error = model.registry.target("m", Some("4")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::UnknownVersion);
    assert_eq!(model.registry.find("m", None).unwrap().version, 1, "documents describe what answers");
}

#[test]
fn without_traffic_the_highest_ready_version_answers() {
    let model = Model::new("", &[1, 2, 10]);
    assert_eq!(model.count(10, 10), 10);
    model.break_down(10);
    assert_eq!(model.count(10, 2), 10);
    let shadowed =
        Model::new("[version_policy.all]\n[shadow]\nversion = \"10\"\nfraction = 0\n", &[1, 2, 10]);
    assert_eq!(shadowed.count(10, 2), 10, "a shadow answers only where it is named");
}

#[test]
fn the_share_of_a_version_that_is_not_ready_goes_to_the_others() {
    let model = Model::new(&format!("[traffic]\n1 = 60\n2 = 30\n3 = 10\n{STICKY}"), &[1, 2, 3]);
    let users = users(1_000);
    let pick = |user: &String| model.pick(&By { parameter: Some(("user_id", user)), ..By::default() });
    let before: Vec<u64> = users.iter().map(pick).collect();
    let early = model.registry.target("m", None).unwrap();
    model.break_down(1);
    let after: Vec<u64> = users.iter().map(pick).collect();
    for ((user, a), b) in users.iter().zip(&before).zip(&after) {
        assert!(*b != 1 && (*a == 1 || a == b), "{user} went from version {a} to {b}");
    }
    let gained = after.iter().zip(&before).filter(|(a, b)| **b == 1 && **a == 2).count();
    let lost = before.iter().filter(|v| **v == 1).count();
    assert!(gained.abs_diff(lost * 3 / 4) <= 50, "version 2 has {gained} of the {lost} users of version 1");
    assert_ne!(early.pick(&NOBODY).version, 1, "a request that came before looks again");
    let line = |v| format!("visord_traffic_fallbacks_total{{model=\"m\",version=\"{v}\"}}");
    assert_eq!(model.metric(&line(1)), (lost + 1) as f64);
    assert_eq!(model.metric(&line(2)), 0.0);
    // One that fails to load is no other case.
    let config = Arc::new(harness::config("[traffic]\n1 = 60\n2 = 30\n3 = 10\n"));
    model.registry.set(&config, 3, &VersionState::Unavailable("broken".into()));
    assert_eq!(model.count(1_000, 2), 1_000);
    model.break_down(2);
    let error = model.registry.target("m", None).unwrap_err();
    assert!(error.kind == ErrorKind::NotReady && error.message.contains("broken"), "{error}");
    // What came in before that fails by its version's own words, not by a panic.
    assert!(matches!(early.pick(&NOBODY).version, 1..=3));
}

#[test]
fn a_change_of_weights_goes_on_where_the_sequence_was() {
    let model = Model::new("[traffic]\n1 = 90\n2 = 10\n", &[1, 2]);
    let mut second = 0;
    for _ in 0..1_000 {
        second += model.count(5, 2);
        model.configure("[traffic]\n1 = 90\n2 = 10\n");
    }
    assert!(second.abs_diff(500) <= 4, "{second} of 5000, with a reload every 5 requests");
    let line = |v| format!("visord_traffic_share_ratio{{model=\"m\",version=\"{v}\"}}");
    assert_eq!([1, 2].map(|v| model.metric(&line(v))), [0.9, 0.1]);
    model.configure("[traffic]\n1 = 100\n");
    assert_eq!([1, 2].map(|v| model.metric(&line(v))), [1.0, 0.0]);
    assert_eq!(model.count(100, 1), 100);
}

#[test]
fn a_request_in_hand_outlives_the_change_that_drops_its_version() {
    let mut model = Model::new("[traffic]\n1 = 1\n", &[1, 2]);
    let target = model.registry.target("m", None).unwrap();
    model.configure("[traffic]\n2 = 1\n");
    let chosen = target.pick(&NOBODY);
    assert_eq!((chosen.version, model.pick(&NOBODY)), (1, 2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let request = crate::scheduler::request::InferRequest {
        rows: vec![row(&[4])],
        priority: 0,
        timeout: None,
        arrival: std::time::Instant::now(),
        context: crate::telemetry::context::Context::unobserved(std::time::Instant::now()),
    };
    let (_, _, batches) = model.versions.remove(0);
    std::thread::scope(|s| {
        s.spawn(move || batches.recv_timeout(PATIENCE).unwrap().run());
        let answer = runtime.block_on(chosen.infer(request, Protocol::Http)).unwrap();
        assert_eq!(harness::ints(&answer.outputs[0]), [40]);
    });
}
