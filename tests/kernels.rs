//! The kernels of `kernels/`, compiled for the host, against the CPU path: equal bit for bit. `tests/kernels/run`
//! holds them to a reference of their own, under sanitizers, and proves that mistakes show.
#![allow(unsafe_code, reason = "calls the library that is compiled from the kernels")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use libloading::{Library, Symbol};
use visord::backend::OutputBuffer;
use visord::gpu::descriptor::{
    AxisDescriptor, DeviceImage, ImageDescriptor, L2NormalizeParameters, PreprocessParameters, TURN_MIRROR_X,
    TURN_MIRROR_Y, TURN_TRANSPOSE,
};
use visord::gpu::kernels::{
    L2_NORMALIZE_F32, L2_NORMALIZE_THREADS, LaunchShape, l2_normalize_shape, preprocess_entry,
    preprocess_shape,
};
use visord::image::{
    ColorOrder, Decoder, Layout, Limits, Orientation, Preprocess, PreprocessConfig, ResizeRule, Rgb8View,
};
use visord::model::config::Normalize;
use visord::model::spec::OutputSpec;
use visord::scheduler::postprocess;
use visord::tensor::{Datatype, TensorSpec};

type RunKernel = unsafe extern "C" fn(
    name: *const c_char,
    grid: *const [u32; 3],
    block: *const [u32; 3],
    arguments: *mut *mut c_void,
    ascending: c_int,
) -> c_int;

#[repr(C)]
struct LayoutEntry {
    name: *const c_char,
    value: usize,
}

/// The kernels, compiled by the C++ compiler of this machine: `$CXX`, or else `c++`.
struct Kernels {
    library: Library,
    _folder: tempfile::TempDir,
}

impl Kernels {
    fn build() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("libkernels.so");
        #[allow(clippy::disallowed_methods, reason = "the compiler is named as for any build")]
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let mut words = compiler.split_whitespace();
        let output = Command::new(words.next().expect("CXX names a compiler"))
            .args(words)
            .args(["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"])
            .args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-I"])
            .arg(root.join("kernels"))
            .arg(root.join("tests/kernels/library.cpp"))
            .arg("-o")
            .arg(&path)
            .output()
            .unwrap_or_else(|e| panic!("{compiler}: {e}; install a C++ compiler (g++), or set CXX"));
        assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: the library is ours, and has no initialisers that do anything.
        let library = unsafe { Library::new(&path) }.unwrap();
        Self { library, _folder: folder }
    }

    /// Launches to the end, as `cuLaunchKernel` and a synchronisation do.
    fn run(&self, entry: &CStr, shape: LaunchShape, arguments: &mut [*mut c_void], ascending: bool) {
        // SAFETY: the type is that of `run_kernel` in library.cpp.
        let run: Symbol<'_, RunKernel> = unsafe { self.library.get(b"run_kernel") }.unwrap();
        let LaunchShape { grid, block } = shape;
        let (grid, block) = ([grid.0, grid.1, grid.2], [block.0, block.1, block.2]);
        let arguments = arguments.as_mut_ptr();
        // SAFETY: the arguments point to what the entry point takes, which its callers below see to.
        let status =
            unsafe { run(entry.as_ptr(), &raw const grid, &raw const block, arguments, ascending.into()) };
        assert_eq!(status, 0, "{entry:?} {shape:?}");
    }

    /// What `preprocess` makes of the images, as the bytes of `rows` rows that were 0xa5 before.
    fn preprocess(
        &self,
        datatype: Datatype,
        images: &[ImageDescriptor],
        parameters: PreprocessParameters,
    ) -> Vec<u8> {
        assert_eq!(images.len(), parameters.images as usize);
        let bytes = parameters.rows as usize * parameters.row_elements() * datatype.size_bytes().unwrap();
        // In words, so that it is aligned for any element.
        let mut out = vec![0xa5a5_a5a5_u32; bytes.div_ceil(4)];
        let (mut images, mut address, mut parameters) = (images.as_ptr(), out.as_mut_ptr(), parameters);
        let shape = preprocess_shape(&parameters);
        let entry = preprocess_entry(datatype).unwrap();
        let mut arguments =
            [(&raw mut images).cast(), (&raw mut address).cast(), (&raw mut parameters).cast::<c_void>()];
        self.run(entry, shape, &mut arguments, false);
        out.into_iter().flat_map(u32::to_ne_bytes).take(bytes).collect()
    }
}

fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A decoded image, as the CPU path sees it and with the pitch of a device.
struct Picture {
    name: String,
    packed: Vec<u8>,
    pitched: Vec<u8>,
    pitch: usize,
    width: u32,
    height: u32,
    orientation: Orientation,
}

impl Picture {
    fn new(
        name: String,
        packed: Vec<u8>,
        (width, height): (u32, u32),
        orientation: Orientation,
        spare: usize,
    ) -> Self {
        let row = width as usize * 3;
        let pitch = row + spare;
        // What is between the rows must not matter: it is unlike the picture. After the last row there is nothing.
        let mut pitched = noise(pitch * (height as usize - 1) + row, 99);
        for (to, from) in pitched.chunks_mut(pitch).zip(packed.chunks(row)) {
            to[..row].copy_from_slice(from);
        }
        Self { name, packed, pitched, pitch, width, height, orientation }
    }

    fn view(&self) -> Rgb8View<'_> {
        Rgb8View::new(&self.packed, self.width, self.height, self.orientation).unwrap()
    }

    fn describe(&self, config: &PreprocessConfig, row: u32) -> ImageDescriptor {
        let Self { pitch, width, height, orientation, .. } = *self;
        let (address, bytes) = (self.pitched.as_ptr().expose_provenance() as u64, self.pitched.len());
        ImageDescriptor::new(config, &DeviceImage { address, bytes, pitch, width, height, orientation }, row)
            .unwrap()
    }
}

/// What the CPU path makes of a picture: levels and values.
fn on_the_cpu(preprocess: &mut Preprocess, picture: &Picture) -> (Vec<u8>, Vec<f32>) {
    let (mut levels, mut values) = (vec![0; preprocess.elements()], vec![0.0; preprocess.elements()]);
    preprocess.run_u8(&picture.view(), &mut levels);
    preprocess.run(&picture.view(), &mut values);
    (levels, values)
}

/// Runs all pictures in one launch for each datatype and compares; the number of rows compared.
fn compare(kernels: &Kernels, config: &PreprocessConfig, pictures: &[Picture]) -> usize {
    let mut preprocess = Preprocess::new(config.clone()).unwrap();
    let expected: Vec<_> = pictures.iter().map(|picture| on_the_cpu(&mut preprocess, picture)).collect();
    let images = u32::try_from(pictures.len()).unwrap();
    // The binding has a row more than there are images, and rows are filled from its end.
    let rows = images + 1;
    let row_of = |i: usize| rows - 1 - i as u32;
    let described: Vec<_> =
        pictures.iter().enumerate().map(|(i, picture)| picture.describe(config, row_of(i))).collect();
    let parameters = PreprocessParameters::new(config, images, rows).unwrap();
    for datatype in [Datatype::Uint8, Datatype::Fp32, Datatype::Fp16] {
        let size = datatype.size_bytes().unwrap();
        let row_bytes = preprocess.elements() * size;
        let got = kernels.preprocess(datatype, &described, parameters);
        assert!(
            got[..row_bytes].iter().all(|b| *b == 0xa5),
            "{config:?}: a row without an image was written"
        );
        for (i, (picture, (levels, values))) in pictures.iter().zip(&expected).enumerate() {
            let expected: Vec<u8> = match size {
                1 => levels.clone(),
                2 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_ne_bytes()).collect(),
                _ => values.iter().flat_map(|v| v.to_ne_bytes()).collect(),
            };
            let got = &got[row_of(i) as usize * row_bytes..][..row_bytes];
            if got == expected {
                continue;
            }
            let wrong =
                got.chunks(size).zip(expected.chunks(size)).position(|(got, expected)| got != expected);
            let at = wrong.unwrap();
            let Picture { name, width, height, orientation, pitch, .. } = picture;
            let (got, expected) = (&got[at * size..][..size], &expected[at * size..][..size]);
            panic!(
                "{name} {width}x{height} {orientation:?}, pitch {pitch}, {datatype} {config:?}: element {at} is \
                 {got:x?}, on the CPU {expected:x?}"
            );
        }
    }
    3 * pictures.len()
}

const RULES: [ResizeRule; 6] = [
    ResizeRule::Stretch,
    ResizeRule::Letterbox { fill: [114, 7, 250] },
    ResizeRule::CenterCrop { resize_shorter_side: None },
    ResizeRule::CenterCrop { resize_shorter_side: Some(64) },
    ResizeRule::CenterCrop { resize_shorter_side: Some(101) },
    // What is skipped does not fit 32 bits.
    ResizeRule::CenterCrop { resize_shorter_side: Some(4_000_000_000) },
];

fn config(size: (u32, u32), layout: Layout, color_order: ColorOrder, resize: ResizeRule) -> PreprocessConfig {
    PreprocessConfig {
        width: size.0,
        height: size.1,
        layout,
        color_order,
        // Values that round, one scale whose results are subnormal in FP16, one whose results are too large.
        mean: [127.5, 103.939, 0.1],
        scale: [1.0 / 128.0, 1.0e-7, 1.0e3],
        resize,
    }
}

const LAYOUTS: [(Layout, ColorOrder); 4] = [
    (Layout::Nchw, ColorOrder::Rgb),
    (Layout::Nchw, ColorOrder::Bgr),
    (Layout::Nhwc, ColorOrder::Rgb),
    (Layout::Nhwc, ColorOrder::Bgr),
];

#[test]
fn any_image_comes_out_as_on_the_cpu() {
    let sizes = [
        (1, 1),
        (1, 7),
        (7, 1),
        (2, 2),
        (3, 2),
        (2, 300),
        (300, 2),
        (64, 48),
        (33, 17),
        (40, 30),
        (111, 55),
        (640, 481),
        (5000, 3),
    ];
    let mut pictures = Vec::new();
    for (i, (width, height)) in sizes.into_iter().enumerate() {
        for value in 1..=8 {
            let packed = noise((width * height * 3) as usize, i as u32 + 1);
            let spare = [0, 1, 5, 64, 211][(i + usize::from(value)) % 5];
            let orientation = Orientation::from_exif(value);
            pictures.push(Picture::new("noise".to_owned(), packed, (width, height), orientation, spare));
        }
    }
    let kernels = Kernels::build();
    let mut compared = 0;
    for size in [(1, 1), (17, 23), (33, 9), (64, 48), (40, 30)] {
        for rule in RULES {
            for (layout, color_order) in LAYOUTS {
                compared += compare(&kernels, &config(size, layout, color_order, rule), &pictures);
            }
        }
    }
    assert_eq!(compared, 5 * 6 * 4 * 3 * sizes.len() * 8);
}

#[test]
fn the_golden_images_come_out_as_on_the_cpu() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut decoder = Decoder::new();
    let (mut pictures, mut jpegs) = (Vec::new(), 0);
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let encoded = std::fs::read(&file).unwrap();
        let image = decoder.decode(&encoded, &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        jpegs += usize::from(name.ends_with(".jpg"));
        // The alignment of the rows that nvJPEG and cudaMallocPitch use does not matter; that there is one does.
        let spare = (image.width() as usize * 3).next_multiple_of(256) - image.width() as usize * 3;
        let (size, orientation) = ((image.width(), image.height()), image.orientation());
        pictures.push(Picture::new(name, image.pixels().to_vec(), size, orientation, spare));
    }
    assert!(jpegs >= 30, "{jpegs} JPEG files");
    let kernels = Kernels::build();
    for rule in RULES {
        for (layout, color_order) in [(Layout::Nchw, ColorOrder::Rgb), (Layout::Nhwc, ColorOrder::Bgr)] {
            let rule = match rule {
                ResizeRule::CenterCrop { resize_shorter_side: Some(side) } => {
                    ResizeRule::CenterCrop { resize_shorter_side: Some(side.max(112)) }
                }
                ResizeRule::Stretch | ResizeRule::Letterbox { .. } | ResizeRule::CenterCrop { .. } => rule,
            };
            compare(&kernels, &config((112, 96), layout, color_order, rule), &pictures);
        }
    }
}

#[test]
fn half_precision_is_that_of_the_host() {
    let kernels = Kernels::build();
    // SAFETY: the type is that of `convert_to_half` in library.cpp.
    let convert: Symbol<'_, unsafe extern "C" fn(f32) -> u16> =
        unsafe { kernels.library.get(b"convert_to_half") }.unwrap();
    // Every number of half precision, halfway to the next, and beside both; then a walk over all floats.
    let near = (0..0x7c00_u16).flat_map(|bits| {
        let (low, high) = (half::f16::from_bits(bits).to_f32(), half::f16::from_bits(bits + 1).to_f32());
        let middle = if high.is_finite() { low / 2.0 + high / 2.0 } else { 65_520.0 };
        [low, middle].map(f32::to_bits).into_iter().flat_map(|b| [b.saturating_sub(1), b, b + 1])
    });
    for bits in near.chain((0..=0x7f80_0000).step_by(4093)).flat_map(|bits| [bits, bits | 0x8000_0000]) {
        let value = f32::from_bits(bits);
        // SAFETY: a function of a number.
        let got = unsafe { convert(value) };
        assert_eq!(got, half::f16::from_f32(value).to_bits(), "{value:e} ({bits:#x})");
    }
}

#[test]
fn rows_are_normalised_as_on_the_cpu() {
    let kernels = Kernels::build();
    let (mut different, mut all) = (0, 0);
    for columns in [1, 2, 192, 255, 256, 257, 512, 1000] {
        // Rows of noise, tiny, huge, one value among zeros, zeros.
        let noise = |seed| noise(columns, seed).into_iter().map(|b| f32::from(b) - 127.3).collect::<Vec<_>>();
        let mut rows = [noise(1), noise(2), noise(3), vec![0.0; columns], vec![0.0; columns]];
        rows[1].iter_mut().for_each(|v| *v *= 1.0e-38);
        rows[2].iter_mut().for_each(|v| *v *= 1.0e30);
        rows[3][columns / 2] = -5.0;
        let data: Vec<f32> = rows.concat();
        let mut expected = OutputBuffer {
            datatype: Datatype::Fp32,
            shape: vec![rows.len(), columns],
            data: data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        let tensor = TensorSpec {
            name: String::new(),
            datatype: Datatype::Fp32,
            shape: vec![i64::try_from(columns).unwrap()],
        };
        let spec = OutputSpec { tensor, softmax: false, normalize: Normalize::L2, labels: vec![] };
        postprocess::apply(&mut expected, &spec, false);
        for ascending in [false, true] {
            let mut got = data.clone();
            let mut address = got.as_mut_ptr();
            let mut parameters = L2NormalizeParameters {
                stride: columns as u64,
                rows: rows.len() as u32,
                columns: columns as u32,
            };
            let shape = l2_normalize_shape(parameters.rows);
            let mut arguments = [(&raw mut address).cast(), (&raw mut parameters).cast::<c_void>()];
            kernels.run(L2_NORMALIZE_F32, shape, &mut arguments, ascending);
            for (i, (got, expected)) in got.iter().zip(expected.data.chunks(4)).enumerate() {
                let expected = f32::from_le_bytes(expected.try_into().unwrap());
                // The sums are added in another order, in double precision.
                let apart = (i64::from(got.to_bits()) - i64::from(expected.to_bits())).abs();
                assert!(apart <= 1, "{columns} columns, element {i}: {got:e}, on the CPU {expected:e}");
                different += apart;
                all += 1;
            }
        }
    }
    assert!(different * 1000 <= all, "{different} of {all} elements differ in their last bit");
}

#[test]
fn structures_are_the_same_on_both_sides() {
    macro_rules! fields {
        ($($structure:ident { $($field:ident),* })*) => {
            [$(
                (stringify!($structure).to_owned(), size_of::<$structure>()),
                (concat!("align ", stringify!($structure)).to_owned(), align_of::<$structure>()),
                $((concat!(stringify!($structure), ".", stringify!($field)).to_owned(), offset_of!($structure, $field)),)*
            )*]
        };
    }
    let structures = fields! {
        AxisDescriptor { skip, scale, start, count }
        ImageDescriptor { pixels, x, y, pitch, width, height, turn, row, reserved }
        PreprocessParameters { width, height, images, rows, layout, color_order, mean, scale, fill }
        L2NormalizeParameters { stride, rows, columns }
    };
    let constants = [
        ("TURN_TRANSPOSE", TURN_TRANSPOSE),
        ("TURN_MIRROR_X", TURN_MIRROR_X),
        ("TURN_MIRROR_Y", TURN_MIRROR_Y),
        ("LAYOUT_NCHW", 0),
        ("LAYOUT_NHWC", 1),
        ("COLOR_RGB", 0),
        ("COLOR_BGR", 1),
        ("L2_NORMALIZE_THREADS", L2_NORMALIZE_THREADS),
    ];
    let rust: BTreeMap<String, usize> = structures
        .into_iter()
        .chain(constants.into_iter().map(|(name, value)| (name.to_owned(), value as usize)))
        .collect();
    let kernels = Kernels::build();
    // SAFETY: the type is that of `layout` in library.cpp.
    let layout: Symbol<'_, *const LayoutEntry> = unsafe { kernels.library.get(b"layout") }.unwrap();
    let mut cpp = BTreeMap::new();
    for i in 0.. {
        // SAFETY: the table ends with a null name, and this stops there.
        let entry = unsafe { layout.add(i) };
        // SAFETY: within the table, as above.
        let LayoutEntry { name, value } = unsafe { entry.read() };
        if name.is_null() {
            break;
        }
        // SAFETY: every other name is a string literal.
        let name = unsafe { CStr::from_ptr(name) };
        cpp.insert(name.to_str().unwrap().to_owned(), value);
    }
    assert_eq!(rust, cpp);
}
