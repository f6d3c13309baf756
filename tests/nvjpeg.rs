//! JPEG decoding on the GPU, over the fake libcuda and libnvjpeg of `tests/fake`: pixels equal the CPU decoder's, and
//! the order of calls is one that nvJPEG allows, which the fake checks harshly.
#![cfg(feature = "tensorrt")]
#![allow(
    unsafe_code,
    reason = "gives device memory and streams to the decoders, and misuses the fake on purpose"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test that starts itself again tells the child so by its environment"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use cudarc::driver::{result, sys};
use libloading::Symbol;
use visord::gpu::descriptor::DeviceImage;
use visord::gpu::jpeg::{
    Capabilities, Decode, DecodeError, DecoderChoice, HardwareDecoder, Library, Nvjpeg, Policy, Thresholds,
    route, sample_jpegs,
};
use visord::image::{Decoder, JpegHeader, Limits, jpeg_header};

/// Says to a child process that it is one.
const CHILD: &str = "VISORD_TEST_CHILD";

/// Builds the fake libraries, and gives their folder.
fn fakes(sanitize: bool) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(if sanitize { "fake-sanitized" } else { "fake" });
    let mut build = Command::new(root.join("tests/fake/build"));
    build.arg(&out).args(sanitize.then_some("--sanitize"));
    let output = build.output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out
}

/// How a child ended.
struct Ended {
    success: bool,
    output: String,
    counters: serde_json::Value,
}

impl Ended {
    fn count(&self, group: &str, name: &str) -> u64 {
        self.counters[group][name].as_u64().unwrap_or(0)
    }
}

/// Runs the test `name` again in a process that has the fakes and `environment`, whatever comes of it.
fn start(name: &str, environment: &[(&str, &str)], sanitize: bool) -> Ended {
    let libraries = fakes(sanitize);
    let folder = tempfile::tempdir().unwrap();
    let counters = folder.path().join("counters.json");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    child.env(CHILD, &libraries).env("LD_LIBRARY_PATH", &libraries);
    // Every mistake ends the child; what is asynchronous takes its time.
    child.env("VISORD_FAKE_CUDA_STRICT", "1").env("VISORD_FAKE_CUDA_DELAY_MICROSECONDS", "500");
    child.env("VISORD_FAKE_NVJPEG_COUNTERS", &counters);
    if sanitize {
        let library = |name: &str| {
            let found = Command::new("c++").arg(format!("-print-file-name={name}")).output().unwrap();
            String::from_utf8(found.stdout).unwrap().trim().to_owned()
        };
        child.env("LD_PRELOAD", format!("{} {}", library("libasan.so"), library("libubsan.so")));
        // The test harness leaves its own memory behind.
        child.env("ASAN_OPTIONS", "detect_leaks=0");
    }
    child.envs(environment.iter().copied());
    let ended = child.output().unwrap();
    let output =
        format!("{}\n{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let counters = std::fs::read(&counters).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ended { success: ended.status.success(), output, counters: counters.unwrap_or_default() }
}

/// The folder of the fakes, in a child of [`start`].
fn in_child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// In the test process: runs `name` again in a child, which must succeed, and gives how it ended. In the child: runs
/// `body` on a device.
fn on_device(name: &str, environment: &[(&str, &str)], body: fn(&Device)) -> Option<Ended> {
    if let Some(libraries) = in_child() {
        body(&Device::new(&libraries));
        return None;
    }
    let ended = start(name, environment, false);
    assert!(ended.success, "{}", ended.output);
    Some(ended)
}

/// The fake's first device, with its context current on this thread.
struct Device {
    library: std::sync::Arc<Library>,
    context: sys::CUcontext,
}

// SAFETY: a context may be made current on any thread.
unsafe impl Sync for Device {}

impl Device {
    fn new(libraries: &Path) -> Self {
        result::init().unwrap();
        // SAFETY: the device exists, and is given back when the process ends.
        let context = unsafe { result::primary_ctx::retain(result::device::get(0).unwrap()) }.unwrap();
        let device = Self { library: Library::open(Some(libraries)).unwrap(), context };
        device.enter();
        device
    }

    /// Makes the context current on this thread.
    fn enter(&self) {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(self.context) }.unwrap();
    }

    fn nvjpeg(&self) -> Nvjpeg {
        Nvjpeg::new(self.library.clone()).unwrap()
    }
}

fn stream() -> sys::CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

fn synchronize(stream: sys::CUstream) {
    // SAFETY: the stream is live.
    unsafe { result::stream::synchronize(stream) }.unwrap();
}

/// Device memory for one picture, with rows longer than they need be.
struct Memory {
    image: DeviceImage,
}

impl Memory {
    fn new(header: &JpegHeader) -> Self {
        let pitch = header.width as usize * 3 + 13;
        let bytes = pitch * (header.height as usize - 1) + header.width as usize * 3;
        // SAFETY: plain allocation.
        let address = unsafe { result::malloc_sync(bytes) }.unwrap();
        let (width, height, orientation) = (header.width, header.height, header.orientation);
        Self { image: DeviceImage { address, bytes, pitch, width, height, orientation } }
    }

    /// The picture without the ends of its rows.
    fn pixels(&self) -> Vec<u8> {
        let mut all = vec![0; self.image.bytes];
        // SAFETY: as many bytes as were allocated.
        unsafe { result::memcpy_dtoh_sync(&mut all, self.image.address) }.unwrap();
        all.chunks(self.image.pitch).flat_map(|row| row[..self.image.width as usize * 3].to_vec()).collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated above; tests synchronise before they let go.
        unsafe { result::free_sync(self.image.address) }.unwrap();
    }
}

/// A golden JPEG.
struct Picture {
    name: String,
    encoded: Vec<u8>,
    header: JpegHeader,
    expected: Vec<u8>,
}

fn picture(name: &str, encoded: Vec<u8>) -> Picture {
    let header = jpeg_header(&encoded, &Limits::default()).expect("a JPEG").expect("with a frame");
    let expected = Decoder::new().decode(&encoded, &Limits::default()).unwrap().pixels().to_vec();
    Picture { name: name.to_owned(), encoded, header, expected }
}

fn golden(name: &str) -> Picture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images").join(name);
    picture(name, std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// Every golden JPEG, by name.
fn goldens() -> Vec<Picture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".jpg"))
        .collect();
    names.sort();
    names.iter().map(|name| golden(name)).collect()
}

fn decides(header: &JpegHeader, choice: DecoderChoice) -> Decode {
    let everything = Capabilities { hardware: true, hybrid: true };
    route(header, &everything, &Policy { choice, thresholds: Thresholds::NEVER })
}

/// Decodes `pictures` in one batch and compares.
fn decode_batch(decoder: &mut HardwareDecoder, pictures: &[&Picture], stream: sys::CUstream) {
    let memory: Vec<Memory> = pictures.iter().map(|p| Memory::new(&p.header)).collect();
    let batch: Vec<(&[u8], DeviceImage)> =
        pictures.iter().zip(&memory).map(|(p, m)| (&p.encoded[..], m.image)).collect();
    // SAFETY: the memory has the pictures' sizes; it and the bytes live until the stream is synchronised.
    unsafe { decoder.decode(&batch, stream) }.unwrap();
    synchronize(stream);
    for (picture, memory) in pictures.iter().zip(&memory) {
        assert!(memory.pixels() == picture.expected, "{} differs from the CPU's", picture.name);
    }
}

fn pixels_equal(device: &Device) {
    let nvjpeg = device.nvjpeg();
    assert_eq!(nvjpeg.hardware(), Ok(Some((1, 5))));
    let stream = stream();
    let pictures = goldens();
    let way = |choice| {
        pictures.iter().filter(|p| decides(&p.header, choice) != Decode::Cpu).collect::<Vec<&Picture>>()
    };

    let engine: Vec<&Picture> = way(DecoderChoice::Hardware)
        .into_iter()
        .filter(|p| decides(&p.header, DecoderChoice::Hardware) == Decode::Hardware)
        .collect();
    let mut decoder = nvjpeg.hardware_decoder(engine.len()).unwrap();
    for p in &engine {
        assert_eq!(decoder.supported(&p.encoded), Ok(true), "{}", p.name);
    }
    decode_batch(&mut decoder, &engine, stream);

    // The phases of several pictures overlap: memory is read when all are enqueued.
    let hybrid = way(DecoderChoice::Hybrid);
    let memory: Vec<Memory> = hybrid.iter().map(|p| Memory::new(&p.header)).collect();
    let mut lane = nvjpeg.hybrid_lane().unwrap();
    for (p, memory) in hybrid.iter().zip(&memory) {
        // SAFETY: the memory has the picture's size, and lives until the stream is synchronised.
        unsafe { lane.decode(&p.encoded, &memory.image, stream) }
            .unwrap_or_else(|e| panic!("{}: {e}", p.name));
    }
    synchronize(stream);
    for (p, memory) in hybrid.iter().zip(&memory) {
        assert!(memory.pixels() == p.expected, "{} differs from the CPU's", p.name);
    }

    let names = |kept: &dyn Fn(&Picture) -> bool| -> Vec<String> {
        pictures.iter().filter(|p| !kept(p)).map(|p| p.name.clone()).collect()
    };
    assert_eq!(
        names(&|p| hybrid.iter().any(|h| h.name == p.name)),
        ["jpeg_cmyk.jpg", "jpeg_no_huffman_tables.jpg", "jpeg_rgb.jpg", "jpeg_ycck.jpg"],
        "left to the CPU"
    );
    assert!(engine.len() >= 22 && hybrid.len() == pictures.len() - 4, "{} {}", engine.len(), hybrid.len());
    drop((decoder, lane));
}

#[test]
fn pixels_equal_the_cpu_decoders() {
    let Some(ended) = on_device("pixels_equal_the_cpu_decoders", &[], pixels_equal) else { return };
    assert!(ended.count("pictures", "hardware") >= 22, "{}", ended.counters);
    assert!(ended.count("pictures", "hybrid") >= 30, "{}", ended.counters);
    for (made, destroyed) in [
        ("nvjpegCreateEx", "nvjpegDestroy"),
        ("nvjpegJpegStreamCreate", "nvjpegJpegStreamDestroy"),
        ("nvjpegBufferPinnedCreate", "nvjpegBufferPinnedDestroy"),
        ("nvjpegBufferDeviceCreate", "nvjpegBufferDeviceDestroy"),
        ("nvjpegDecoderCreate", "nvjpegDecoderDestroy"),
        ("nvjpegDecodeParamsCreate", "nvjpegDecodeParamsDestroy"),
    ] {
        assert!(ended.count("calls", made) > 0, "{made}");
        assert_eq!(ended.count("calls", made), ended.count("calls", destroyed), "{made}, {destroyed}");
    }
}

#[test]
fn pixels_equal_under_sanitizers() {
    if let Some(libraries) = in_child() {
        return pixels_equal(&Device::new(&libraries));
    }
    let ended = start("pixels_equal_under_sanitizers", &[], true);
    assert!(ended.success, "{}", ended.output);
    assert!(ended.count("pictures", "hybrid") >= 30, "{}", ended.counters);
}

#[test]
fn a_gpu_without_an_engine_is_an_ordinary_outcome() {
    on_device(
        "a_gpu_without_an_engine_is_an_ordinary_outcome",
        &[("VISORD_FAKE_NVJPEG_HARDWARE", "0"), ("VISORD_FAKE_NVJPEG_VERSION", "12.0.1")],
        |device| {
            assert!(!device.library.interpolates_chroma());
            let nvjpeg = device.nvjpeg();
            let error = nvjpeg.hardware().expect_err("no engine");
            assert!(error.means_no_engine(), "{error}");
            assert_eq!(error.to_string(), "nvjpegCreateEx failed with status 7 (ARCH_MISMATCH)");
            assert_eq!(nvjpeg.capabilities(), Capabilities { hardware: false, hybrid: true });
            assert_eq!(nvjpeg.hardware_decoder(8).err(), Some(DecodeError::Device(error)));
            // The lane decodes all the same.
            let p = golden("astronaut.jpg");
            let memory = Memory::new(&p.header);
            let (mut lane, stream) = (nvjpeg.hybrid_lane().unwrap(), stream());
            // SAFETY: the memory has the picture's size, and lives until the stream is synchronised.
            unsafe { lane.decode(&p.encoded, &memory.image, stream) }.unwrap();
            synchronize(stream);
            assert!(memory.pixels() == p.expected);
        },
    );
}

#[test]
fn a_rejected_picture_is_named_and_the_next_one_decodes() {
    on_device(
        "a_rejected_picture_is_named_and_the_next_one_decodes",
        &[("VISORD_FAKE_NVJPEG_REJECT", "422")],
        |device| {
            let (nvjpeg, stream) = (device.nvjpeg(), stream());
            let (plain, refused) = (golden("jpeg_420.jpg"), golden("jpeg_422.jpg"));
            let mut decoder = nvjpeg.hardware_decoder(3).unwrap();
            assert_eq!(decoder.supported(&refused.encoded), Ok(false));
            assert_eq!(decoder.supported(b"\xff\xd8\xffno JPEG"), Ok(false));
            let memory: Vec<Memory> = [&plain, &refused, &plain].map(|p| Memory::new(&p.header)).into();
            let batch: Vec<(&[u8], DeviceImage)> = [&plain, &refused, &plain]
                .iter()
                .zip(&memory)
                .map(|(p, m)| (&p.encoded[..], m.image))
                .collect();
            // SAFETY: the memory has the pictures' sizes, and lives until the stream is synchronised.
            let error = unsafe { decoder.decode(&batch, stream) }.expect_err("one is rejected");
            assert!(
                matches!(&error, DecodeError::Rejected { pictures, source } if pictures == &[1] && source.code == 4),
                "{error:?}"
            );
            decode_batch(&mut decoder, &[&plain, &plain], stream);

            let mut lane = nvjpeg.hybrid_lane().unwrap();
            // SAFETY: as above.
            let error =
                unsafe { lane.decode(&refused.encoded, &memory[1].image, stream) }.expect_err("rejected");
            assert!(
                matches!(&error, DecodeError::Rejected { pictures, .. } if pictures == &[0]),
                "{error:?}"
            );
            // A header that nvJPEG cannot read is the picture's fault too.
            // SAFETY: as above.
            let error =
                unsafe { lane.decode(b"\xff\xd8\xffno", &memory[1].image, stream) }.expect_err("rejected");
            assert!(matches!(&error, DecodeError::Rejected { source, .. } if source.code == 3), "{error:?}");
            // SAFETY: as above.
            unsafe { lane.decode(&plain.encoded, &memory[0].image, stream) }.unwrap();
            synchronize(stream);
            assert!(memory[0].pixels() == plain.expected);

            // Memory that is too small never reaches nvJPEG.
            let short = DeviceImage { bytes: memory[0].image.bytes - 1, ..memory[0].image };
            // SAFETY: refused before anything is touched.
            let error = unsafe { lane.decode(&plain.encoded, &short, stream) }.expect_err("too small");
            assert!(matches!(error, DecodeError::Memory { picture: 0, .. }), "{error:?}");
            let narrow = DeviceImage { pitch: plain.header.width as usize * 3 - 1, ..memory[0].image };
            let batch = [(&plain.encoded[..], memory[0].image), (&plain.encoded[..], narrow)];
            // SAFETY: refused before anything is touched.
            let error = unsafe { decoder.decode(&batch, stream) }.expect_err("rows too short");
            assert!(matches!(error, DecodeError::Memory { picture: 1, .. }), "{error:?}");
        },
    );
}

#[test]
fn the_device_failing_is_no_pictures_fault() {
    on_device(
        "the_device_failing_is_no_pictures_fault",
        &[("VISORD_FAKE_NVJPEG_FAIL_EVERY", "3")],
        |device| {
            let (nvjpeg, stream) = (device.nvjpeg(), stream());
            let p = golden("jpeg_420.jpg");
            let memory = Memory::new(&p.header);
            let mut lane = nvjpeg.hybrid_lane().unwrap();
            let mut decoder = nvjpeg.hardware_decoder(1).unwrap();
            for turn in 1..=12 {
                let result = if turn % 2 == 0 {
                    // SAFETY: the memory has the picture's size, and lives until the stream is synchronised.
                    unsafe { lane.decode(&p.encoded, &memory.image, stream) }
                } else {
                    // SAFETY: as above.
                    unsafe { decoder.decode(&[(&p.encoded, memory.image)], stream) }
                };
                match result {
                    Err(DecodeError::Device(error)) => {
                        assert_eq!((turn % 3, error.code), (0, 6), "turn {turn}")
                    }
                    other => assert_eq!((other, turn % 3 == 0), (Ok(()), false), "turn {turn}"),
                }
                synchronize(stream);
                if turn % 3 != 0 {
                    assert!(memory.pixels() == p.expected, "turn {turn}");
                }
            }
        },
    );
}

#[test]
fn the_state_is_initialised_when_the_number_changes() {
    let Some(ended) = on_device("the_state_is_initialised_when_the_number_changes", &[], |device| {
        let (nvjpeg, stream) = (device.nvjpeg(), stream());
        let pictures = [golden("jpeg_420.jpg"), golden("jpeg_444.jpg"), golden("face.jpg")];
        let mut decoder = nvjpeg.hardware_decoder(3).unwrap();
        for count in [3, 3, 3, 2, 2, 1, 3] {
            let batch: Vec<&Picture> = pictures.iter().take(count).collect();
            decode_batch(&mut decoder, &batch, stream);
        }
    }) else {
        return;
    };
    assert_eq!(ended.count("calls", "nvjpegDecodeBatchedInitialize"), 4, "{}", ended.counters);
    assert_eq!(ended.counters["batches"], serde_json::json!({"1": 1, "2": 2, "3": 4}));
}

#[test]
fn lanes_of_many_threads_do_not_meet() {
    let Some(ended) = on_device("lanes_of_many_threads_do_not_meet", &[], |device| {
        let nvjpeg = device.nvjpeg();
        let mut pictures: Vec<Picture> = goldens()
            .into_iter()
            .filter(|p| decides(&p.header, DecoderChoice::Hybrid) == Decode::Hybrid)
            .collect();
        pictures.extend(sample_jpegs().unwrap().into_iter().map(|s| picture("sample", s.encoded)));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (nvjpeg, pictures) = (&nvjpeg, &pictures);
                scope.spawn(move || {
                    device.enter();
                    let (mut lane, stream) = (nvjpeg.hybrid_lane().unwrap(), stream());
                    for round in 0..12 {
                        let p = &pictures[(thread * 5 + round * 3) % pictures.len()];
                        let memory = Memory::new(&p.header);
                        // SAFETY: the memory has the picture's size, and lives until the stream is synchronised.
                        unsafe { lane.decode(&p.encoded, &memory.image, stream) }.unwrap();
                        synchronize(stream);
                        assert!(memory.pixels() == p.expected, "{} in thread {thread}", p.name);
                    }
                });
            }
        });
    }) else {
        return;
    };
    assert_eq!(ended.count("pictures", "hybrid"), 8 * 12, "{}", ended.counters);
}

#[test]
fn nothing_is_freed_after_a_sticky_error() {
    // The batch is the first launch, the lane's copy the second and its device phase the third.
    let environment = [("VISORD_FAKE_CUDA_STICKY_AFTER", "2")];
    let Some(ended) = on_device("nothing_is_freed_after_a_sticky_error", &environment, |device| {
        let (nvjpeg, stream) = (device.nvjpeg(), stream());
        let p = golden("jpeg_420.jpg");
        let memory = std::mem::ManuallyDrop::new(Memory::new(&p.header));
        let mut decoder = nvjpeg.hardware_decoder(1).unwrap();
        // SAFETY: the memory has the picture's size, and is never freed.
        unsafe { decoder.decode(&[(&p.encoded, memory.image)], stream) }.unwrap();
        let mut lane = nvjpeg.hybrid_lane().unwrap();
        // SAFETY: as above.
        unsafe { lane.decode(&p.encoded, &memory.image, stream) }.unwrap();
        // The error shows with the next picture, at the latest.
        // SAFETY: as above.
        let error =
            unsafe { lane.decode(&p.encoded, &memory.image, stream) }.expect_err("the context is lost");
        assert!(matches!(error, DecodeError::Cuda { code: 700, .. } | DecodeError::Device(_)), "{error:?}");
        lane.abandon();
        decoder.abandon();
        nvjpeg.abandon();
    }) else {
        return;
    };
    let calls = ended.counters["calls"].as_object().expect("calls were counted");
    let freed: Vec<&String> = calls.keys().filter(|name| name.ends_with("Destroy")).collect();
    assert!(freed.is_empty(), "{freed:?}");
}

// What the fake is for: each of these ends a process that does it.

type Call1 = unsafe extern "C" fn(*mut std::ffi::c_void) -> i32;

#[test]
fn the_fake_ends_a_process_that_misuses_it() {
    const NAME: &str = "the_fake_ends_a_process_that_misuses_it";
    const MISUSES: [(&str, &str); 5] = [
        ("null", "nvjpegJpegStreamDestroy: the JPEG stream is null"),
        ("kind", "nvjpegJpegStreamDestroy: a handle was given for a JPEG stream"),
        ("twice", "nvjpegDestroy: the handle was destroyed"),
        ("children", "nvjpegDestroy: 1 objects made from the handle are still there"),
        ("context", "no context is current"),
    ];
    if let Some(libraries) = in_child() {
        return misuse(&libraries, &std::env::var("VISORD_TEST_MISUSE").unwrap());
    }
    for (misuse, text) in MISUSES {
        let delay = ("VISORD_FAKE_CUDA_DELAY_MICROSECONDS", "200000");
        let ended = start(NAME, &[("VISORD_TEST_MISUSE", misuse), delay], false);
        assert!(!ended.success, "{misuse} went unnoticed");
        assert!(ended.output.contains(text), "{misuse}: {}", ended.output);
    }
}

fn misuse(libraries: &Path, misuse: &str) {
    use std::ffi::c_void;
    use std::ptr::{null_mut, with_exposed_provenance_mut};
    if misuse == "context" {
        result::init().unwrap();
        let _ = Nvjpeg::new(Library::open(Some(libraries)).unwrap());
        return;
    }
    let device = Device::new(libraries);
    // SAFETY: the fake is open already, and runs its constructors once.
    let fake = unsafe { libloading::Library::new(libraries.join("libnvjpeg.so.12")) }.unwrap();
    // SAFETY: the signatures are those of the fake.
    let create: Symbol<
        '_,
        unsafe extern "C" fn(i32, *mut c_void, *mut c_void, u32, *mut *mut c_void) -> i32,
    > = unsafe { fake.get(b"nvjpegCreateEx") }.unwrap();
    // SAFETY: as above.
    let destroy: Symbol<'_, Call1> = unsafe { fake.get(b"nvjpegDestroy") }.unwrap();
    // SAFETY: as above.
    let stream_create: Symbol<'_, unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> i32> =
        unsafe { fake.get(b"nvjpegJpegStreamCreate") }.unwrap();
    // SAFETY: as above.
    let stream_destroy: Symbol<'_, Call1> = unsafe { fake.get(b"nvjpegJpegStreamDestroy") }.unwrap();
    let (mut handle, mut picture) = (null_mut(), null_mut());
    // SAFETY: `handle` is written.
    assert_eq!(unsafe { create(0, null_mut(), null_mut(), 0, &raw mut handle) }, 0);
    match misuse {
        // SAFETY: ends the process.
        "null" => drop(unsafe { stream_destroy(with_exposed_provenance_mut(0)) }),
        // SAFETY: ends the process.
        "kind" => drop(unsafe { stream_destroy(handle) }),
        "twice" => {
            // SAFETY: nothing was made from the handle.
            assert_eq!(unsafe { destroy(handle) }, 0);
            // SAFETY: ends the process.
            unsafe { destroy(handle) };
        }
        "children" => {
            // SAFETY: the handle is live.
            assert_eq!(unsafe { stream_create(handle, &raw mut picture) }, 0);
            // SAFETY: ends the process.
            unsafe { destroy(handle) };
        }
        other => panic!("{other} is no misuse"),
    }
    drop(device);
}
