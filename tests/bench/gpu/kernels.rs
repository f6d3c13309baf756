//! The kernels on the device against the CPU path, and their times.

use serde_json::{Value, json};
use visord::backend::OutputBuffer;
use visord::gpu::descriptor::{DeviceImage, ImageDescriptor, PreprocessParameters};
use visord::gpu::memory::DeviceBuffer;
use visord::gpu::stream::Event;
use visord::image::{ColorOrder, Layout, Orientation, Preprocess, PreprocessConfig, ResizeRule, Rgb8View};
use visord::model::config::Normalize;
use visord::model::spec::OutputSpec;
use visord::scheduler::postprocess;
use visord::tensor::{Datatype, TensorSpec};

use super::device::{Gpu, noise};
use super::{Failure, Report};

const DATATYPES: [Datatype; 3] = [Datatype::Fp32, Datatype::Fp16, Datatype::Uint8];
const LAYOUTS: [(Layout, ColorOrder); 4] = [
    (Layout::Nchw, ColorOrder::Rgb),
    (Layout::Nchw, ColorOrder::Bgr),
    (Layout::Nhwc, ColorOrder::Rgb),
    (Layout::Nhwc, ColorOrder::Bgr),
];
const RULES: [(&str, ResizeRule); 4] = [
    ("stretch", ResizeRule::Stretch),
    ("letterbox", ResizeRule::Letterbox { fill: [114, 3, 250] }),
    ("center_crop", ResizeRule::CenterCrop { resize_shorter_side: None }),
    ("center_crop, shorter side 128", ResizeRule::CenterCrop { resize_shorter_side: Some(128) }),
];

/// A model's input, with numbers that no rounding forgives.
pub fn config(width: u32, height: u32, resize: ResizeRule) -> PreprocessConfig {
    PreprocessConfig {
        width,
        height,
        layout: Layout::Nchw,
        color_order: ColorOrder::Rgb,
        mean: [127.5, 110.0, 93.25],
        scale: [0.007_812_5, 0.017, 1.0 / 58.0],
        resize,
    }
}

/// A picture on the device, and its pixels here.
struct Source {
    packed: Vec<u8>,
    /// Kept: `image` points into it.
    _memory: DeviceBuffer,
    image: DeviceImage,
}

impl Source {
    fn new(gpu: &Gpu, (width, height): (u32, u32), seed: u32) -> Result<Self, Failure> {
        let row = width as usize * 3;
        let packed = noise(row * height as usize, seed);
        // Between the rows are bytes unlike the picture's; there are none after the last.
        let pitch = row + [0, 1, 5, 64, 211][seed as usize % 5];
        let mut pitched = noise(pitch * (height as usize - 1) + row, !seed);
        for (to, from) in pitched.chunks_mut(pitch).zip(packed.chunks(row)) {
            to[..row].copy_from_slice(from);
        }
        let memory = gpu.upload(&pitched)?;
        let (address, bytes, orientation) = (memory.address(), pitched.len(), Orientation::Upright);
        let image = DeviceImage { address, bytes, pitch, width, height, orientation };
        Ok(Self { packed, _memory: memory, image })
    }

    fn view(&self, orientation: Orientation) -> Option<Rgb8View<'_>> {
        Rgb8View::new(&self.packed, self.image.width, self.image.height, orientation)
    }
}

/// Preprocesses `images` on the device, one row each.
pub fn run(
    gpu: &Gpu,
    config: &PreprocessConfig,
    datatype: Datatype,
    images: &[DeviceImage],
) -> Result<Vec<u8>, Failure> {
    let rows = u32::try_from(images.len())?;
    let described: Result<Vec<_>, _> =
        images.iter().zip(0..).map(|(image, row)| ImageDescriptor::new(config, image, row)).collect();
    let descriptors = gpu.upload(bytemuck::cast_slice(&described?))?;
    let parameters = PreprocessParameters::new(config, rows, rows)?;
    let bytes = images.len() * parameters.row_elements() * datatype.size_bytes().unwrap_or(0);
    let input = DeviceBuffer::new(&gpu.device, bytes)?;
    // SAFETY: pictures, descriptors and input stay until `download` has synchronised the stream; the callers keep the
    // pictures.
    unsafe { gpu.kernels.preprocess(&gpu.stream, datatype, &descriptors, (&input, 0), &parameters) }?;
    gpu.download(&input, bytes)
}

/// The elements of a buffer as numbers.
fn numbers(datatype: Datatype, bytes: &[u8]) -> Vec<f64> {
    match datatype.size_bytes() {
        Some(1) => bytes.iter().map(|b| f64::from(*b)).collect(),
        Some(2) => bytes.chunks_exact(2).map(|b| half::f16::from_ne_bytes([b[0], b[1]]).to_f64()).collect(),
        _ => bytes.chunks_exact(4).map(|b| f64::from(f32::from_ne_bytes([b[0], b[1], b[2], b[3]]))).collect(),
    }
}

/// Compares the kernel with the CPU path, for every orientation, rule, layout and datatype.
pub fn preprocess(gpu: &Gpu, quick: bool, report: &mut Report) {
    let mut sizes = vec![(1, 1), (7, 5), (61, 45), (112, 112), (250, 250)];
    if !quick {
        sizes.extend([(5000, 3), (640, 480), (1920, 1080)]);
    }
    let sources: Result<Vec<_>, _> =
        sizes.iter().zip(1..).map(|(size, seed)| Source::new(gpu, *size, seed)).collect();
    let Some(sources) = report.attempt("preprocess: pictures are uploaded", sources) else { return };
    let targets: &[(u32, u32)] = if quick { &[(33, 25)] } else { &[(112, 112), (33, 25)] };
    for (name, rule) in RULES {
        let name = format!("preprocess, {name}: equal to the CPU");
        let mut total = Compared::default();
        let compared = targets.iter().try_for_each(|(width, height)| {
            LAYOUTS.into_iter().try_for_each(|(layout, color_order)| {
                let config = PreprocessConfig { layout, color_order, ..config(*width, *height, rule) };
                compare(gpu, &config, &sources, &mut total)
            })
        });
        if report.attempt(&name, compared).is_some() {
            let Compared { pictures, elements, unequal, worst } = total;
            let numbers = json!({
                "pictures": pictures, "elements": elements, "unequal": unequal, "worst_difference": worst,
            });
            report.check(&name, unequal == 0 && elements > 0, numbers);
        }
    }
}

#[derive(Default)]
struct Compared {
    pictures: usize,
    elements: usize,
    unequal: usize,
    worst: f64,
}

fn compare(
    gpu: &Gpu,
    config: &PreprocessConfig,
    sources: &[Source],
    total: &mut Compared,
) -> Result<(), Failure> {
    let mut cpu = Preprocess::new(config.clone())?;
    let cases: Vec<_> =
        sources.iter().flat_map(|s| (1..=8).map(move |value| (s, Orientation::from_exif(value)))).collect();
    let images: Vec<_> =
        cases.iter().map(|(s, orientation)| DeviceImage { orientation: *orientation, ..s.image }).collect();
    for datatype in DATATYPES {
        let got = run(gpu, config, datatype, &images)?;
        let row = cpu.elements() * datatype.size_bytes().unwrap_or(0);
        // In words, so that it is aligned for any element.
        let mut words = vec![0_u32; row.div_ceil(4)];
        for ((source, orientation), got) in cases.iter().zip(got.chunks_exact(row)) {
            let expected = &mut bytemuck::cast_slice_mut(&mut words)[..row];
            let view = source.view(*orientation).ok_or("a picture has the pixels of its size")?;
            cpu.run_as(datatype, &view, expected);
            total.pictures += 1;
            total.elements += cpu.elements();
            if got != &*expected {
                for (got, expected) in numbers(datatype, got).iter().zip(numbers(datatype, expected)) {
                    let apart = (got - expected).abs();
                    total.unequal += usize::from(apart != 0.0);
                    total.worst = total.worst.max(apart);
                }
            }
        }
    }
    Ok(())
}

/// Compares the L2 kernel with the CPU's: within one unit in the last place.
pub fn l2_normalize(gpu: &Gpu, quick: bool, report: &mut Report) {
    const NAME: &str = "l2_normalize: within 1 ulp of the CPU";
    let columns: &[usize] =
        if quick { &[1, 192, 257] } else { &[1, 2, 192, 255, 256, 257, 512, 1000, 100_000] };
    let (mut elements, mut unequal, mut worst) = (0, 0, 0);
    let compared = columns.iter().try_for_each(|columns| -> Result<(), Failure> {
        for (got, expected) in l2_rows(gpu, *columns)? {
            let apart = (i64::from(got.to_bits()) - i64::from(expected.to_bits())).abs();
            elements += 1;
            unequal += usize::from(apart != 0);
            worst = worst.max(apart);
        }
        Ok(())
    });
    if report.attempt(NAME, compared).is_some() {
        let numbers = json!({ "elements": elements, "unequal": unequal, "worst_ulp": worst });
        report.check(NAME, worst <= 1 && elements > 0, numbers);
    }
}

/// Values of the device and of the CPU: rows of noise, tiny, huge, one value among zeros, zeros.
fn l2_rows(gpu: &Gpu, columns: usize) -> Result<Vec<(f32, f32)>, Failure> {
    let row = |seed| noise(columns, seed).into_iter().map(|b| f32::from(b) - 127.3).collect::<Vec<_>>();
    let mut rows = [row(1), row(2), row(3), vec![0.0; columns], vec![0.0; columns]];
    rows[1].iter_mut().for_each(|v| *v *= 1.0e-38);
    rows[2].iter_mut().for_each(|v| *v *= 1.0e30);
    rows[3][columns / 2] = -5.0;
    let count = rows.len();
    let data: Vec<u8> = rows.concat().iter().flat_map(|v| v.to_ne_bytes()).collect();
    let output = gpu.upload(&data)?;
    let (rows, across) = (u32::try_from(count)?, u32::try_from(columns)?);
    // SAFETY: the output stays until `download` has synchronised the stream.
    unsafe { gpu.kernels.l2_normalize(&gpu.stream, (&output, 0), rows, across) }?;
    let got = gpu.download(&output, data.len())?;
    let mut expected = OutputBuffer { datatype: Datatype::Fp32, shape: vec![count, columns], data };
    let shape = vec![i64::try_from(columns)?];
    let tensor = TensorSpec { name: String::new(), datatype: Datatype::Fp32, shape };
    let spec = OutputSpec { tensor, softmax: false, normalize: Normalize::L2, labels: vec![] };
    postprocess::apply(&mut expected, &spec, false);
    let value = |b: &[u8]| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
    Ok(got.chunks_exact(4).map(value).zip(expected.data.chunks_exact(4).map(value)).collect())
}

/// Microseconds of the preprocessing of a batch, and gigabytes of pixels read a second, by batch and picture. Of a large
/// picture only the pixels beside the sampled places are read.
pub fn times(gpu: &Gpu, quick: bool) -> Result<Value, Failure> {
    let sizes: &[(u32, u32)] = if quick { &[(250, 250)] } else { &[(250, 250), (640, 480), (1920, 1080)] };
    let batches: &[u32] = if quick { &[1, 8] } else { &[1, 8, 32, 64] };
    let launches = if quick { 3 } else { 50 };
    let config = config(112, 112, ResizeRule::Stretch);
    let mut lines = Vec::new();
    eprintln!("preprocess to 112x112, FP32 | batch | µs | GB/s read");
    for (width, height) in sizes {
        for batch in batches {
            let bytes = *width as usize * *height as usize * 3;
            // Pictures of their own, or the cache would be timed; what is in them does not matter.
            let pixels = DeviceBuffer::new(&gpu.device, bytes * *batch as usize)?;
            let described: Result<Vec<_>, _> = (0..*batch)
                .map(|row| {
                    let address = pixels.address() + u64::from(row) * bytes as u64;
                    let (pitch, orientation) = (*width as usize * 3, Orientation::Upright);
                    let image =
                        DeviceImage { address, bytes, pitch, width: *width, height: *height, orientation };
                    ImageDescriptor::new(&config, &image, row)
                })
                .collect();
            let descriptors = gpu.upload(bytemuck::cast_slice(&described?))?;
            let parameters = PreprocessParameters::new(&config, *batch, *batch)?;
            let input = DeviceBuffer::new(&gpu.device, *batch as usize * parameters.row_elements() * 4)?;
            let (start, end) = (Event::timed(&gpu.device)?, Event::timed(&gpu.device)?);
            let enqueue = || {
                // SAFETY: all buffers stay until the events are waited for, below.
                unsafe {
                    gpu.kernels.preprocess(
                        &gpu.stream,
                        Datatype::Fp32,
                        &descriptors,
                        (&input, 0),
                        &parameters,
                    )
                }
            };
            enqueue()?;
            start.record(&gpu.stream)?;
            for _ in 0..launches {
                enqueue()?;
            }
            end.record(&gpu.stream)?;
            end.synchronize()?;
            let seconds = end.since(&start).as_secs_f64() / f64::from(launches);
            // Four neighbours for each pixel of the input, where the picture has as many.
            let read = bytes.min(4 * parameters.row_elements()) as f64;
            let rate = read * f64::from(*batch) / seconds.max(1e-9) / 1e9;
            eprintln!("{width}x{height} | {batch} | {:.2} | {rate:.1}", seconds * 1e6);
            lines.push(json!({
                "width": width, "height": height, "batch": batch,
                "microseconds": seconds * 1e6, "gigabytes_per_second": rate,
            }));
        }
    }
    Ok(Value::Array(lines))
}
