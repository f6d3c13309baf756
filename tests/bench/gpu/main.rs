//! What a GPU does with the pieces of the device path, with no server around them: that kernels and decoders give the
//! CPU path's results, and how fast they are. `scripts/gpu-check` runs it; by hand, `cargo bench --bench gpu -- --help`.
//!
//! A JSON document goes to standard output, a table to standard error. Exit status 1: a check failed; 2: there is no
//! GPU to use. Over the host device of `tests/fake` it runs as well, and its times mean nothing.
#![allow(unsafe_code, reason = "enqueues work on a device, as the daemon does")]

mod decode;
mod device;
mod expect;
mod kernels;
mod pixels;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use device::Gpu;

/// Whatever keeps a check or a measurement from being made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Checks and times the GPU path piece by piece.
#[derive(Parser)]
struct Arguments {
    /// Fewer cases and shorter times.
    #[arg(long)]
    quick: bool,
    /// Folder of JPEGs to decode on GPU and CPU.
    #[arg(long, default_value = "tests/golden/images")]
    images: PathBuf,
    /// Folder with libnvjpeg, where the loader does not find it by itself.
    #[arg(long)]
    nvjpeg_dir: Option<PathBuf>,
    /// Instead of all else, and without a GPU: write what the CPU path feeds the model of `--model-repository` for
    /// every file of `--images`, `COUNT` values a file, evenly spread.
    #[arg(long, value_name = "COUNT")]
    expect: Option<usize>,
    /// For `--expect`.
    #[arg(long, default_value = "engines")]
    model_repository: PathBuf,
    /// Instead of all else, and without a GPU: write the sample JPEGs, `WIDTHxHEIGHT.jpg`, to this folder.
    #[arg(long, value_name = "DIR")]
    write_samples: Option<PathBuf>,
    /// `cargo bench` adds it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was checked and measured.
#[derive(Default)]
pub struct Report {
    checks: Vec<Value>,
    failed: usize,
}

impl Report {
    /// Adds a check, and its line in the table.
    pub fn check(&mut self, name: &str, ok: bool, numbers: Value) {
        let mark = if ok { "ok  " } else { "FAIL" };
        let mut short = numbers.to_string();
        if let Some((end, _)) = short.char_indices().nth(200) {
            short.truncate(end);
            short.push('…');
        }
        eprintln!("{mark} {name}: {short}");
        self.failed += usize::from(!ok);
        self.checks.push(json!({ "name": name, "ok": ok, "numbers": numbers }));
    }

    /// Adds a check that could not be made to its end.
    pub fn attempt<T>(&mut self, name: &str, result: Result<T, Failure>) -> Option<T> {
        result.map_err(|e| self.check(name, false, json!({ "error": e.to_string() }))).ok()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (&arguments.write_samples, arguments.expect) {
        (Some(folder), _) => expect::samples(folder).map(|v| (v, ExitCode::SUCCESS)),
        (None, Some(count)) => expect::values(&arguments.model_repository, &arguments.images, count)
            .map(|v| (v, ExitCode::SUCCESS)),
        (None, None) => measure(&arguments),
    };
    match done {
        Ok((document, code)) => {
            println!("{document:#}");
            code
        }
        Err(why) => {
            eprintln!("gpu: {why}");
            ExitCode::from(2)
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(Value, ExitCode), Failure> {
    let mut report = Report::default();
    let slot = Gpu::find()?;
    let device = slot.device()?;
    // The context is current to this thread until everything below is freed.
    let section = device.enter()?;
    let gpu = Gpu::open(&device, &mut report)?;
    let quick = arguments.quick;

    kernels::preprocess(&gpu, quick, &mut report);
    kernels::l2_normalize(&gpu, quick, &mut report);
    let kernel_times = report.attempt("kernels are timed", kernels::times(&gpu, quick));
    let nvjpeg = report.attempt("nvJPEG opens", decode::open(arguments.nvjpeg_dir.as_deref()));
    let (mut rates, mut nvjpeg_facts) = (None, Value::Null);
    if let Some(nvjpeg) = &nvjpeg {
        nvjpeg_facts = decode::facts(nvjpeg);
        report.check("nvJPEG opens", true, nvjpeg_facts.clone());
        pixels::compare(&gpu, nvjpeg, &arguments.images, &mut report);
        rates = report.attempt("decoders are timed", decode::rates(&gpu, nvjpeg, quick));
    }
    let document = json!({
        "what": "visord, gpu bench",
        "version": format!("{} ({})", env!("CARGO_PKG_VERSION"), visord::COMMIT),
        "quick": quick,
        "device": gpu.facts()?,
        "nvjpeg": nvjpeg_facts,
        "checks": report.checks,
        "failed": report.failed,
        "kernel_times": kernel_times,
        "decode_rates": rates,
    });
    drop(nvjpeg);
    drop(gpu);
    drop(section);
    Ok((document, if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}
