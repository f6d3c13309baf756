//! Building: an ONNX model becomes a plan.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use cudarc::driver::result::ctx;
use cudarc::driver::sys::CUcontext;

use super::library::Library;
use super::result::{Message, ParserError, check, string};
use super::{TensorRtError, sys};

/// Stack of the thread that builds: as much as a main thread has, which is what TensorRT is tested with.
const BUILD_STACK_BYTES: usize = 8 << 20;

/// An ONNX model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network<'a> {
    /// The file's bytes.
    pub(crate) onnx: &'a [u8],
    /// Where they are from: files of external data are looked for beside it.
    pub(crate) path: &'a Path,
}

/// How a plan is built.
#[derive(Debug, Clone)]
pub(crate) struct BuildOptions {
    /// Allow FP16 layers; TensorRT 10 only, as later ones take every layer's precision from the ONNX graph.
    pub(crate) fp16: bool,
    /// Allow TF32 in FP32 layers.
    pub(crate) tf32: bool,
    /// The graph is quantised (it has Q/DQ nodes): TensorRT 10 has to be told, later ones see it.
    pub(crate) int8: bool,
    /// The most scratch memory a layer may take on the GPU; `None` for TensorRT's default, all of it.
    pub(crate) workspace_bytes: Option<u64>,
    /// 0 to 5, how long to look for faster kernels; `None` for TensorRT's default, 3.
    pub(crate) optimization_level: Option<u8>,
    /// Which other GPUs the plan must run on.
    pub(crate) hardware_compatibility: HardwareCompatibility,
    /// One for each range of shapes. Each names every input whose shape varies.
    pub(crate) profiles: Vec<Profile>,
    /// GPUs to build for, as (major, minor); TensorRT-RTX only. Empty: Ampere and later on RTX, elsewhere the
    /// GPU that is present.
    pub(crate) compute_capabilities: Vec<(u32, u32)>,
    /// From an earlier build; empty for none. One that does not fit is left aside.
    pub(crate) timing_cache: Vec<u8>,
}

/// Which GPUs besides the one it was built on a plan must run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum HardwareCompatibility {
    /// None.
    #[default]
    None,
    /// Every Ampere and later GPU.
    AmperePlus,
    /// Every GPU of the same compute capability; from TensorRT 10.9 on.
    SameComputeCapability,
}

/// One optimisation profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    /// In any order.
    pub(crate) inputs: Vec<ProfileInput>,
}

/// The shapes that one input may have in a profile, batch dimension included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProfileInput {
    /// The input's name in the graph.
    pub(crate) name: String,
    /// The smallest.
    pub(crate) min: Vec<i64>,
    /// The one that kernels are chosen for.
    pub(crate) opt: Vec<i64>,
    /// The largest.
    pub(crate) max: Vec<i64>,
}

/// What a build gives.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The plan, for [`Library::deserialize`].
    pub(crate) plan: Vec<u8>,
    /// For the next build; holds what `BuildOptions::timing_cache` held, and more.
    pub(crate) timing_cache: Vec<u8>,
}

/// What TensorRT is doing. Phases nest; their names are TensorRT's, in English, and change between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuildProgress<'a> {
    /// A phase begins.
    Start {
        /// Its name, unique among the phases that are going on.
        phase: &'a str,
        /// The phase that it is part of.
        parent: Option<&'a str>,
        /// Steps it has.
        steps: u32,
    },
    /// A step is done.
    Step {
        /// The phase's name.
        phase: &'a str,
        /// Which of its steps, from 0.
        step: u32,
    },
    /// A phase ends, perhaps before its last step.
    Finish {
        /// Its name.
        phase: &'a str,
    },
}

impl Library {
    /// Builds a plan; takes from half a second to many minutes, and blocks.
    ///
    /// `monitor` is called on this thread, with every phase and step; when it says `Break` the build ends within a
    /// step, in [`TensorRtError::Cancelled`], and `monitor` is not called again.
    ///
    /// **Errors:** every [`TensorRtError`] but `Open`. `Interface` where the profiles do not fit the model's inputs,
    /// and where the file has no inputs or outputs, which the parser accepts.
    pub(crate) fn build(
        &self,
        network: &Network<'_>,
        options: &BuildOptions,
        monitor: &mut dyn FnMut(&BuildProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Built, TensorRtError> {
        let cancelled = AtomicBool::new(false);
        let context = CurrentContext::get();
        // TensorRT reports from threads of its own, and `monitor` belongs to this one: TensorRT works on another
        // thread, and this one waits for events. A panic in `monitor` drops the receiver, which cancels the build;
        // the scope waits for that and goes on with the panic.
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(0);
            let collector = Collector {
                events: sender,
                cancelled: &cancelled,
                plan: None,
                timing_cache: None,
                errors: vec![],
            };
            let building = std::thread::Builder::new()
                .name("tensorrt-build".to_owned())
                .stack_size(BUILD_STACK_BYTES)
                .spawn_scoped(scope, move || {
                    context.bind()?;
                    self.build_here(network, options, collector)
                })
                .map_err(|e| call_error("pthread_create", e))?;
            for event in &receiver {
                if !cancelled.load(Ordering::Relaxed) && monitor(&event.borrow()).is_break() {
                    cancelled.store(true, Ordering::Relaxed);
                }
            }
            building.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Builds on this thread; events go to `collector`.
    fn build_here(
        &self,
        network: &Network<'_>,
        options: &BuildOptions,
        mut collector: Collector<'_>,
    ) -> Result<Built, TensorRtError> {
        let flags = Flags::new(options)?;
        let path = std::path::absolute(network.path).unwrap_or_else(|_| network.path.to_owned());
        let path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| TensorRtError::Interface("the model's path has a NUL in it".to_owned()))?;
        let inputs: Vec<Vec<sys::ProfileInput>> =
            flags.inputs.iter().map(|p| p.iter().map(InputShapes::as_sys).collect()).collect();
        let profiles: Vec<sys::Profile> =
            inputs.iter().map(|p| sys::Profile { inputs: p.as_ptr(), count: p.len() }).collect();
        let raw = sys::BuildOptions {
            onnx: network.onnx.as_ptr().cast(),
            onnx_bytes: network.onnx.len(),
            onnx_path: path.as_ptr(),
            fp16: options.fp16.into(),
            tf32: options.tf32.into(),
            int8: options.int8.into(),
            workspace_bytes: options.workspace_bytes.unwrap_or(0),
            optimization_level: options.optimization_level.map_or(-1, i32::from),
            hardware_compatibility: match options.hardware_compatibility {
                HardwareCompatibility::None => sys::COMPATIBLE_NONE,
                HardwareCompatibility::AmperePlus => sys::COMPATIBLE_AMPERE_PLUS,
                HardwareCompatibility::SameComputeCapability => sys::COMPATIBLE_SAME_CC,
            },
            profiles: profiles.as_ptr(),
            profile_count: profiles.len(),
            compute_capabilities: flags.compute_capabilities.as_ptr(),
            compute_capability_count: flags.compute_capabilities.len(),
            timing_cache: options.timing_cache.as_ptr().cast(),
            timing_cache_bytes: options.timing_cache.len(),
        };
        let sink = sys::Sink {
            user: (&raw mut collector).cast(),
            plan: on_plan,
            timing_cache: on_timing_cache,
            parser_error: on_parser_error,
            progress: on_progress,
        };
        let mut message = Message::default();
        // SAFETY: the library is open as long as `self`; everything that `raw` and `sink` point to lives to the end
        // of this function, and the shim keeps none of it (its builder is gone when it returns).
        let status =
            unsafe { (self.api().build)(self.handle(), &raw const raw, &raw const sink, message.text()) };
        match check(status, message) {
            Err(TensorRtError::Parse(_)) => Err(TensorRtError::Parse(collector.errors)),
            Err(error) => Err(error),
            // It may have been too late to stop it, but nobody waits for the plan.
            Ok(()) if collector.cancelled.load(Ordering::Relaxed) => Err(TensorRtError::Cancelled),
            Ok(()) => Ok(Built {
                plan: collector.plan.ok_or_else(|| call_error("buildSerializedNetwork", "no plan"))?,
                timing_cache: collector.timing_cache.unwrap_or_default(),
            }),
        }
    }
}

fn call_error(call: &'static str, why: impl ToString) -> TensorRtError {
    TensorRtError::Call { call, message: why.to_string() }
}

/// Options with their numbers checked and their names NUL-terminated.
struct Flags {
    inputs: Vec<Vec<InputShapes>>,
    compute_capabilities: Vec<i32>,
}

struct InputShapes {
    name: CString,
    min: sys::Dims,
    opt: sys::Dims,
    max: sys::Dims,
}

impl InputShapes {
    fn new(input: &ProfileInput) -> Result<Self, TensorRtError> {
        let ProfileInput { name, min, opt, max } = input;
        if min.len() != opt.len() || opt.len() != max.len() {
            let text = format!(
                "profile: input \"{name}\" has min {min:?}, opt {opt:?}, max {max:?}: they need as many dimensions as \
                 each other"
            );
            return Err(TensorRtError::Interface(text));
        }
        if min.iter().zip(opt).zip(max).any(|((min, opt), max)| *min < 0 || min > opt || opt > max) {
            let text = format!(
                "profile: input \"{name}\" has min {min:?}, opt {opt:?}, max {max:?}: each dimension needs \
                 0 <= min <= opt <= max"
            );
            return Err(TensorRtError::Interface(text));
        }
        Ok(Self {
            name: CString::new(name.as_str()).map_err(|_| {
                TensorRtError::Interface(format!("profile: input {name:?} has a NUL in its name"))
            })?,
            min: dims(name, min)?,
            opt: dims(name, opt)?,
            max: dims(name, max)?,
        })
    }

    fn as_sys(&self) -> sys::ProfileInput {
        sys::ProfileInput { name: self.name.as_ptr(), min: self.min, opt: self.opt, max: self.max }
    }
}

fn dims(name: &str, shape: &[i64]) -> Result<sys::Dims, TensorRtError> {
    let mut dims = sys::Dims::default();
    let Some(room) = dims.d.get_mut(..shape.len()) else {
        let text = format!(
            "profile: input \"{name}\" has {} dimensions; TensorRT takes {}",
            shape.len(),
            sys::MAX_DIMS
        );
        return Err(TensorRtError::Interface(text));
    };
    room.copy_from_slice(shape);
    dims.rank = i32::try_from(shape.len()).unwrap_or(0);
    Ok(dims)
}

impl Flags {
    fn new(options: &BuildOptions) -> Result<Self, TensorRtError> {
        // TensorRT takes the nearest level that it has, without a word.
        if let Some(level @ 6..) = options.optimization_level {
            return Err(TensorRtError::Interface(format!(
                "optimisation level {level}: the levels are 0 to 5"
            )));
        }
        let inputs = options
            .profiles
            .iter()
            .map(|p| p.inputs.iter().map(InputShapes::new).collect())
            .collect::<Result<_, _>>()?;
        let compute_capabilities = options
            .compute_capabilities
            .iter()
            .map(|(major, minor)| match (i32::try_from(*major), i32::try_from(*minor)) {
                (Ok(major @ 1..=99), Ok(minor @ 0..=9)) => Ok(10 * major + minor),
                _ => Err(TensorRtError::Interface(format!("{major}.{minor} is no compute capability"))),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { inputs, compute_capabilities })
    }
}

/// A [`BuildProgress`] on its way between threads.
enum Event {
    Start { phase: String, parent: Option<String>, steps: u32 },
    Step { phase: String, step: u32 },
    Finish { phase: String },
}

impl Event {
    fn borrow(&self) -> BuildProgress<'_> {
        match self {
            Self::Start { phase, parent, steps } => {
                BuildProgress::Start { phase, parent: parent.as_deref(), steps: *steps }
            }
            Self::Step { phase, step } => BuildProgress::Step { phase, step: *step },
            Self::Finish { phase } => BuildProgress::Finish { phase },
        }
    }
}

/// What the shim's callbacks write to.
struct Collector<'a> {
    /// Without room: TensorRT goes on when the monitor has seen the event before.
    events: SyncSender<Event>,
    cancelled: &'a AtomicBool,
    plan: Option<Vec<u8>>,
    timing_cache: Option<Vec<u8>>,
    errors: Vec<ParserError>,
}

/// Copies what the shim lends.
///
/// # Safety
///
/// `data` has `bytes` bytes until this returns.
unsafe fn copy(data: *const c_void, bytes: usize) -> Vec<u8> {
    if data.is_null() || bytes == 0 {
        return Vec::new();
    }
    // SAFETY: not null; the caller promises the rest.
    unsafe { std::slice::from_raw_parts(data.cast::<u8>(), bytes) }.to_vec()
}

extern "C" fn on_plan(user: *mut c_void, data: *const c_void, bytes: usize) {
    // SAFETY: `user` is the `Collector` of the build under way, and this is called on its thread, by no other
    // callback at the time (shim.h).
    let collector = unsafe { &mut *user.cast::<Collector<'_>>() };
    // SAFETY: the shim lends a buffer of that size.
    collector.plan = Some(unsafe { copy(data, bytes) });
}

extern "C" fn on_timing_cache(user: *mut c_void, data: *const c_void, bytes: usize) {
    // SAFETY: as in `on_plan`.
    let collector = unsafe { &mut *user.cast::<Collector<'_>>() };
    // SAFETY: the shim lends a buffer of that size.
    collector.timing_cache = Some(unsafe { copy(data, bytes) });
}

/// Complaints that are kept; a hostile model may have one for each of a million nodes.
const PARSER_ERRORS: usize = 256;

extern "C" fn on_parser_error(
    user: *mut c_void,
    code: i32,
    node: i32,
    name: *const c_char,
    op: *const c_char,
    description: *const c_char,
) {
    // SAFETY: as in `on_plan`.
    let collector = unsafe { &mut *user.cast::<Collector<'_>>() };
    if collector.errors.len() == PARSER_ERRORS {
        return;
    }
    // SAFETY: the shim lends texts that are null or NUL-terminated.
    let name = unsafe { string(name) };
    // SAFETY: as above.
    let operator = unsafe { string(op) };
    // SAFETY: as above.
    let description = unsafe { string(description) };
    collector.errors.push(ParserError { code, node: u32::try_from(node).ok(), name, operator, description });
}

extern "C" fn on_progress(
    user: *mut c_void,
    kind: i32,
    phase: *const c_char,
    parent: *const c_char,
    number: i32,
) -> i32 {
    // SAFETY: `user` is the `Collector` of the build under way. It is only read here, from any thread: what is read
    // is `Sync`, and the callbacks that write run when TensorRT is not building (shim.h).
    let Collector { events, cancelled, .. } = unsafe { &*user.cast::<Collector<'_>>() };
    // SAFETY: the shim lends texts that are null or NUL-terminated.
    let phase = unsafe { string(phase) };
    let number = u32::try_from(number).unwrap_or(0);
    let event = match kind {
        sys::PHASE_START => {
            // SAFETY: as above.
            let parent = (!parent.is_null()).then(|| unsafe { string(parent) });
            Event::Start { phase, parent, steps: number }
        }
        sys::PHASE_STEP => Event::Step { phase, step: number },
        _ => Event::Finish { phase },
    };
    // Nobody listens after a panic in the monitor.
    if events.send(event).is_err() {
        cancelled.store(true, Ordering::Relaxed);
    }
    i32::from(!cancelled.load(Ordering::Relaxed))
}

/// The CUDA context of a thread, to be made another's: TensorRT builds for its GPU.
struct CurrentContext(Option<CUcontext>);

// SAFETY: a context may be current to several threads at once (cuCtxSetCurrent in the driver API's reference).
unsafe impl Send for CurrentContext {}

impl CurrentContext {
    /// This thread's; none where there is no CUDA, which TensorRT-RTX does without when it builds.
    fn get() -> Self {
        // SAFETY: it opens libcuda as the driver API's first call does, and closes it again.
        let present = unsafe { cudarc::driver::sys::is_culib_present() };
        Self(present.then(|| ctx::get_current().ok().flatten()).flatten())
    }

    fn bind(self) -> Result<(), TensorRtError> {
        let Some(context) = self.0 else { return Ok(()) };
        // SAFETY: the context is current to the thread that waits for this one, which therefore keeps it.
        unsafe { ctx::set_current(context) }.map_err(|e| call_error("cuCtxSetCurrent", e))
    }
}
