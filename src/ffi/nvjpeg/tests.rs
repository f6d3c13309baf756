//! The real libraries, which open without a GPU, and files that are none.

use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// Folders with nvJPEG 11.9, 12.3, 12.4 and 13.3, fetched once.
fn real_libraries() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("scripts/nvjpeg")).current_dir(root).output().expect("python3 runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/nvjpeg needs a network the first time: {said}");
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

#[test]
fn the_image_is_laid_out_as_in_c() {
    assert_eq!(size_of::<sys::Image>(), 64);
    assert_eq!((offset_of!(sys::Image, channel), offset_of!(sys::Image, pitch)), (0, 32));
    assert_eq!(size_of::<sys::Functions>(), sys::SYMBOLS.len() * size_of::<usize>());
}

#[test]
fn every_real_library_opens_and_has_every_function() {
    let expected = [
        ("libnvjpeg.so.11", Version(11, 9, 0), 11, false),
        ("libnvjpeg.so.12", Version(12, 3, 0), 12, true),
        ("libnvjpeg.so.12", Version(12, 4, 0), 12, true),
        ("libnvjpeg.so.13", Version(13, 3, 2), 13, true),
    ];
    let folders = real_libraries();
    assert_eq!(folders.len(), expected.len());
    for (folder, (soname, version, cuda, interpolates)) in folders.iter().zip(expected) {
        let library = Library::open(Some(folder)).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        assert_eq!(library.path(), folder.join(soname).display().to_string());
        assert_eq!(library.version(), version, "{soname}");
        assert_eq!(library.cuda_runtime().0, cuda, "{soname}");
        assert_eq!(library.interpolates_chroma(), interpolates, "{soname} {version}");
        // The optional ones as well: what they are for is worth knowing on every version.
        let functions = &library.functions;
        assert!(functions.nvjpegDecodeBatchedSupported.is_some(), "{soname} {version}");
        assert!(functions.nvjpegGetHardwareDecoderInfo.is_some(), "{soname} {version}");
        for backend in [Backend::Default, Backend::Hardware] {
            match Codec::new(&library, backend) {
                Err(error) => {
                    assert_eq!(
                        error,
                        NvjpegError { call: "nvjpegCreateEx", code: 6 },
                        "{soname} {backend:?}"
                    );
                    assert_eq!(error.to_string(), "nvjpegCreateEx failed with status 6 (EXECUTION_FAILED)");
                }
                Ok(_) => assert!(Path::new("/dev/nvidiactl").exists(), "{soname} {backend:?} without a GPU"),
            }
        }
    }
}

#[test]
fn what_is_no_nvjpeg_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Library::open(Some(folder.path())).expect_err("an empty folder").to_string();
    for soname in ["libnvjpeg.so.12", "libnvjpeg.so.13", "libnvjpeg.so.11"] {
        assert!(error.contains(&folder.path().join(soname).display().to_string()), "{error}");
    }

    let path = folder.path().join("libnvjpeg.so.13");
    std::fs::write(&path, "no library").unwrap();
    let error = Library::open(Some(folder.path())).expect_err("a text file");
    assert!(matches!(error, LoadError::NotFound { .. }), "{error}");

    // One function of thirty.
    let source = folder.path().join("library.c");
    std::fs::write(&source, "int nvjpegGetProperty(int kind, int *value) { *value = kind; return 0; }\n")
        .unwrap();
    let mut compiler = Command::new("cc");
    let compiled = compiler.args(["-shared", "-fPIC", "-o"]).arg(&path).arg(&source).status().unwrap();
    assert!(compiled.success());
    let error = Library::open(Some(folder.path())).expect_err("a library of one function");
    let library = path.display().to_string();
    assert_eq!(error, LoadError::MissingSymbol { library, symbol: "nvjpegGetCudartProperty" });
}

#[test]
fn statuses_have_names_and_owners() {
    for (code, name, picture, engine) in [
        (1, "NOT_INITIALIZED", false, false),
        (2, "INVALID_PARAMETER", false, false),
        (3, "BAD_JPEG", true, false),
        (4, "JPEG_NOT_SUPPORTED", true, false),
        (5, "ALLOCATOR_FAILURE", false, false),
        (6, "EXECUTION_FAILED", false, false),
        (7, "ARCH_MISMATCH", false, true),
        (8, "INTERNAL_ERROR", false, false),
        (9, "IMPLEMENTATION_NOT_SUPPORTED", true, true),
        (10, "INCOMPLETE_BITSTREAM", true, false),
        (11, "a status that visord does not know", false, false),
    ] {
        let error = NvjpegError { call: "nvjpegDecodeBatched", code };
        let got = (error.name(), error.blames_picture(), error.means_no_engine());
        assert_eq!(got, (name, picture, engine), "{code}");
    }
}
