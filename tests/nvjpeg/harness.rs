//! A process with the fakes, a device in it, and pictures with memory for them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cudarc::driver::{result, sys};
use visord::gpu::descriptor::DeviceImage;
use visord::gpu::jpeg::{
    Capabilities, Decode, DecoderChoice, HardwareDecoder, Library, Nvjpeg, Policy, Thresholds, route,
};
use visord::image::{Decoder, JpegHeader, Limits, jpeg_header};

/// Says to a child process that it is one.
pub const CHILD: &str = "VISORD_TEST_CHILD";

/// Builds the fake libraries, and gives their folder.
pub fn fakes(sanitize: bool) -> PathBuf {
    static BUILT: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    BUILT[usize::from(sanitize)].get_or_init(|| build_fakes(sanitize)).clone()
}

pub fn build_fakes(sanitize: bool) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(if sanitize { "fake-sanitized" } else { "fake" });
    let mut build = Command::new(root.join("tests/fake/build"));
    build.arg(&out).args(sanitize.then_some("--sanitize"));
    let output = build.output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out
}

/// How a child ended.
pub struct Ended {
    pub success: bool,
    pub output: String,
    pub counters: serde_json::Value,
}

impl Ended {
    pub fn count(&self, group: &str, name: &str) -> u64 {
        self.counters[group][name].as_u64().unwrap_or(0)
    }
}

/// Runs the test `name` again in a process that has the fakes and `environment`, whatever comes of it.
pub fn start(name: &str, environment: &[(&str, &str)], sanitize: bool) -> Ended {
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
pub fn in_child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// In the test process: runs `name` again in a child, which must succeed, and gives how it ended. In the child: runs
/// `body` on a device.
pub fn on_device(name: &str, environment: &[(&str, &str)], body: fn(&Device)) -> Option<Ended> {
    if let Some(libraries) = in_child() {
        body(&Device::new(&libraries));
        return None;
    }
    let ended = start(name, environment, false);
    assert!(ended.success, "{}", ended.output);
    Some(ended)
}

/// The fake's first device, with its context current on this thread.
pub struct Device {
    pub library: std::sync::Arc<Library>,
    pub context: sys::CUcontext,
}

// SAFETY: a context may be made current on any thread.
unsafe impl Sync for Device {}

impl Device {
    pub fn new(libraries: &Path) -> Self {
        result::init().unwrap();
        // SAFETY: the device exists, and is given back when the process ends.
        let context = unsafe { result::primary_ctx::retain(result::device::get(0).unwrap()) }.unwrap();
        let device = Self { library: Library::open(Some(libraries)).unwrap(), context };
        device.enter();
        device
    }

    /// Makes the context current on this thread.
    pub fn enter(&self) {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(self.context) }.unwrap();
    }

    pub fn nvjpeg(&self) -> Nvjpeg {
        Nvjpeg::new(self.library.clone()).unwrap()
    }
}

pub fn stream() -> sys::CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

pub fn synchronize(stream: sys::CUstream) {
    // SAFETY: the stream is live.
    unsafe { result::stream::synchronize(stream) }.unwrap();
}

/// Device memory for one picture, with rows longer than they need be.
pub struct Memory {
    pub image: DeviceImage,
}

impl Memory {
    pub fn new(header: &JpegHeader) -> Self {
        let pitch = header.width as usize * 3 + 13;
        let bytes = pitch * (header.height as usize - 1) + header.width as usize * 3;
        // SAFETY: plain allocation.
        let address = unsafe { result::malloc_sync(bytes) }.unwrap();
        let (width, height, orientation) = (header.width, header.height, header.orientation);
        Self { image: DeviceImage { address, bytes, pitch, width, height, orientation } }
    }

    /// The picture without the ends of its rows.
    pub fn pixels(&self) -> Vec<u8> {
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
pub struct Picture {
    pub name: String,
    pub encoded: Vec<u8>,
    pub header: JpegHeader,
    pub expected: Vec<u8>,
}

pub fn picture(name: &str, encoded: Vec<u8>) -> Picture {
    let header = jpeg_header(&encoded, &Limits::default()).expect("a JPEG").expect("with a frame");
    let expected = Decoder::new().decode(&encoded, &Limits::default()).unwrap().pixels().to_vec();
    Picture { name: name.to_owned(), encoded, header, expected }
}

pub fn golden(name: &str) -> Picture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images").join(name);
    picture(name, std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// Every golden JPEG, by name.
pub fn goldens() -> Vec<Picture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".jpg"))
        .collect();
    names.sort();
    names.iter().map(|name| golden(name)).collect()
}

pub fn size(header: &JpegHeader) -> (u32, u32) {
    (header.width, header.height)
}

pub fn decide(header: &JpegHeader, choice: DecoderChoice) -> Decode {
    let everything = Capabilities { hardware: true, hybrid: true };
    route(header, &everything, &Policy { choice, thresholds: Thresholds::NEVER })
}

/// Pictures with memory for them.
pub struct Batch<'p> {
    pub pictures: Vec<&'p Picture>,
    pub memory: Vec<Memory>,
}

impl<'p> Batch<'p> {
    pub fn new(pictures: &[&'p Picture]) -> Self {
        Self {
            pictures: pictures.to_vec(),
            memory: pictures.iter().map(|p| Memory::new(&p.header)).collect(),
        }
    }

    pub fn arguments(&self) -> Vec<(&'p [u8], DeviceImage)> {
        self.pictures.iter().zip(&self.memory).map(|(p, m)| (&p.encoded[..], m.image)).collect()
    }

    pub fn enqueue(&self, decoder: &mut HardwareDecoder, stream: sys::CUstream) {
        // SAFETY: the memory has the pictures' sizes; callers keep the batch until the stream is synchronised.
        unsafe { decoder.decode(&self.arguments(), stream) }.unwrap();
    }

    pub fn compare(&self) {
        for (picture, memory) in self.pictures.iter().zip(&self.memory) {
            assert!(memory.pixels() == picture.expected, "{} differs from the CPU's", picture.name);
        }
    }
}

/// Decodes `pictures` in one batch and compares.
pub fn decode_batch(decoder: &mut HardwareDecoder, pictures: &[&Picture], stream: sys::CUstream) {
    let batch = Batch::new(pictures);
    batch.enqueue(decoder, stream);
    synchronize(stream);
    batch.compare();
}
