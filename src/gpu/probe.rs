//! What there is of NVIDIA's driver and GPUs, found out without a call that could bring the process down.
//!
//! `cudarc` panics where libcuda or one of its symbols is missing, and TensorRT's factories return garbage without
//! a driver. So the library is opened here first, by its own name, and only when every step has succeeded does
//! anything else touch it.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::path::Path;

use libloading::Library;

/// The driver's library, as the driver installs it and container runtimes mount it.
const LIBRARY: &str = "libcuda.so.1";
/// Oldest driver interface: the kernels' PTX is ISA 7.8, which the drivers of CUDA 11.8 (520 and later) compile.
/// **Source:** CUDA's PTX ISA document, release history.
const MIN_DRIVER_VERSION: i32 = 11_080;
/// Oldest compute capability: the kernels are compiled for Volta.
const MIN_COMPUTE_CAPABILITY: (u32, u32) = (7, 0);

/// Symbols that are called later on and that a stub or a very old driver may lack.
const SYMBOLS: [&CStr; 8] = [
    c"cuDevicePrimaryCtxRetain",
    c"cuDevicePrimaryCtxReset_v2",
    c"cuMemHostAlloc",
    c"cuModuleLoadData",
    c"cuLaunchHostFunc",
    c"cuStreamBeginCapture_v2",
    c"cuGraphInstantiateWithFlags",
    c"cuGraphLaunch",
];

/// A GPU that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// CUDA ordinal, after `CUDA_VISIBLE_DEVICES`.
    pub ordinal: usize,
    /// The driver's name for it; a MIG instance has its profile in it.
    pub name: String,
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Memory of the device, bytes.
    pub total_bytes: usize,
    /// What the driver knows it by, whatever `CUDA_VISIBLE_DEVICES` says; of the instance with MIG.
    pub uuid: Option<[u8; 16]>,
}

impl fmt::Display for GpuInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.compute_capability;
        write!(
            f,
            "GPU {}: {} (compute capability {major}.{minor}, {} MiB)",
            self.ordinal,
            self.name,
            self.total_bytes >> 20
        )
    }
}

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus {
    /// CUDA version of the driver's interface, as 1000 * major + 10 * minor.
    pub driver_version: i32,
    /// Those that can be used; at least one.
    pub devices: Vec<GpuInfo>,
    /// Those that cannot, and why.
    pub unusable: Vec<String>,
}

/// Why no GPU can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// There is no driver here.
    #[error(
        "{LIBRARY} cannot be opened ({0}); install NVIDIA's driver, or start the container with the NVIDIA \
         runtime (`docker run --gpus all`)"
    )]
    NoDriver(String),
    /// The library lacks what a driver has.
    #[error("{LIBRARY} has no {0}; it is a stub or too old: install the driver of CUDA 11.8 (520) or later")]
    NoSymbol(&'static str),
    /// `cuInit` or a query failed.
    #[error("{call} failed with CUDA error {code}; {advice}")]
    Call {
        /// The function.
        call: &'static str,
        /// Its `CUresult`.
        code: i32,
        /// What to do.
        advice: &'static str,
    },
    /// The driver is too old.
    #[error(
        "the driver speaks CUDA {major}.{minor}, and the kernels need 11.8; install driver 520 or later",
        major = .0 / 1000, minor = .0 % 1000 / 10
    )]
    OldDriver(i32),
    /// The driver works and sees nothing.
    #[error(
        "the driver sees no GPU; look at `nvidia-smi`, and at CUDA_VISIBLE_DEVICES, which hides GPUs that it does not \
         list"
    )]
    NoDevice,
    /// GPUs are there, and none is good enough.
    #[error("no GPU can be used: {}", .0.join("; "))]
    Unusable(Vec<String>),
}

impl ProbeError {
    /// Whether there is a GPU in this machine all the same, as far as can be seen without a driver.
    #[must_use]
    pub fn gpu_present(&self) -> bool {
        match self {
            Self::Unusable(_) | Self::OldDriver(_) => true,
            Self::NoDriver(_) | Self::NoSymbol(_) | Self::Call { .. } | Self::NoDevice => {
                ["/dev/nvidiactl", "/proc/driver/nvidia/gpus"].iter().any(|p| Path::new(p).exists())
            }
        }
    }
}

type CuInit = unsafe extern "C" fn(u32) -> c_int;
type CuGetInt = unsafe extern "C" fn(*mut c_int) -> c_int;
type CuDeviceGet = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type CuDeviceGetName = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type CuDeviceGetAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
type CuDeviceTotalMem = unsafe extern "C" fn(*mut usize, c_int) -> c_int;
type CuDeviceGetUuid = unsafe extern "C" fn(*mut [u8; 16], c_int) -> c_int;

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const COMPUTE_CAPABILITY: [c_int; 2] = [75, 76];
/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: c_int = 100;

/// The library, and the calls of it that the probe makes.
struct Driver {
    library: Library,
}

impl Driver {
    fn open() -> Result<Self, ProbeError> {
        // SAFETY: opening runs the library's initialisers; libcuda's only set up its own state.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|e| ProbeError::NoDriver(e.to_string()))?;
        Ok(Self { library })
    }

    /// The function `name`, of type `T`: the caller names the type that CUDA's documentation gives it.
    fn symbol<T: Copy>(&self, name: &'static CStr) -> Result<T, ProbeError> {
        // SAFETY: `T` is the C signature of `name` in CUDA's driver API, which no version has changed.
        let found = unsafe { self.library.get::<T>(name.to_bytes_with_nul()) };
        found.map(|f| *f).map_err(|_| ProbeError::NoSymbol(name.to_str().unwrap_or("symbol")))
    }

    fn call(call: &'static str, code: c_int) -> Result<(), ProbeError> {
        match code {
            0 => Ok(()),
            NO_DEVICE => Err(ProbeError::NoDevice),
            code => Err(ProbeError::Call { call, code, advice: advice(code) }),
        }
    }

    fn probe(&self) -> Result<Gpus, ProbeError> {
        let init: CuInit = self.symbol(c"cuInit")?;
        // SAFETY: takes flags, which must be 0.
        Self::call("cuInit", unsafe { init(0) })?;
        let driver_version = self.int(c"cuDriverGetVersion", "cuDriverGetVersion")?;
        if driver_version < MIN_DRIVER_VERSION {
            return Err(ProbeError::OldDriver(driver_version));
        }
        for name in SYMBOLS {
            self.symbol::<unsafe extern "C" fn()>(name)?;
        }
        let count = self.int(c"cuDeviceGetCount", "cuDeviceGetCount")?;
        let (mut devices, mut unusable) = (Vec::new(), Vec::new());
        for ordinal in 0..usize::try_from(count).unwrap_or(0) {
            match self.device(ordinal) {
                Ok(info) if info.compute_capability < MIN_COMPUTE_CAPABILITY => {
                    let (major, minor) = MIN_COMPUTE_CAPABILITY;
                    unusable
                        .push(format!("{info}: needs compute capability {major}.{minor} (Volta) or later"));
                }
                Ok(info) => devices.push(info),
                Err(e) => unusable.push(format!("GPU {ordinal}: {e}")),
            }
        }
        match (devices.is_empty(), unusable.is_empty()) {
            (false, _) => Ok(Gpus { driver_version, devices, unusable }),
            (true, true) => Err(ProbeError::NoDevice),
            (true, false) => Err(ProbeError::Unusable(unusable)),
        }
    }

    fn int(&self, name: &'static CStr, call: &'static str) -> Result<c_int, ProbeError> {
        let get: CuGetInt = self.symbol(name)?;
        let mut value = 0;
        // SAFETY: writes one int to where it points.
        Self::call(call, unsafe { get(&raw mut value) })?;
        Ok(value)
    }

    fn device(&self, ordinal: usize) -> Result<GpuInfo, ProbeError> {
        let get: CuDeviceGet = self.symbol(c"cuDeviceGet")?;
        let mut device = 0;
        let wanted = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        // SAFETY: writes the device's handle, an int.
        Self::call("cuDeviceGet", unsafe { get(&raw mut device, wanted) })?;
        let get_name: CuDeviceGetName = self.symbol(c"cuDeviceGetName")?;
        let mut name = [0 as c_char; 256];
        // SAFETY: writes at most 255 bytes and a NUL.
        Self::call("cuDeviceGetName", unsafe { get_name(name.as_mut_ptr(), 255, device) })?;
        // SAFETY: the array was zeroed, and its last byte was not given away: there is a NUL.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let get_attribute: CuDeviceGetAttribute = self.symbol(c"cuDeviceGetAttribute")?;
        let mut capability = [0; 2];
        for (attribute, value) in COMPUTE_CAPABILITY.into_iter().zip(&mut capability) {
            // SAFETY: writes one int.
            let code = unsafe { get_attribute(value, attribute, device) };
            Self::call("cuDeviceGetAttribute", code)?;
        }
        let total_mem: CuDeviceTotalMem = self.symbol(c"cuDeviceTotalMem_v2")?;
        let mut total_bytes = 0;
        // SAFETY: writes one size_t.
        Self::call("cuDeviceTotalMem", unsafe { total_mem(&raw mut total_bytes, device) })?;
        let [major, minor] = capability.map(|v| u32::try_from(v).unwrap_or(0));
        let uuid = self.uuid(device).ok();
        Ok(GpuInfo { ordinal, name, compute_capability: (major, minor), total_bytes, uuid })
    }

    fn uuid(&self, device: c_int) -> Result<[u8; 16], ProbeError> {
        let get: CuDeviceGetUuid = self.symbol(c"cuDeviceGetUuid_v2")?;
        let mut uuid = [0; 16];
        // SAFETY: writes a CUuuid, 16 bytes.
        Self::call("cuDeviceGetUuid", unsafe { get(&raw mut uuid, device) })?;
        Ok(uuid)
    }
}

/// What to do about a `CUresult` of the first calls. **Source:** CUDA driver API, `CUresult`.
fn advice(code: c_int) -> &'static str {
    match code {
        3 | 4 => "the driver is not loaded: look at `nvidia-smi` and the kernel's log",
        34 => "a toolkit's stub libcuda.so was found: take its `stubs` folder off LD_LIBRARY_PATH",
        46 | 101 => "the GPU is in use exclusively or unavailable: look at `nvidia-smi -q -d COMPUTE`",
        803 => {
            "the driver is older than its kernel module or its libraries: restart after the driver's update"
        }
        804 => {
            "forward compatibility is not supported here: install a driver that matches the container's CUDA"
        }
        _ => "look at `nvidia-smi`",
    }
}

/// The driver's video library, which a container sees only with `video` in `NVIDIA_DRIVER_CAPABILITIES`; so is the
/// JPEG engine.
const VIDEO_LIBRARY: &str = "libnvcuvid.so.1";

/// Whether the driver's video library can be opened.
#[must_use]
pub fn video() -> bool {
    // SAFETY: opening runs the library's initialisers, which are the driver's own.
    let opened = unsafe { Library::new(VIDEO_LIBRARY) };
    // Never closed, as libcuda is not, which it shares state with.
    opened.map(std::mem::forget).is_ok()
}

/// Opens the driver, counts the GPUs and reads what each can do.
///
/// # Errors
/// [`ProbeError`]: what is missing, and what to do about it.
pub fn probe() -> Result<Gpus, ProbeError> {
    let driver = Driver::open()?;
    let found = driver.probe();
    // Never closed: a driver that was initialised has threads of its own.
    std::mem::forget(driver);
    found
}
