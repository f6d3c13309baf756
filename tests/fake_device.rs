//! Tests of the host device that the GPU path is tested on: a fake that forgave mistakes would hide them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![allow(unsafe_code, reason = "calls the driver as the daemon does")]

mod common;

use std::ffi::CString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use common::fake::{self, Counters};
use cudarc::driver::{CudaContext, DevicePtrMut as _, result};

/// One case of a self-test program, in a process of its own.
struct Case {
    program: &'static str,
    name: &'static str,
    env: &'static [(&'static str, &'static str)],
    /// Signal that must end it.
    signal: Option<i32>,
}

const fn case(
    program: &'static str,
    name: &'static str,
    env: &'static [(&'static str, &'static str)],
) -> Case {
    Case { program, name, env, signal: None }
}

const SLOW: (&str, &str) = ("VISORD_FAKE_CUDA_DELAY_MICROSECONDS", "20000");
const SLOWER: (&str, &str) = ("VISORD_FAKE_CUDA_DELAY_MICROSECONDS", "50000");
const NO_DEVICE: (&str, &str) = ("VISORD_FAKE_CUDA_DEVICES", "0");
const STRICT: (&str, &str) = ("VISORD_FAKE_CUDA_STRICT", "1");
const STICKY_AFTER: (&str, &str) = ("VISORD_FAKE_CUDA_STICKY_AFTER", "2");
const ABORTED: i32 = 6;

/// `@` stands for the case's own folder.
const CASES: &[Case] = &[
    case("cuda", "copies_run_later", &[SLOW]),
    case("cuda", "events_order_streams", &[SLOW]),
    case("cuda", "streams_overlap", &[SLOWER]),
    case("cuda", "host_functions_run_on_the_stream", &[SLOW]),
    case("cuda", "default_stream_waits_for_blocking_streams", &[SLOW]),
    case("cuda", "memory_is_poisoned_and_counted", &[("VISORD_FAKE_CUDA_MEMORY_BYTES", "1000000")]),
    case("cuda", "two_dimensional_copies", &[]),
    case("cuda", "illegal_addresses_stick_until_a_reset", &[]),
    case("cuda", "launches_check_their_addresses", &[]),
    case("cuda", "modules_are_read", &[]),
    case("cuda", "graphs_replay_what_was_captured", &[]),
    case("cuda", "graphs_show_missing_edges", &[]),
    case("cuda", "captures_refuse_what_cuda_refuses", &[]),
    case("cuda", "handles_have_an_end", &[]),
    case("cuda", "destroyed_streams_finish", &[SLOW]),
    Case { program: "cuda", name: "use_after_destroy", env: &[STRICT], signal: Some(ABORTED) },
    case("cuda", "no_device", &[NO_DEVICE]),
    case("cuda", "no_device", &[("CUDA_VISIBLE_DEVICES", "")]),
    case("cuda", "no_device", &[("CUDA_VISIBLE_DEVICES", "5,0")]),
    case(
        "cuda",
        "device_is_as_asked",
        &[
            ("CUDA_VISIBLE_DEVICES", "2,0"),
            ("VISORD_FAKE_CUDA_DEVICES", "3"),
            ("VISORD_FAKE_CUDA_NAME", "Fake V100,Fake T4,Fake H100"),
            ("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "7.0,7.5,9.0"),
            ("VISORD_FAKE_CUDA_DRIVER_VERSION", "12020"),
        ],
    ),
    case("cuda", "allocations_fail", &[("VISORD_FAKE_CUDA_FAIL_ALLOC_AFTER", "2")]),
    case("cuda", "copies_fail", &[("VISORD_FAKE_CUDA_FAIL_COPY_EVERY", "3")]),
    case("cuda", "launches_stick", &[STICKY_AFTER]),
    case("cuda", "launches_stick", &[("VISORD_FAKE_CUDA_STICKY_FILE", "@/sticky")]),
    case("cuda", "launches_stick", &[STICKY_AFTER, ("VISORD_FAKE_CUDA_RESET_FAILS", "1")]),
    case("cuda", "launches_stick", &[STICKY_AFTER, ("VISORD_FAKE_CUDA_RESET_FAILS", "2")]),
    case("nvinfer", "computes_means", &[STRICT]),
    case("nvinfer", "computes_means", &[STRICT, ("VISORD_FAKE_NVINFER_NAN_ROW", "1")]),
    case("nvinfer", "engine_says_what_it_is", &[STRICT]),
    case("nvinfer", "order_of_calls_matters", &[]),
    case("nvinfer", "contexts_run_once_at_a_time", &[("VISORD_FAKE_NVINFER_COMPUTE_MICROSECONDS", "20000")]),
    case(
        "nvinfer",
        "contexts_share_scratch_memory",
        &[("VISORD_FAKE_NVINFER_COMPUTE_MICROSECONDS", "20000")],
    ),
    case("nvinfer", "plans_are_checked", &[STRICT]),
    case("nvinfer", "plans_are_for_one_device", &[("PLAN_FILE", "@/../plan")]),
    case(
        "nvinfer",
        "plans_are_for_one_device",
        &[("PLAN_FILE", "@/../plan"), ("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "9.0")],
    ),
    case("nvinfer", "networks_are_checked", &[STRICT]),
    case("nvinfer", "builds_take_time_and_stop", &[("VISORD_FAKE_NVINFER_BUILD_MILLISECONDS", "200")]),
    case("nvinfer", "enqueues_fail", &[STRICT, ("VISORD_FAKE_NVINFER_FAIL_ENQUEUE_EVERY", "2")]),
    case("nvinfer", "no_device", &[NO_DEVICE]),
];

#[test]
fn the_fakes_pass_their_own_tests() {
    let libraries = fake::libraries();
    let folder = tempfile::tempdir().unwrap();
    for (i, case) in CASES.iter().enumerate() {
        let own = folder.path().join(i.to_string());
        std::fs::create_dir(&own).unwrap();
        let mut command = Command::new(libraries.join(format!("selftest-{}", case.program)));
        command.arg(case.name).env("VISORD_FAKE_CUDA_COUNTERS", own.join("counters.json"));
        command.env_remove("CUDA_VISIBLE_DEVICES");
        for (name, value) in case.env {
            command.env(name, value.replace('@', own.to_str().unwrap()));
        }
        let output = command.output().unwrap();
        let status = output.status;
        let right = case.signal.map_or(status.success(), |s| status.signal() == Some(s));
        assert!(right, "{} {} {:?}: {status}\n{}", case.program, case.name, case.env, common::text(&output));
    }
}

/// No case is forgotten in the table.
#[test]
fn every_case_of_the_programs_runs() {
    for program in ["cuda", "nvinfer"] {
        let listed = Command::new(fake::libraries().join(format!("selftest-{program}"))).output().unwrap();
        for name in common::text(&listed).lines() {
            assert!(CASES.iter().any(|c| c.program == program && c.name == name), "{program} {name}");
        }
    }
}

/// Runs `body` in a process of this test alone, with the host device on the loader's path.
#[allow(clippy::disallowed_methods, reason = "tells the process that is the child")]
fn on_the_host_device(test: &str, body: fn()) {
    if std::env::var_os("VISORD_TEST_CHILD").is_some() {
        return body();
    }
    let folder = tempfile::tempdir().unwrap();
    let counters = Counters::new(folder.path().join("counters.json"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("VISORD_TEST_CHILD", "1")
        .env("LD_LIBRARY_PATH", fake::libraries())
        .env("VISORD_FAKE_CUDA_STRICT", "1")
        .env("VISORD_FAKE_CUDA_COUNTERS", counters.file())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", common::text(&output));
    let last = counters.last();
    assert_eq!(last.get("launches.fake_increment"), 1, "{last:?}");
    assert_eq!(last.get("device_allocations"), last.get("device_frees"), "{last:?}");
    assert_eq!(last.get("live_streams"), 0, "{last:?}");
}

const INCREMENT: &str = ".version 7.8\n.target sm_70\n.address_size 64\n.visible .entry fake_increment(\n\
                         .param .u64 values,\n.param .u32 count\n)\n{\nret;\n}\n";

/// What the daemon calls CUDA with finds every symbol that it wants.
#[test]
fn cudarc_runs_on_the_fake_driver() {
    on_the_host_device("cudarc_runs_on_the_fake_driver", || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.compute_capability().unwrap(), (7, 0));
        assert_eq!(context.name().unwrap(), "Fake Tesla V100-SXM2-16GB");
        let stream = context.new_stream().unwrap();
        let source = CString::new(INCREMENT).unwrap();
        // SAFETY: the text ends with a zero byte, and the context is current.
        let module = unsafe { result::module::load_data(source.as_ptr().cast()) }.unwrap();
        let entry = CString::new("fake_increment").unwrap();
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module, entry) }.unwrap();
        let mut values = stream.clone_htod(&[1_u32, 2, 3]).unwrap();
        {
            let (mut address, _busy) = values.device_ptr_mut(&stream);
            let mut count = 3_u32;
            let mut arguments = [(&raw mut address).cast(), (&raw mut count).cast()];
            let (grid, block, on) = ((1, 1, 1), (32, 1, 1), stream.cu_stream());
            // SAFETY: the arguments are the kernel's, and the buffer has as many elements as it is told.
            unsafe { result::launch_kernel(function, grid, block, 0, on, &mut arguments) }.unwrap();
        }
        let end = stream.record_event(None).unwrap();
        end.synchronize().unwrap();
        assert_eq!(stream.clone_dtoh(&values).unwrap(), [2, 3, 4]);
        // SAFETY: nothing uses the module any more.
        unsafe { result::module::unload(module) }.unwrap();
    });
}
