//! The integration tests, one behaviour a file, linked once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

mod bench_command;
mod configuration;
mod console;
mod docs;
mod doctor;
mod drift;
#[cfg(feature = "tensorrt")]
mod gpu_live;
#[cfg(feature = "tensorrt")]
mod gpu_metrics;
#[cfg(feature = "tensorrt")]
mod gpu_path;
mod grpc;
mod hostile_bytes;
mod http2;
mod image_golden;
mod init;
#[cfg(feature = "tensorrt")]
mod kernels;
mod life_cycle;
mod live;
mod migrate;
mod models;
mod numpy_text;
#[cfg(feature = "tensorrt")]
mod plan_cache;
mod protocols;
mod shared_memory;
mod tls;
mod traffic;
mod versions;

/// Tests that are binaries of their own: they load libraries into their process.
const APART: [&str; 1] = ["fake_device"];

#[test]
fn every_file_is_linked() {
    let text = include_str!("main.rs");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if path.extension().is_some_and(|e| e == "rs") && stem != "main" && !APART.contains(&stem) {
            assert!(
                text.contains(&format!("\nmod {stem};\n")),
                "tests/{stem}.rs is not run: add `mod {stem};`"
            );
        }
    }
}
