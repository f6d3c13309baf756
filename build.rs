//! Build script: names the commit that the binary is built from, compiles `proto/` and the TensorRT shim.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    commit();
    if let Err(why) = protobuf() {
        println!("cargo::error={why}");
    }
    #[cfg(feature = "tensorrt")]
    if let Err(why) = tensorrt::shim() {
        println!("cargo::error={why}");
    }
}

/// A variable that the build depends on.
#[allow(clippy::disallowed_methods, reason = "a build script is configured by its environment")]
fn env(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// Sets `VISORD_COMMIT` for `visord --version` and the build metric; a package build without git can set it
/// from outside.
fn commit() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("rev-parse").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // In a second work tree of a repository they are elsewhere. A path that does not exist would make every build
    // run this again.
    for path in git(&["--git-path", "HEAD", "--git-path", "refs/heads"]).iter().flat_map(|p| p.lines()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = env("VISORD_COMMIT").or_else(|| git(&["--short=12", "HEAD"]));
    println!("cargo::rustc-env=VISORD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// Code for `proto/`: `server/` is the daemon's, `client/` is what tests call it with. Two messages of the server's
/// are written by hand (`src/server/grpc`), since their decoding is where bounds belong. `protocols.bin` is what
/// reflection answers.
fn protobuf() -> Result<(), Box<dyn std::error::Error>> {
    const FOLDER: &str = "proto";
    println!("cargo::rerun-if-changed={FOLDER}");
    #[allow(clippy::disallowed_methods, reason = "cargo's own; never changes for a build script")]
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let files = ["inference.proto", "pipeline_service.proto"];
    let mut compiler = protox::Compiler::new([FOLDER])?;
    compiler.include_imports(true).open_files(files)?;
    std::fs::write(out_dir.join("protocols.bin"), compiler.encode_file_descriptor_set())?;
    let set = compiler.include_source_info(true).file_descriptor_set();
    for (kind, server) in [("server", true), ("client", false)] {
        let folder = out_dir.join(kind);
        std::fs::create_dir_all(&folder)?;
        let mut builder = tonic_prost_build::configure()
            .build_server(server)
            .build_client(!server)
            .build_transport(false)
            .bytes(".")
            .out_dir(&folder);
        if server {
            let by_hand = "crate::server::grpc";
            builder = builder
                .codec_path(format!("{by_hand}::codec::Codec"))
                .extern_path(".inference.ModelInferRequest", format!("{by_hand}::request::ModelInferRequest"))
                .extern_path(
                    ".baidu.paddle_serving.pipeline_serving.Request",
                    format!("{by_hand}::pipeline_request::Request"),
                );
        }
        builder.compile_fds(set.clone())?;
    }
    Ok(())
}

/// The C++ shim in `src/ffi/tensorrt`, compiled once for each set of TensorRT's headers. TensorRT's own libraries
/// are opened at run time; nothing of CUDA is needed here.
#[cfg(feature = "tensorrt")]
mod tensorrt {
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::env;

    const FOLDER: &str = "src/ffi/tensorrt";

    const SOURCES: [&str; 4] = ["shim.cpp", "shim.h", "shim_build.h", "shim_support.h"];

    /// What TensorRT's headers include of CUDA: two names, of which they use pointers only.
    const CUDA_STUB: &str = "#pragma once\n\
        typedef struct CUstream_st* cudaStream_t;\n\
        typedef struct CUevent_st* cudaEvent_t;\n";

    /// A set of headers.
    struct HeaderSet {
        /// In names of functions, cfgs and variables: `10`, `11`, `rtx`.
        key: &'static str,
        folder: PathBuf,
        version: [u32; 3],
    }

    pub(super) fn shim() -> Result<(), String> {
        // Cargo.lock says which package the headers are from.
        for file in ["build.rs", "Cargo.lock"] {
            println!("cargo::rerun-if-changed={file}");
        }
        for file in SOURCES {
            println!("cargo::rerun-if-changed={FOLDER}/{file}");
        }
        println!(
            "cargo::rustc-check-cfg=cfg(tensorrt_headers_10, tensorrt_headers_11, tensorrt_headers_rtx)"
        );
        let mut sets = Vec::new();
        if let Some(folder) = env("TENSORRT_INCLUDE_DIR_10") {
            let set =
                read_set("10", Path::new(&folder)).map_err(|e| format!("TENSORRT_INCLUDE_DIR_10: {e}"))?;
            if set.version[0] != 10 {
                return Err(format!(
                    "TENSORRT_INCLUDE_DIR_10={folder} holds the headers of TensorRT {}",
                    set.version[0]
                ));
            }
            sets.push(set);
        }
        match package("trtx-sys") {
            Ok(package) => {
                let headers = package.join("TensorRT-Headers");
                for (key, folder) in [("11", "TRT-Enterprise-11.4"), ("rtx", "TRT-RTX-1.7")] {
                    match read_set(key, &headers.join(folder)) {
                        Ok(set) => sets.push(set),
                        Err(why) => println!("cargo::warning=no headers of TensorRT {key}: {why}"),
                    }
                }
            }
            Err(why) => println!(
                "cargo::warning=visord is built without TensorRT 11 and TensorRT-RTX, as their headers cannot be had \
                 (to try again: touch build.rs): {why}"
            ),
        }
        #[allow(clippy::disallowed_methods, reason = "cargo's own; never changes for a build script")]
        let out_dir = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
        let out_dir = PathBuf::from(out_dir);
        let stub = out_dir.join("cuda-stub");
        std::fs::create_dir_all(&stub)
            .and_then(|()| std::fs::write(stub.join("cuda_runtime_api.h"), CUDA_STUB))
            .map_err(|e| format!("{}: {e}", stub.display()))?;
        println!("cargo::rustc-link-search=native={}", out_dir.display());
        for set in &sets {
            compile(set, &stub, &out_dir)?;
        }
        if !sets.is_empty() {
            let apple = cfg!(target_vendor = "apple");
            println!("cargo::rustc-link-lib={}", if apple { "c++" } else { "stdc++" });
        }
        println!("cargo::rustc-env=VISORD_TENSORRT_HEADERS={}", describe(&sets));
        Ok(())
    }

    fn compile(set: &HeaderSet, stub: &Path, out_dir: &Path) -> Result<(), String> {
        let HeaderSet { key, folder, .. } = set;
        println!("cargo::rustc-cfg=tensorrt_headers_{key}");
        let library = format!("visord_trt_{key}");
        println!("cargo::rustc-link-lib=static={library}");
        // This script runs after every commit too, to name it, and a compilation takes seconds.
        let recipe = recipe(set)?;
        let stamp = out_dir.join(format!("{library}.stamp"));
        let archive = out_dir.join(format!("lib{library}.a"));
        if archive.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|s| s == recipe) {
            return Ok(());
        }
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .pic(true)
            // Debug builds too: it is on the request path, and its headers take most of the time anyway.
            .opt_level(2)
            .cargo_metadata(false)
            .warnings(true)
            .extra_warnings(true)
            .flag("-fvisibility=hidden")
            // Inline functions of TensorRT's classes have the same names in every major, and the linker would keep
            // one of each: 149 of 155 weak symbols collide between 10.4 and 11.4.
            .define("nvinfer1", format!("nvinfer1_trt{key}").as_str())
            .define("nvonnxparser", format!("nvonnxparser_trt{key}").as_str())
            .define("VISORD_TRT_API", format!("visord_trt_api_{key}").as_str())
            .define("VISORD_TRT_IS_RTX", if *key == "rtx" { "1" } else { "0" })
            .file(format!("{FOLDER}/shim.cpp"));
        for include in [folder.as_path(), stub] {
            build.flag("-isystem").flag(include);
        }
        build.try_compile(&library).map_err(|e| {
            format!(
                "the TensorRT shim needs a C++17 compiler (Debian and Ubuntu: apt-get install g++; or set CXX); \
                 `cargo build --no-default-features` builds visord without TensorRT. {e}"
            )
        })?;
        std::fs::write(&stamp, recipe).map_err(|e| format!("{}: {e}", stamp.display()))
    }

    /// Everything that an archive depends on, but for the compiler behind its name.
    fn recipe(set: &HeaderSet) -> Result<String, String> {
        let mut text = format!("{} {:?}\n", set.folder.display(), set.version);
        for variable in ["CXX", "CXXFLAGS"] {
            text += &format!("{variable} {:?}\n", env(variable));
        }
        for path in
            SOURCES.map(|file| format!("{FOLDER}/{file}")).iter().map(String::as_str).chain(["build.rs"])
        {
            text += &std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
        }
        Ok(text)
    }

    /// As `visord --version` says it, e.g. `11.4, RTX 1.7`.
    fn describe(sets: &[HeaderSet]) -> String {
        let names: Vec<String> = sets
            .iter()
            .map(|s| format!("{}{}.{}", if s.key == "rtx" { "RTX " } else { "" }, s.version[0], s.version[1]))
            .collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// Reads `NvInferVersion.h`.
    fn read_set(key: &'static str, folder: &Path) -> Result<HeaderSet, String> {
        for file in ["NvInfer.h", "NvOnnxParser.h"] {
            if !folder.join(file).is_file() {
                return Err(format!("{} has no {file}", folder.display()));
            }
        }
        let path = folder.join("NvInferVersion.h");
        println!("cargo::rerun-if-changed={}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let defines: HashMap<&str, &str> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.strip_prefix("#define ")?.split_whitespace();
                Some((words.next()?, words.next()?))
            })
            .collect();
        // The value is a number, or the name of another define.
        let number = |name: &str| {
            let value = *defines.get(name)?;
            value.parse().ok().or_else(|| defines.get(value)?.parse().ok())
        };
        let version = ["NV_TENSORRT_MAJOR", "NV_TENSORRT_MINOR", "NV_TENSORRT_PATCH"].map(number);
        let [Some(major), Some(minor), Some(patch)] = version else {
            return Err(format!("{} does not say which version it is", path.display()));
        };
        Ok(HeaderSet { key, folder: folder.to_owned(), version: [major, minor, patch] })
    }

    /// The folder of a package's source: from what cargo has already, else with the network. It is no dependency
    /// that is compiled, so cargo may not have fetched it.
    fn package(name: &str) -> Result<PathBuf, String> {
        #[allow(clippy::disallowed_methods, reason = "cargo's own; never changes for a build script")]
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let run = |offline: &[&str]| -> Result<PathBuf, String> {
            let output = Command::new(&cargo)
                .args(["metadata", "--format-version", "1", "--locked"])
                .args(offline)
                .output()
                .map_err(|e| format!("cargo metadata: {e}"))?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr);
                return Err(format!("cargo metadata: {}", text.trim().replace('\n', " ")));
            }
            let metadata: serde_json::Value =
                serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
            let packages = metadata["packages"].as_array().into_iter().flatten();
            let manifest = packages.filter(|p| p["name"] == name).find_map(|p| p["manifest_path"].as_str());
            let folder = manifest.and_then(|m| Path::new(m).parent());
            folder.map(Path::to_owned).ok_or_else(|| format!("Cargo.lock has no package {name}"))
        };
        run(&["--offline"]).or_else(|_| run(&[]))
    }
}
