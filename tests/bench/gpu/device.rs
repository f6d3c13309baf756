//! The first GPU, its kernels, and copies that wait.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use visord::gpu::device::{Device, GpuSlot};
use visord::gpu::kernel::Kernels;
use visord::gpu::memory::{DeviceBuffer, PinnedBuffer};
use visord::gpu::probe::probe;
use visord::gpu::stream::Stream;

use super::{Failure, Report};

/// A GPU, with its context current to this thread.
pub struct Gpu {
    pub device: Arc<Device>,
    pub stream: Stream,
    pub kernels: Kernels,
    driver_version: i32,
}

impl Gpu {
    pub fn find() -> Result<GpuSlot, Failure> {
        let found = probe()?;
        Ok(GpuSlot::new(found.devices[0].clone()))
    }

    /// Loads the kernels, twice: the first time may compile.
    pub fn open(device: &Arc<Device>, report: &mut Report) -> Result<Self, Failure> {
        let milliseconds = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        let first = Kernels::load(device);
        let first_ms = milliseconds(start);
        let numbers = json!({ "first_ms": first_ms, "error": first.as_ref().err().map(ToString::to_string) });
        report.check("PTX loads", first.is_ok(), numbers);
        drop(first?);
        let start = Instant::now();
        let kernels = Kernels::load(device)?;
        report.check("PTX loads again", true, json!({ "ms": milliseconds(start) }));
        let driver_version = probe()?.driver_version;
        Ok(Self { device: Arc::clone(device), stream: Stream::new(device)?, kernels, driver_version })
    }

    pub fn facts(&self) -> Result<Value, Failure> {
        let info = self.device.info();
        let (free, total) = self.device.memory_info()?;
        let (major, minor) = info.compute_capability;
        Ok(json!({
            "name": info.name,
            "compute_capability": format!("{major}.{minor}"),
            "memory_bytes": total,
            "memory_free_bytes": free,
            "driver_cuda_version":
                format!("{}.{}", self.driver_version / 1000, self.driver_version % 1000 / 10),
            "host_threads": std::thread::available_parallelism().map_or(1, usize::from),
        }))
    }

    /// Device memory with these bytes.
    pub fn upload(&self, bytes: &[u8]) -> Result<DeviceBuffer, Failure> {
        let to = DeviceBuffer::new(&self.device, bytes.len())?;
        let mut from = PinnedBuffer::new(&self.device, bytes.len())?;
        from.as_mut_slice().copy_from_slice(bytes);
        // SAFETY: both buffers stay until the stream is synchronised, on the next line.
        unsafe { self.stream.copy_to_device(&from, &to, 0..bytes.len()) }?;
        self.stream.synchronize()?;
        Ok(to)
    }

    /// The first `len` bytes.
    pub fn download(&self, from: &DeviceBuffer, len: usize) -> Result<Vec<u8>, Failure> {
        let mut to = PinnedBuffer::new(&self.device, len)?;
        // SAFETY: both buffers stay, and nothing is read, until the stream is synchronised, on the next line.
        unsafe { self.stream.copy_to_host(from, &mut to, len) }?;
        self.stream.synchronize()?;
        Ok(to.as_slice().to_vec())
    }
}

/// Bytes that look like nothing in particular, the same for a seed every time.
pub fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}
