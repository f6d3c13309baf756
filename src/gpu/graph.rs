//! CUDA graphs: what was enqueued on a stream once, launched again as a whole.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::device::Device;
use super::error::CudaError;
use super::stream::Stream;

/// A captured sequence of work, ready to launch.
#[derive(Debug)]
pub struct Graph {
    device: Arc<Device>,
    executable: sys::CUgraphExec,
}

// SAFETY: a graph handle may be used from any thread whose current context is the graph's, one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `enqueue` puts on `stream`, without running it. Within a section.
    ///
    /// # Errors
    /// The capture's; then nothing is left of it, and the stream works as before.
    pub fn capture<E: From<CudaError>>(
        stream: &Stream,
        enqueue: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        let device = stream.device();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives; the capture ends below, whatever happens.
        device.check("cuStreamBeginCapture", unsafe { result::stream::begin_capture(stream.raw(), mode) })?;
        let enqueued = enqueue();
        // SAFETY: a capture of this thread is open on the stream.
        let graph = device.check("cuStreamEndCapture", unsafe { result::stream::end_capture(stream.raw()) });
        enqueued?;
        let graph = graph?;
        if graph.is_null() {
            let name = "the capture was invalidated".to_owned();
            return Err(CudaError { call: "cuStreamEndCapture", code: 901, name }.into());
        }
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just captured.
        let executable =
            device.check("cuGraphInstantiate", unsafe { result::graph::instantiate(graph, flags) });
        // SAFETY: the executable does not need the graph it was made from.
        device.free("cuGraphDestroy", || unsafe { result::graph::destroy(graph) });
        Ok(Self { device: Arc::clone(device), executable: executable? })
    }

    /// Enqueues the work; returns before it is done. What the work reads and writes was fixed by the capture.
    ///
    /// # Errors
    /// That of `cuGraphLaunch`.
    pub fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both handles live, and belong to one device.
        self.device.check("cuGraphLaunch", unsafe { result::graph::launch(self.executable, stream.raw()) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let executable = self.executable;
        // SAFETY: made in `capture`, destroyed here only; the driver keeps it while it runs.
        self.device.free("cuGraphExecDestroy", || unsafe { result::graph::exec_destroy(executable) });
    }
}
