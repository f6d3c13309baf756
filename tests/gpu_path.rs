//! The GPU path of the real daemon, end to end over HTTP, on the host device of `tests/fake`: its numbers are the CPU
//! path's, and it does with the device what it is meant to.

use crate::common::daemon::Daemon;
use crate::common::fake::{self, Snapshot, means};
use crate::common::onnx::{Graph, Kind};
use crate::common::{Answer, Repository, form, output, png};
use half::f16;
use serde_json::{Value, json};
use visord::image::{
    ColorOrder, Decoder, Layout, Limits, Preprocess, PreprocessConfig, ResizeRule, Rgb8View,
};

/// Of every image model here.
const WIDTH: u32 = 24;
const HEIGHT: u32 = 20;
const COLUMNS: usize = 7;
const EXECUTIONS: &str = r#"visord_inference_executions_total{model="m",version="1"}"#;
const BACKEND_ERRORS: &str =
    r#"visord_inference_requests_total{model="m",version="1",protocol="http",outcome="backend"}"#;
const NAN_ERRORS: &str =
    r#"visord_inference_requests_total{model="m",version="1",protocol="http",outcome="nan_output"}"#;
const RESTARTS: &str = r#"visord_instance_restarts_total{model="m",version="1"}"#;
const INSTANCES: &str = r#"visord_ready_instances{model="m",version="1"}"#;

/// An image model: how it wants its input.
struct Case {
    name: &'static str,
    toml: &'static str,
    kind: Kind,
    config: PreprocessConfig,
    l2: bool,
}

fn plain() -> PreprocessConfig {
    PreprocessConfig {
        width: WIDTH,
        height: HEIGHT,
        layout: Layout::Nchw,
        color_order: ColorOrder::Rgb,
        mean: [0.0; 3],
        scale: [1.0 / 255.0; 3],
        resize: ResizeRule::Stretch,
    }
}

fn case(name: &'static str, toml: &'static str, kind: Kind, config: PreprocessConfig) -> Case {
    Case { name, toml, kind, config, l2: false }
}

fn cases() -> Vec<Case> {
    let normalised = PreprocessConfig { mean: [100.0, 110.0, 120.0], scale: [0.01, 0.02, 0.03], ..plain() };
    let levels = PreprocessConfig { scale: [1.0; 3], ..plain() };
    vec![
        case("defaults", "", Kind::FLOAT, plain()),
        case(
            "bgr",
            "[image]\ncolor_order = \"BGR\"\nmean = [100, 110, 120]\nscale = [0.01, 0.02, 0.03]\n",
            Kind::FLOAT,
            PreprocessConfig { color_order: ColorOrder::Bgr, ..normalised },
        ),
        case(
            "letterbox",
            "[image]\nresize = \"letterbox\"\nletterbox_fill = [114, 110, 90]\n",
            Kind::FLOAT,
            PreprocessConfig { resize: ResizeRule::Letterbox { fill: [114, 110, 90] }, ..plain() },
        ),
        case(
            "crop",
            "[image]\nresize = \"center_crop\"\nresize_shorter_side = 30\n",
            Kind::FLOAT,
            PreprocessConfig { resize: ResizeRule::CenterCrop { resize_shorter_side: Some(30) }, ..plain() },
        ),
        case("nhwc", "", Kind::FLOAT, PreprocessConfig { layout: Layout::Nhwc, ..plain() }),
        case("half", "", Kind::FLOAT16, plain()),
        case("levels", "", Kind::UINT8, levels),
        Case {
            l2: true,
            ..case("l2", "[[output]]\nname = \"y\"\nnormalize = \"l2\"\n", Kind::FLOAT, plain())
        },
    ]
}

impl Case {
    fn onnx(&self) -> Vec<u8> {
        let (w, h) = (i64::from(WIDTH), i64::from(HEIGHT));
        let shape = match self.config.layout {
            Layout::Nchw => [-1, 3, h, w],
            Layout::Nhwc => [-1, h, w, 3],
        };
        Graph::default()
            .input("x", self.kind, &shape)
            .output("y", Kind::FLOAT, &[-1, COLUMNS as i64])
            .node("Flatten", &["x"], "y")
            .model()
    }

    /// What the model answers for a picture, by the CPU path and the fixed function.
    fn expected(&self, view: &Rgb8View<'_>) -> Vec<f64> {
        let mut preprocess = Preprocess::new(self.config.clone()).unwrap();
        let elements = (3 * WIDTH * HEIGHT) as usize;
        let row: Vec<f64> = if self.kind == Kind::FLOAT16 {
            let mut out = vec![f16::ZERO; elements];
            preprocess.run_f16(view, &mut out);
            out.iter().map(|v| v.to_f64()).collect()
        } else if self.kind == Kind::UINT8 {
            let mut out = vec![0; elements];
            preprocess.run_u8(view, &mut out);
            out.iter().map(|v| f64::from(*v)).collect()
        } else {
            let mut out = vec![0.0; elements];
            preprocess.run(view, &mut out);
            out.iter().map(|v| f64::from(*v)).collect()
        };
        let means = means(&row, COLUMNS);
        let norm = if self.l2 { means.iter().map(|v| v * v).sum::<f64>().sqrt() } else { 1.0 };
        means.iter().map(|v| v / norm).collect()
    }
}

fn decoded(case: &Case, encoded: &[u8]) -> Vec<f64> {
    let mut decoder = Decoder::new();
    let view = decoder.decode(encoded, &Limits::default()).unwrap();
    case.expected(&view)
}

/// The plain model, with `toml`.
fn repository(toml: &str) -> Repository {
    Repository::new().model("m", toml, &cases()[0].onnx())
}

fn ask(daemon: &Daemon, model: &str, pictures: &[&[u8]]) -> Answer {
    let (content_type, body) = form(pictures);
    daemon.post(&format!("/v1/models/{model}/infer"), &[("Content-Type", &content_type)], &body)
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64]) {
    let near = got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 1e-6 * w.abs().max(1.0));
    assert!(got.len() == want.len() && near, "{what}: {got:?} is not {want:?}");
}

fn golden_images() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let name = |p: &std::path::Path| p.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|p| (name(p), std::fs::read(p).unwrap())).collect()
}

/// A picture of its own for each seed.
fn picture(seed: u32) -> Vec<u8> {
    png(30, 26, |x, y, c| ((x * 31 + y * 17 + seed * 97) * (c as u32 + 2) % 256) as u8)
}

/// How many pictures were decoded by each of the ways.
fn decodes(daemon: &Daemon, model: &str) -> [f64; 3] {
    ["hardware", "hybrid", "cpu"].map(|decoder| {
        daemon.metric(&format!(
            r#"visord_image_decodes_total{{model="{model}",version="1",decoder="{decoder}"}}"#
        ))
    })
}

#[test]
fn every_kind_of_input_gets_the_cpu_paths_numbers() {
    let images = golden_images();
    let mut repository = Repository::new();
    for case in cases() {
        repository = repository.model(case.name, &format!("max_batch_size = 8\n{}", case.toml), &case.onnx());
    }
    let mut daemon = Daemon::start(repository.path(), &[], &[]);
    for case in cases() {
        for chunk in images.chunks(5) {
            let pictures: Vec<&[u8]> = chunk.iter().map(|(_, bytes)| bytes.as_slice()).collect();
            let (shape, values) = output(&ask(&daemon, case.name, &pictures).json(), "y");
            assert_eq!(shape, [chunk.len(), COLUMNS], "{}", case.name);
            for ((name, bytes), got) in chunk.iter().zip(values.chunks(COLUMNS)) {
                close(&format!("{} {name}", case.name), got, &decoded(&case, bytes));
            }
        }
    }
    assert!(daemon.stop().success(), "{}", daemon.log());
    let last = daemon.counters.last();
    for (name, want) in
        [("mistakes", 0), ("faults", 0), ("pageable_copies", 0), ("device_bytes", 0), ("host_bytes", 0)]
    {
        assert_eq!(last.get(name), want, "{name} in {last:#?}");
    }
}

#[test]
fn tensors_and_shapes_that_vary() {
    let one = Graph::default()
        .input("x", Kind::FLOAT, &[-1, 12])
        .output("y", Kind::FLOAT, &[-1, 5])
        .node("Flatten", &["x"], "y")
        .model();
    let two = Graph::default()
        .input("a", Kind::FLOAT, &[-1, 4])
        .input("b", Kind::INT32, &[-1, 6])
        .output("y", Kind::FLOAT, &[-1, 3])
        .node("Add", &["a", "b"], "y")
        .model();
    let repository = Repository::new().model("one", "max_batch_size = 4\n", &one).model(
        "two",
        "max_batch_size = 4\n",
        &two,
    );
    let daemon = Daemon::start(repository.path(), &[], &[]);
    let tensor = |name: &str, kind: &str, columns: usize, data: &[f64]| {
        let whole = kind == "INT32";
        let values: Vec<Value> =
            data.iter().map(|v| if whole { json!(*v as i64) } else { json!(v) }).collect();
        json!({"name": name, "datatype": kind, "shape": [data.len() / columns, columns], "data": values})
    };
    let send = |model: &str, inputs: Value| {
        let body = json!({ "inputs": inputs }).to_string();
        daemon.post(
            &format!("/v2/models/{model}/infer"),
            &[("Content-Type", "application/json")],
            body.as_bytes(),
        )
    };
    for rows in 1..=4_usize {
        let x: Vec<f64> = (0..12 * rows).map(|i| (i * i % 23) as f64).collect();
        let want: Vec<f64> = x.chunks(12).flat_map(|row| means(row, 5)).collect();
        let (shape, got) = output(&send("one", json!([tensor("x", "FP32", 12, &x)])).json(), "y");
        assert_eq!(shape, [rows, 5]);
        close("one", &got, &want);

        let a: Vec<f64> = (0..4 * rows).map(|i| i as f64 / 2.0).collect();
        let b: Vec<f64> = (0..6 * rows).map(|i| (i as f64 - 7.0) * 3.0).collect();
        let row = |i: usize| [&a[4 * i..4 * i + 4], &b[6 * i..6 * i + 6]].concat();
        let want: Vec<f64> = (0..rows).flat_map(|i| means(&row(i), 3)).collect();
        let inputs = json!([tensor("a", "FP32", 4, &a), tensor("b", "INT32", 6, &b)]);
        close("two", &output(&send("two", inputs).json(), "y").1, &want);
    }
}

/// Sends `count` requests of one picture each, from `clients` at a time, and checks every answer.
fn load(daemon: &Daemon, clients: u32, count: u32) {
    let case = &cases()[0];
    std::thread::scope(|scope| {
        for client in 0..clients {
            scope.spawn(move || {
                for i in 0..count {
                    let seed = client * 1000 + i;
                    let file = picture(seed);
                    let (_, values) = output(&ask(daemon, "m", &[&file]).json(), "y");
                    close(&format!("picture {seed}"), &values, &decoded(case, &file));
                }
            });
        }
    });
}

/// Whoever decodes, the numbers are the same; and who decodes is as the GPU and `model.toml` have it.
#[test]
fn pictures_are_decoded_where_they_should_be() {
    const V100: (&str, &str) = ("VISORD_FAKE_NVJPEG_HARDWARE", "0");
    const H100: (&str, &str) = ("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "9.0");
    const NO_PROGRESSIVE: (&str, &str) = ("VISORD_FAKE_NVJPEG_REJECT", "progressive");
    let images = golden_images();
    let jpegs = images.iter().filter(|(_, b)| b.starts_with(&[0xff, 0xd8])).count() as f64;
    let others = images.len() as f64 - jpegs;
    for (decoder, env, used) in [
        ("hardware", H100, [true, true, true]),
        ("hardware", V100, [false, true, true]),
        ("hybrid", H100, [false, true, true]),
        ("hybrid", NO_PROGRESSIVE, [false, true, true]),
        ("cpu", H100, [false, false, true]),
    ] {
        let case = &cases()[1];
        let toml = format!("max_batch_size = 8\n{}decoder = \"{decoder}\"\n", case.toml);
        let repository = Repository::new().model("m", &toml, &case.onnx());
        let mut daemon = Daemon::start(repository.path(), &[], &[env]);
        for chunk in images.chunks(6) {
            let pictures: Vec<&[u8]> = chunk.iter().map(|(_, bytes)| bytes.as_slice()).collect();
            let (_, values) = output(&ask(&daemon, "m", &pictures).json(), "y");
            for ((name, bytes), got) in chunk.iter().zip(values.chunks(COLUMNS)) {
                close(&format!("{decoder} {env:?} {name}"), got, &decoded(case, bytes));
            }
        }
        let counted = decodes(&daemon, "m");
        assert_eq!(counted.map(|n| n > 0.0), used, "{decoder} {env:?}: {counted:?}");
        assert_eq!(counted.iter().sum::<f64>(), jpegs + others, "{decoder} {env:?}");
        assert!(counted[2] >= others, "{decoder} {env:?}: {counted:?}");
        assert!(daemon.stop().success(), "{}", daemon.log());
        let last = daemon.counters.last();
        assert_eq!((last.get("mistakes"), last.get("device_bytes")), (0, 0), "{decoder} {env:?} {last:#?}");
    }
}

/// `auto` measures when it loads, and says what it chose.
#[test]
fn auto_chooses_a_decoder_by_measuring() {
    let repository = repository("max_batch_size = 4\n");
    let daemon = Daemon::start(repository.path(), &[], &[("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "9.0")]);
    for word in ["images a second", "decoder = \"auto\": chosen"] {
        assert!(daemon.log().contains(word), "{word}");
    }
    load(&daemon, 2, 5);
}

/// A picture that nobody can decode fails alone.
#[test]
fn a_bad_picture_fails_alone() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bad");
    let good = picture(5);
    for decoder in ["hardware", "hybrid", "cpu"] {
        let repository = repository(&format!("max_batch_size = 4\n[image]\ndecoder = \"{decoder}\"\n"));
        let daemon = Daemon::start(repository.path(), &[], &[("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "9.0")]);
        let mut refused = 0;
        for file in walk(&folder) {
            let bytes = std::fs::read(&file).unwrap();
            let cpu = Decoder::new().decode(&bytes, &Limits::default()).map(|v| cases()[0].expected(&v));
            let answer = ask(&daemon, "m", &[&bytes]);
            match cpu {
                Ok(want) => close(&format!("{decoder} {file:?}"), &output(&answer.json(), "y").1, &want),
                Err(e) => {
                    assert_eq!(answer.status, e.kind.status().http, "{decoder} {file:?}: {}", answer.text());
                    refused += 1;
                }
            }
        }
        assert!(refused > 20, "{decoder}: {refused}");
        close(decoder, &output(&ask(&daemon, "m", &[&good]).json(), "y").1, &decoded(&cases()[0], &good));
        assert_eq!(daemon.metric(RESTARTS), 0.0, "{decoder}");
    }
}

/// What the device is asked for when nothing is new any more.
fn steady(before: &Snapshot, after: &Snapshot, batches: u64) {
    for (name, want) in [
        ("copies.htod", batches),
        ("copies.dtoh", batches),
        ("launches.engine", batches),
        ("copies.dtod", 0),
        ("device_allocations", 0),
        ("device_frees", 0),
        ("host_allocations", 0),
        ("pageable_copies", 0),
        ("default_stream_operations", 0),
        ("stream_synchronizations", 0),
        ("calls.cuCtxSynchronize", 0),
        ("calls.cuMemcpyHtoD_v2", 0),
        ("calls.cuMemcpyDtoH_v2", 0),
        ("calls.cuModuleLoadData", 0),
        ("calls.cuEventCreate", 0),
        ("calls.cuStreamCreate", 0),
        ("memsets", 0),
        ("captures", 0),
        ("faults", 0),
        ("mistakes", 0),
    ] {
        assert_eq!(after.since(before, name), want, "{name} in {batches} batches\n{before:#?}\n{after:#?}");
    }
}

#[test]
fn a_batch_is_one_copy_each_way_and_nothing_is_allocated() {
    let jpeg = golden_images().into_iter().find(|(name, _)| name == "jpeg_420.jpg").unwrap().1;
    let case = &cases()[0];
    for (decoder, hardware, way) in [("cpu", "0", 2), ("hybrid", "0", 1), ("hardware", "1", 0)] {
        let repository = repository(&format!("max_batch_size = 4\n[image]\ndecoder = \"{decoder}\"\n"));
        let daemon = Daemon::start(repository.path(), &[], &[("VISORD_FAKE_NVJPEG_HARDWARE", hardware)]);
        let send = |count| {
            for _ in 0..count {
                let (_, values) = output(&ask(&daemon, "m", &[&jpeg]).json(), "y");
                close(decoder, &values, &decoded(case, &jpeg));
            }
        };
        send(40);
        let (before, batches) = (daemon.counters.read(), daemon.metric(EXECUTIONS));
        send(60);
        let (after, batches) = (daemon.counters.read(), daemon.metric(EXECUTIONS) - batches);
        assert_eq!(batches, 60.0, "{decoder}");
        steady(&before, &after, 60);
        assert_eq!(after.since(&before, "graph_launches"), 60, "{decoder} {after:#?}");
        let kernels = if way == 2 { 0 } else { 60 };
        assert_eq!(after.since(&before, "launches.preprocess_f32"), kernels, "{decoder} {after:#?}");
        assert_eq!(decodes(&daemon, "m")[way], 100.0, "{decoder}");
    }
}

/// A pinned block that is written too early, an event too few: an answer would be another client's.
#[test]
fn batches_in_flight_do_not_mix() {
    let repository = repository("max_batch_size = 2\n");
    let env = [
        ("VISORD_FAKE_CUDA_DELAY_MICROSECONDS", "1000"),
        ("VISORD_FAKE_NVINFER_COMPUTE_MICROSECONDS", "3000"),
    ];
    let daemon = Daemon::start(repository.path(), &[], &env);
    load(&daemon, 6, 25);
    let counters = daemon.counters.read();
    assert!(counters.get("overlapped_copies") > 0, "no copy ran beside the engine\n{counters:#?}");
    assert_eq!(counters.get("pageable_copies"), 0);
}

#[test]
fn instances_on_two_gpus() {
    let repository =
        repository("max_batch_size = 1\n[[instance_group]]\nkind = \"gpu\"\ncount = 2\ngpus = [0, 1]\n");
    let env = [("VISORD_FAKE_CUDA_DEVICES", "2"), ("VISORD_FAKE_NVINFER_COMPUTE_MICROSECONDS", "2000")];
    let daemon = Daemon::start(repository.path(), &[], &env);
    assert_eq!(daemon.metric(INSTANCES), 4.0);
    load(&daemon, 8, 10);
}

/// What cannot be served ends the daemon, with what to do.
#[test]
fn a_device_that_cannot_be_used_is_explained() {
    let repository = repository("max_batch_size = 4\n");
    for (env, words) in [
        (&[("VISORD_FAKE_CUDA_DEVICES", "0")][..], &["sees no GPU", "--backend"][..]),
        (&[("CUDA_VISIBLE_DEVICES", "7")], &["sees no GPU", "CUDA_VISIBLE_DEVICES"]),
        (&[("VISORD_FAKE_CUDA_DRIVER_VERSION", "11040")], &["driver", "11.8", "520"]),
        (&[("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "6.1")], &["6.1", "7.0"]),
        (
            &[("VISORD_FAKE_CUDA_MEMORY_BYTES", "1100000")],
            &["too little memory", "lower max_batch_size (4)", "MiB are free"],
        ),
        (&[("VISORD_FAKE_NVINFER_FAIL_DESERIALIZE", "1")], &["deserializeCudaEngine", "asked for it"]),
    ] {
        let mut daemon = Daemon::launch(repository.path(), &["--backend", "tensorrt"], env);
        let status = daemon.exit();
        assert_eq!(status.code(), Some(1), "{env:?}: {}", daemon.log());
        for word in words {
            assert!(daemon.log().contains(word), "{env:?}: \"{word}\" is not in\n{}", daemon.log());
        }
    }
}

#[test]
fn auto_says_loudly_when_a_gpu_is_not_used() {
    let model = crate::common::onnx::classifier(crate::common::onnx::Pixels::Nchw, 1.0);
    let repository = Repository::new().model("m", "backend = \"auto\"\n", &model);
    let old = [("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "6.1")];
    let daemon = Daemon::launch(repository.path(), &[], &old);
    assert_eq!(daemon.metric("visord_gpu_unused"), 1.0);
    assert!(daemon.log().contains("THE GPU IS NOT USED"), "{}", daemon.log());
    assert_eq!(ask(&daemon, "m", &[&picture(1)]).status, 200);
    let mut strict = Daemon::launch(repository.path(), &["--require-gpu"], &old);
    assert_eq!(strict.exit().code(), Some(1), "{}", strict.log());
}

/// A failure that is one batch's is told to its clients, and the next batch works.
#[test]
fn failures_of_single_batches_are_told_and_passed() {
    for env in [("VISORD_FAKE_CUDA_FAIL_COPY_EVERY", "7"), ("VISORD_FAKE_NVINFER_FAIL_ENQUEUE_EVERY", "7")] {
        // A graph has its copies in it, and enqueues nothing.
        let repository = repository("max_batch_size = 1\n[model_warmup]\ncount = 1\n");
        let daemon = Daemon::launch(repository.path(), &["--backend", "tensorrt"], &[env]);
        let file = picture(1);
        let want = decoded(&cases()[0], &file);
        let (mut failed, mut worked) = (0, 0);
        for _ in 0..40 {
            let answer = ask(&daemon, "m", &[&file]);
            if answer.status == 200 {
                close("after a failure", &output(&answer.json(), "y").1, &want);
                worked += 1;
            } else {
                answer.refused(500, &["tensorrt"]);
                failed += 1;
            }
        }
        assert!(failed > 0 && worked > 0, "{env:?}: {failed} failed, {worked} worked");
        assert_eq!(daemon.metric(BACKEND_ERRORS), f64::from(failed), "{env:?}");
        assert_eq!(daemon.metric(RESTARTS), 0.0, "{env:?}");
    }
}

#[test]
fn a_nan_fails_its_row_alone() {
    let repository = repository("max_batch_size = 4\n");
    let env = [("VISORD_FAKE_NVINFER_NAN_ROW", "1")];
    let daemon = Daemon::start(repository.path(), &[], &env);
    let files = [picture(1), picture(2)];
    ask(&daemon, "m", &[&files[0], &files[1]]).refused(500, &["NaN"]);
    let (_, values) = output(&ask(&daemon, "m", &[&files[0]]).json(), "y");
    close("row 0", &values, &decoded(&cases()[0], &files[0]));
    assert_eq!(daemon.metric(NAN_ERRORS), 1.0);
}

/// An error that corrupts the context: the batch fails, the context is reset, everything on it is built again.
#[test]
fn a_lost_device_is_taken_up_again() {
    let jpeg = golden_images().into_iter().find(|(name, _)| name == "jpeg_420.jpg").unwrap().1;
    let want = decoded(&cases()[0], &jpeg);
    for decoder in ["hybrid", "hardware"] {
        let image = format!("[image]\ndecoder = \"{decoder}\"\n");
        let repository = repository(&format!("max_batch_size = 4\n{image}[[instance_group]]\ncount = 2\n"));
        let env = [("VISORD_FAKE_CUDA_STICKY_FILE", "@/sticky")];
        let mut daemon = Daemon::start(repository.path(), &[], &env);
        let work = |daemon: &Daemon| {
            load(daemon, 2, 10);
            for _ in 0..10 {
                close(decoder, &output(&ask(daemon, "m", &[&jpeg]).json(), "y").1, &want);
            }
        };
        work(&daemon);
        let before = daemon.counters.read();
        for round in 1..=3 {
            std::fs::write(daemon.folder().join("sticky"), b"").unwrap();
            let answer = ask(&daemon, "m", &[&jpeg]);
            answer.refused(500, &["lost", "ILLEGAL_ADDRESS"]);
            // Both instances have lost it; the other one finds out with its next batch.
            daemon.wait("it is ready again", |d| d.metric(INSTANCES) == 2.0 && d.ready());
            work(&daemon);
            let after = daemon.counters.read();
            assert_eq!(after.get("resets"), round, "{decoder}");
            // Nothing is left over from the last life, and nothing of it was touched.
            for name in ["live_streams", "live_events", "device_bytes", "host_bytes"] {
                let most = before.get(name) + before.get(name) / 4;
                assert!(after.get(name) <= most, "{decoder} {name}: {before:#?}\n{after:#?}");
            }
            assert_eq!((after.get("mistakes"), after.get("faults")), (0, 0), "{decoder} {after:#?}");
        }
        assert!(daemon.metric(RESTARTS) >= 3.0, "{decoder}");
        assert!(daemon.stop().success(), "{}", daemon.log());
    }
}

/// Device memory is host memory, so that AddressSanitizer sees what the kernels, the decoders and the copies touch.
#[test]
fn nothing_is_touched_that_should_not_be() {
    let (libraries, preload) = fake::sanitized();
    let repository = repository("max_batch_size = 4\n[image]\ndecoder = \"hybrid\"\n");
    let env = [
        ("LD_LIBRARY_PATH", libraries.to_str().unwrap()),
        ("LD_PRELOAD", &preload),
        ("ASAN_OPTIONS", "detect_leaks=0"),
    ];
    let mut daemon = Daemon::start(repository.path(), &[], &env);
    for (name, bytes) in golden_images() {
        let (_, values) = output(&ask(&daemon, "m", &[&bytes]).json(), "y");
        close(&name, &values, &decoded(&cases()[0], &bytes));
    }
    load(&daemon, 3, 5);
    assert!(daemon.stop().success(), "{}", daemon.log());
    assert!(!daemon.log().contains("Sanitizer"), "{}", daemon.log());
}

#[test]
fn a_device_that_does_not_come_back_ends_the_daemon() {
    let repository = repository("max_batch_size = 4\n");
    for reset_fails in ["1", "2"] {
        let env =
            [("VISORD_FAKE_CUDA_STICKY_FILE", "@/sticky"), ("VISORD_FAKE_CUDA_RESET_FAILS", reset_fails)];
        let mut daemon = Daemon::start(repository.path(), &[], &env);
        load(&daemon, 1, 3);
        std::fs::write(daemon.folder().join("sticky"), b"").unwrap();
        ask(&daemon, "m", &[&picture(1)]).refused(500, &["lost"]);
        let status = daemon.exit();
        assert!(status.code().is_some_and(|c| c != 0), "{status}\n{}", daemon.log());
    }
}

const HITS: &str = r#"visord_plan_cache_total{outcome="hit"}"#;
const MISSES: &str = r#"visord_plan_cache_total{outcome="miss"}"#;

/// A plan is built once; one of another TensorRT or GPU, or a damaged one, is not used.
#[test]
fn plans_come_from_the_cache() {
    let repository = repository("max_batch_size = 4\n");
    let folder = tempfile::tempdir().unwrap();
    let plans = folder.path().to_str().unwrap();
    let start = |env: &[(&str, &str)]| {
        let daemon = Daemon::start(repository.path(), &["--plan-cache", plans], env);
        load(&daemon, 1, 2);
        (daemon.metric(HITS), daemon.metric(MISSES))
    };
    assert_eq!(start(&[("VISORD_FAKE_NVINFER_BUILD_MILLISECONDS", "100")]), (0.0, 1.0));
    assert_eq!(start(&[]), (1.0, 0.0));
    assert_eq!(start(&[("VISORD_FAKE_NVINFER_VERSION", "11.4.1.1")]), (0.0, 1.0));
    assert_eq!(start(&[("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "9.0")]), (0.0, 1.0));
    assert_eq!(start(&[]), (1.0, 0.0));
    let mut damaged = 0;
    for file in walk(folder.path()).iter().filter(|p| p.extension().is_some_and(|e| e == "plan")) {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file, bytes).unwrap();
        damaged += 1;
    }
    assert_eq!(damaged, 3);
    assert_eq!(start(&[]).1, 1.0, "a damaged plan is built again");
    assert_eq!(start(&[]), (1.0, 0.0));
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

/// Gauges of a build that took a second and a half.
#[test]
fn a_build_tells_its_progress_and_its_time() {
    let repository = repository("max_batch_size = 4\n");
    let folder = tempfile::tempdir().unwrap();
    let plans = folder.path().to_str().unwrap().to_owned();
    let env = [("VISORD_FAKE_NVINFER_BUILD_MILLISECONDS", "1500")];
    let daemon = Daemon::start(repository.path(), &["--plan-cache", &plans], &env);
    let gauge = r#"visord_engine_build_progress_ratio{model="m",version="1"}"#;
    assert_eq!(daemon.metric(gauge), 1.0);
    let seconds = daemon.metric(r#"visord_engine_build_duration_seconds{model="m",version="1"}"#);
    assert!((1.5..20.0).contains(&seconds), "{seconds}");
    assert_eq!(decodes(&daemon, "m"), [0.0; 3]);
}

/// SIGTERM while a plan is built: the daemon gives it up and leaves no file behind.
#[test]
fn a_build_is_given_up_when_the_daemon_stops() {
    let repository = repository("max_batch_size = 4\n");
    let folder = tempfile::tempdir().unwrap();
    let plans = folder.path().to_str().unwrap().to_owned();
    let env = [("VISORD_FAKE_NVINFER_BUILD_MILLISECONDS", "30000")];
    let mut daemon = Daemon::spawn(repository.path(), &["--plan-cache", &plans], &env);
    daemon.wait("it builds", |d| d.log().contains("building a plan"));
    let start = std::time::Instant::now();
    assert!(daemon.stop().success(), "{}", daemon.log());
    assert!(start.elapsed().as_secs() < 20, "it waited for the build");
    let left: Vec<_> = walk(folder.path());
    assert!(left.is_empty(), "{left:?}\n{}", daemon.log());
}
