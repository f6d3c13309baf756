//! NVML's numbers on `/metrics` of the real daemon, on the host device of `tests/fake`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::Repository;
use crate::common::daemon::Daemon;
use crate::common::fake;
use crate::common::onnx::{Graph, Kind};

/// Longest that scrapes may take where NVML does not answer. Each gives up after 0.5 s; this machine may be slow.
const BOUND: Duration = Duration::from_secs(20);
/// What the fake CUDA calls its first and its second GPU.
const FIRST: &str = r#"uuid="GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff""#;
const SECOND: &str = r#"uuid="GPU-00010203-0405-0607-0809-0a0b0c0d0e0f""#;

/// A daemon on the host device, and the file that makes its NVML fail.
struct Host {
    daemon: Daemon,
    repository: Repository,
}

impl Host {
    fn start(faults: &str, env: &[(&str, &str)]) -> Self {
        let onnx = Graph::default()
            .input("x", Kind::FLOAT, &[-1, 4])
            .output("y", Kind::FLOAT, &[-1, 2])
            .node("Flatten", &["x"], "y");
        let repository = Repository::new().model("m", "", &onnx.model());
        let file = repository.path().join("faults");
        std::fs::write(&file, faults).unwrap();
        let env = [&[("VISORD_FAKE_NVML_FAULTS", file.to_str().unwrap())], env].concat();
        Self { daemon: Daemon::start(repository.path(), &[], &env), repository }
    }

    fn fail(&self, faults: &str) {
        // At once: the library reads it at every call.
        let new = self.file().with_extension("new");
        std::fs::write(&new, faults).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.repository.path().join("faults")
    }

    fn scrape(&self) -> Lines {
        let answer = self.daemon.client().send("GET", "/metrics", &[], b"");
        assert_eq!(answer.status, 200);
        let of_nvml = |line: &&str| line.starts_with("visord_gpu_") && line.contains("uuid=");
        Lines(answer.text().lines().filter(of_nvml).map(str::to_owned).collect())
    }

    /// The lines once they are as they must become: a sample is up to a second old.
    #[track_caller]
    fn wait(&mut self, what: &str, reached: impl Fn(&Lines) -> bool) -> Lines {
        let start = Instant::now();
        loop {
            let lines = self.scrape();
            if reached(&lines) {
                return lines;
            }
            assert!(start.elapsed() < 3 * BOUND, "never: {what}\n{lines:#?}\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[derive(Debug)]
struct Lines(Vec<String>);

impl Lines {
    /// The one number of `name` with all of `labels`.
    #[track_caller]
    fn get(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let of =
            |l: &&String| l.starts_with(&format!("{name}{{")) && labels.iter().all(|label| l.contains(label));
        let found: Vec<f64> =
            self.0.iter().filter(of).map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(found.len() <= 1, "{name} {labels:?}: {found:?}");
        found.first().copied()
    }

    fn any(&self, name: &str) -> bool {
        self.0.iter().any(|l| l.starts_with(&format!("{name}{{")))
    }
}

const GIB: f64 = 1_073_741_824.0;

/// What `tests/fake/nvml` says of the GPU of an index, in base units.
fn expected(index: f64) -> Vec<(&'static str, &'static str, f64)> {
    vec![
        ("visord_gpu_up", "", 1.0),
        ("visord_gpu_utilization_ratio", "", (60.0 + index) / 100.0),
        ("visord_gpu_decoder_utilization_ratio", "", (10.0 + index) / 100.0),
        ("visord_gpu_jpeg_utilization_ratio", "", (20.0 + index) / 100.0),
        ("visord_gpu_memory_used_bytes", "", (index + 1.0) * GIB),
        ("visord_gpu_memory_total_bytes", "", 80.0 * GIB),
        ("visord_gpu_temperature_celsius", "", 50.0 + index),
        ("visord_gpu_power_watts", "", 300.5 + index),
        ("visord_gpu_power_limit_watts", "", 700.0),
        ("visord_gpu_energy_joules_total", "", 1234.5 + index / 1e3),
        ("visord_gpu_clock_hertz", r#"clock="sm""#, (1410.0 + index) * 1e6),
        ("visord_gpu_clock_hertz", r#"clock="memory""#, (2600.0 + index) * 1e6),
        ("visord_gpu_clock_max_hertz", r#"clock="sm""#, 1980e6),
        ("visord_gpu_clock_max_hertz", r#"clock="memory""#, 2619e6),
        ("visord_gpu_ecc_errors_total", r#"type="corrected""#, 3.0 + index),
        ("visord_gpu_ecc_errors_total", r#"type="uncorrected""#, 0.0),
        ("visord_gpu_throttled", r#"reason="sw_power_cap""#, 1.0),
        ("visord_gpu_throttled", r#"reason="hw_thermal""#, 1.0),
        ("visord_gpu_throttled", r#"reason="idle""#, 0.0),
    ]
}

#[test]
fn every_number_is_there_in_base_units_for_the_gpus_that_cuda_shows() {
    let both = &[(FIRST, 0.0), (SECOND, 1.0)][..];
    for (visible, gpus) in [(None, both), (Some("1"), &both[1..]), (Some("GPU-f0f1"), &both[..1])] {
        let mut env = vec![("VISORD_FAKE_CUDA_DEVICES", "2")];
        env.extend(visible.map(|v| ("CUDA_VISIBLE_DEVICES", v)));
        let mut host = Host::start("", &env);
        let lines = host.wait("a sample", |l| l.any("visord_gpu_up"));
        for &(uuid, index) in gpus {
            // As `nvidia-smi` counts, whatever CUDA's ordinal is.
            let gpu = format!(r#"gpu="{index}""#);
            for (name, label, value) in expected(index) {
                let labels = [uuid, &gpu, r#"name="Fake Tesla V100-SXM2-16GB""#, label];
                let got = lines.get(name, &labels);
                assert_eq!(got, Some(value), "CUDA_VISIBLE_DEVICES {visible:?}: {name} {label}\n{lines:#?}");
            }
        }
        let up = lines.0.iter().filter(|l| l.starts_with("visord_gpu_up{")).count();
        assert_eq!(up, gpus.len(), "CUDA_VISIBLE_DEVICES {visible:?}: {lines:#?}");
        assert!(host.daemon.stop().success());
    }
}

#[test]
fn an_instance_of_a_gpu_has_its_own_memory_and_the_sensors_of_the_whole() {
    let mut host = Host::start("", &[("VISORD_FAKE_NVML_MIG", "1")]);
    let lines = host.wait("a sample", |l| l.any("visord_gpu_up"));
    let instance = FIRST.replace("GPU-", "MIG-");
    for (name, value) in [
        ("visord_gpu_memory_total_bytes", Some(10.0 * GIB)),
        ("visord_gpu_temperature_celsius", Some(50.0)),
        ("visord_gpu_power_watts", Some(300.5)),
        // NVML has none of an instance.
        ("visord_gpu_utilization_ratio", None),
    ] {
        assert_eq!(lines.get(name, &[&instance]), value, "{name}\n{lines:#?}");
    }
}

#[test]
fn a_call_that_fails_costs_its_own_series_and_a_lost_gpu_all_but_one() {
    let mut host = Host::start("nvmlDeviceGetTemperature=999\nnvmlDeviceGetJpgUtilization=3\n", &[]);
    let failing = ["visord_gpu_temperature_celsius", "visord_gpu_jpeg_utilization_ratio"];
    let lines = host.wait("a sample", |l| l.any("visord_gpu_up"));
    for (name, label, value) in expected(0.0) {
        let want = (!failing.contains(&name)).then_some(value);
        assert_eq!(lines.get(name, &[FIRST, label]), want, "{name} {label}\n{lines:#?}");
    }
    host.fail("");
    let lines = host.wait("what works again is back", |l| failing.iter().all(|f| l.any(f)));
    assert_eq!(lines.get("visord_gpu_temperature_celsius", &[FIRST]), Some(50.0));
    host.fail("*=15\n");
    let lines = host.wait("the GPU is lost", |l| l.get("visord_gpu_up", &[FIRST]) == Some(0.0));
    assert_eq!(lines.0.len(), 1, "numbers of a GPU that is lost: {lines:#?}");
    assert!(host.daemon.stop().success());
}

#[test]
fn nvml_that_hangs_holds_up_neither_scrapes_nor_the_start_nor_the_end() {
    for hanging in ["nvmlInit_v2", "nvmlDeviceGetMemoryInfo_v2"] {
        let mut host = Host::start(&format!("{hanging}=hang\n"), &[]);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let host = &host;
            let scrapes: Vec<_> = (0..20).map(|_| scope.spawn(move || host.scrape())).collect();
            for scrape in scrapes {
                let lines = scrape.join().unwrap();
                assert!(lines.0.is_empty(), "{hanging}: {lines:#?}");
            }
        });
        assert!(start.elapsed() < BOUND, "{hanging}: 20 scrapes at once took {:?}", start.elapsed());
        let threads = host.daemon.metric("process_threads");
        assert!(host.daemon.metric("process_threads") <= threads, "{hanging}: scrapes pile up");
        assert!(host.daemon.stop().success(), "{hanging}");
    }
}

#[test]
fn nvml_that_hangs_later_leaves_the_last_numbers_for_a_while() {
    let mut host = Host::start("", &[]);
    host.wait("a sample", |l| l.any("visord_gpu_up"));
    host.fail("nvmlDeviceGetTemperature=hang\n");
    let start = Instant::now();
    let mut scrapes = 0;
    // Once it hangs, a scrape gives up after half a second.
    while start.elapsed() < Duration::from_millis(1200) {
        let lines = host.scrape();
        assert_eq!(lines.get("visord_gpu_temperature_celsius", &[FIRST]), Some(50.0), "{lines:#?}");
        scrapes += 1;
    }
    assert!(scrapes >= 1 && start.elapsed() < BOUND, "{scrapes} scrapes in {:?}", start.elapsed());
}

#[test]
fn without_nvml_there_are_no_metrics_and_one_line_in_the_log() {
    let without = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fake::libraries()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.contains(".so") && !name.contains("nvidia-ml") {
            std::os::unix::fs::symlink(&path, without.path().join(name)).unwrap();
        }
    }
    let folder = without.path().to_str().unwrap();
    for (why, faults, env) in [
        ("libnvidia-ml.so.1", "", vec![("LD_LIBRARY_PATH", folder)]),
        ("DriverNotLoaded", "nvmlInit_v2=9\n", vec![]),
    ] {
        let mut host = Host::start(faults, &env);
        host.daemon.wait("it says so", |d| d.log().contains("no GPU metrics"));
        for _ in 0..3 {
            let lines = host.scrape();
            assert!(lines.0.is_empty(), "{why}: {lines:#?}");
        }
        let log = host.daemon.log();
        let said: Vec<&str> = log.lines().filter(|l| l.contains("no GPU metrics")).collect();
        assert!(said.len() == 1 && said[0].contains("INFO"), "{why}: {log}");
        println!("{}", said[0]);
    }
}

#[test]
fn a_gpu_that_nvml_does_not_know_is_left_out() {
    let mut host = Host::start("nvmlDeviceGetHandleByUUID=6\n", &[]);
    host.daemon.wait("it says so", |d| d.log().contains("no metrics of GPU 0"));
    assert!(host.scrape().0.is_empty());
}
