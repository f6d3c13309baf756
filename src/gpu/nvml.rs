//! What NVML says of the GPUs that CUDA shows this process: load, memory, temperature, power, clocks, faults.
//!
//! A call takes as long as the driver likes: [`crate::telemetry::nvml`] makes them on a thread of its own.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};

use super::probe::GpuInfo;

/// Why a GPU does not run at full clock, and the word for it in metrics. **Source:** NVML,
/// `nvmlClocksEventReasons`.
pub const THROTTLE_REASONS: [(ThrottleReasons, &str); 9] = [
    (ThrottleReasons::GPU_IDLE, "idle"),
    (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "applications_clocks"),
    (ThrottleReasons::SW_POWER_CAP, "sw_power_cap"),
    (ThrottleReasons::HW_SLOWDOWN, "hw_slowdown"),
    (ThrottleReasons::SYNC_BOOST, "sync_boost"),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "sw_thermal"),
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hw_thermal"),
    (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "hw_power_brake"),
    (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display_clocks"),
];

/// Which GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// NVML's number of it, as `nvidia-smi` counts: not CUDA's ordinal where `CUDA_VISIBLE_DEVICES` is set.
    pub index: u32,
    /// `GPU-…`, or `MIG-…` for an instance of one.
    pub uuid: String,
    /// CUDA's name for it.
    pub name: String,
}

/// One look at a GPU. What it does not have, or what could not be read, is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// Share of the last sampling period (NVML: 1/6 s to 1 s) in which a kernel ran, 0 to 1.
    pub utilization: Option<f64>,
    /// The same of the video decoder.
    pub decoder_utilization: Option<f64>,
    /// The same of the JPEG decoder.
    pub jpeg_utilization: Option<f64>,
    /// Memory in use by all processes, and all there is, bytes; of the instance with MIG.
    pub memory_bytes: Option<[f64; 2]>,
    /// Of the chip, degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// Power drawn, watts.
    pub power_watts: Option<f64>,
    /// Power at which the driver slows it down, watts.
    pub power_limit_watts: Option<f64>,
    /// Energy used since the driver was loaded, joules.
    pub energy_joules: Option<f64>,
    /// Clocks of the multiprocessors and of the memory, hertz.
    pub clock_hertz: [Option<f64>; 2],
    /// The highest that they can be.
    pub clock_max_hertz: [Option<f64>; 2],
    /// Memory errors since the driver was loaded: corrected and uncorrected.
    pub ecc_errors: [Option<f64>; 2],
    /// Why it does not run at full clock.
    pub throttled: Option<ThrottleReasons>,
}

struct Gpu {
    identity: Identity,
    device: Device<'static>,
    /// With MIG: the GPU that the instance is a part of, which has the sensors.
    parent: Option<Device<'static>>,
}

/// NVML, and the GPUs to look at.
pub struct Monitor {
    nvml: &'static Nvml,
    gpus: Vec<Gpu>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("gpus", &self.gpus.len()).finish_non_exhaustive()
    }
}

impl Monitor {
    /// Opens `libnvidia-ml.so.1` and finds `gpus` in it by their UUIDs, which `CUDA_VISIBLE_DEVICES` does not change.
    /// The second part says of each that it does not know why. Blocks.
    ///
    /// # Errors
    /// Where there is no NVML, or it cannot be initialised.
    pub fn open(gpus: &[GpuInfo]) -> Result<(Self, Vec<String>), NvmlError> {
        // Never closed: the driver stays in use until the process ends, and closing could block its end.
        let nvml: &'static Nvml = Box::leak(Box::new(Nvml::init()?));
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for info in gpus {
            match Gpu::find(nvml, info) {
                Ok(gpu) => known.push(gpu),
                Err(e) => unknown.push(format!("{info}: {e}")),
            }
        }
        Ok((Self { nvml, gpus: known }, unknown))
    }

    /// The driver's version, as in `550.54.15`. Blocks.
    #[must_use]
    pub fn driver_version(&self) -> Option<String> {
        self.nvml.sys_driver_version().ok()
    }

    /// Looks at every GPU; `None` for one that is lost. Blocks.
    pub fn read(&self) -> Vec<(Identity, Option<Reading>)> {
        self.gpus.iter().map(|gpu| (gpu.identity.clone(), gpu.read(self.nvml).ok())).collect()
    }
}

impl Gpu {
    fn find(nvml: &'static Nvml, info: &GpuInfo) -> Result<Self, NvmlError> {
        let Some(uuid) = info.uuid else { return Err(NvmlError::NotFound) };
        let digits: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
        let named = |kind: &str| format!("{kind}-{a}-{b}-{c}-{d}-{e}");
        let whole = nvml.device_by_uuid(named("GPU"));
        let (uuid, device, parent) = match whole {
            Ok(device) => (named("GPU"), device, None),
            // CUDA gives the UUID of the instance.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => {
                let device = nvml.device_by_uuid(named("MIG"))?;
                let parent = device.mig_parent_device()?;
                (named("MIG"), device, Some(parent))
            }
            Err(e) => return Err(e),
        };
        let index = parent.as_ref().unwrap_or(&device).index()?;
        Ok(Self { identity: Identity { index, uuid, name: info.name.clone() }, device, parent })
    }

    fn read(&self, nvml: &Nvml) -> Result<Reading, Lost> {
        let (device, board) = (&self.device, self.parent.as_ref().unwrap_or(&self.device));
        let ecc = |kind| known(board.total_ecc_errors(kind, EccCounter::Volatile));
        Ok(Reading {
            utilization: known(device.utilization_rates())?.map(|u| percent(u.gpu)),
            decoder_utilization: known(device.decoder_utilization())?.map(|u| percent(u.utilization)),
            jpeg_utilization: known(jpeg_utilization(nvml, device))?.map(percent),
            memory_bytes: known(device.memory_info())?.map(|m| [m.used as f64, m.total as f64]),
            temperature_celsius: known(board.temperature(TemperatureSensor::Gpu))?.map(f64::from),
            power_watts: known(board.power_usage())?.map(milli),
            power_limit_watts: known(board.enforced_power_limit())?.map(milli),
            energy_joules: known(board.total_energy_consumption())?.map(|mj| mj as f64 / 1e3),
            clock_hertz: [
                known(board.clock_info(Clock::SM))?.map(mega),
                known(board.clock_info(Clock::Memory))?.map(mega),
            ],
            clock_max_hertz: [
                known(board.max_clock_info(Clock::SM))?.map(mega),
                known(board.max_clock_info(Clock::Memory))?.map(mega),
            ],
            ecc_errors: [
                ecc(MemoryError::Corrected)?.map(|n| n as f64),
                ecc(MemoryError::Uncorrected)?.map(|n| n as f64),
            ],
            throttled: known(board.current_throttle_reasons())?,
        })
    }
}

/// The GPU does not answer any more.
struct Lost;

/// What was read, or nothing where this GPU or driver cannot say.
fn known<T>(read: Result<T, NvmlError>) -> Result<Option<T>, Lost> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::GpuLost) => Err(Lost),
        Err(_) => Ok(None),
    }
}

/// Per cent that the JPEG decoder was busy, which the wrapper does not ask for. **Source:** NVML,
/// `nvmlDeviceGetJpgUtilization`; drivers of CUDA 12.2 and later.
fn jpeg_utilization(nvml: &Nvml, device: &Device<'_>) -> Result<u32, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetJpgUtilization.as_ref())?;
    let (mut busy, mut period_us) = (0, 0);
    // SAFETY: the handle is only passed to the library that gave it.
    let handle = unsafe { device.handle() };
    // SAFETY: NVML is initialised and never shut down, and writes an unsigned int to each pointer.
    nvml_try(unsafe { call(handle, &raw mut busy, &raw mut period_us) })?;
    Ok(busy)
}

fn percent(value: u32) -> f64 {
    f64::from(value) / 100.0
}

fn milli(value: u32) -> f64 {
    f64::from(value) / 1e3
}

fn mega(value: u32) -> f64 {
    f64::from(value) * 1e6
}
