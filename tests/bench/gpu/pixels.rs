//! nvJPEG's pictures against the CPU decoder's, as decoded and after preprocessing.

use std::path::Path;

use serde_json::{Value, json};
use visord::gpu::decode::{DecodeBench, DecodeLane};
use visord::gpu::descriptor::DeviceImage;
use visord::gpu::jpeg::{Decode, DecoderChoice, Nvjpeg, Policy, Thresholds, route};
use visord::image::{Decoder, JpegHeader, Limits, Preprocess, ResizeRule, jpeg_header};
use visord::tensor::Datatype;

use super::device::Gpu;
use super::{Failure, Report, kernels};

/// Mean difference, in levels after preprocessing, from which on the pictures are not the same: three times what
/// CONTRIBUTING.md allows between two decoders.
const WILD_MEAN: f64 = 1.5;
/// What CONTRIBUTING.md allows for a JPEG: the largest difference, and the mean.
const TOLERANCE: (u8, f64) = (3, 0.5);

/// Decodes every JPEG of `folder` in each way that takes it.
pub fn compare(gpu: &Gpu, nvjpeg: &Nvjpeg, folder: &Path, report: &mut Report) {
    let read = read(folder);
    let Some(files) = report.attempt("golden JPEGs are read", read) else { return };
    for choice in [DecoderChoice::Hardware, DecoderChoice::Hybrid] {
        let way = if choice == DecoderChoice::Hardware { Decode::Hardware } else { Decode::Hybrid };
        if way == Decode::Hardware && !nvjpeg.capabilities().hardware {
            continue;
        }
        let name = format!("decoder {}: pictures like the CPU's", way.name());
        let (mut pictures, mut passed_on, mut rejected, mut failed) = (vec![], vec![], vec![], vec![]);
        let (mut wild, mut outside) = (0, 0);
        for (file, encoded, header) in &files {
            let policy = Policy { choice, thresholds: Thresholds::NEVER };
            if route(header, &nvjpeg.capabilities(), &policy) != way {
                passed_on.push(file.clone());
                continue;
            }
            match picture(gpu, nvjpeg, way, encoded, header) {
                Ok(Some(differences)) => {
                    wild += usize::from(differences.preprocessed.mean > WILD_MEAN);
                    outside += usize::from(!differences.preprocessed.within());
                    pictures.push(json!({
                        "file": file,
                        "decoded": differences.decoded.json(),
                        "preprocessed": differences.preprocessed.json(),
                    }));
                }
                Ok(None) => rejected.push(file.clone()),
                Err(why) => failed.push(format!("{file}: {why}")),
            }
        }
        let worst =
            |part: &str, key: &str| pictures.iter().filter_map(|p| p[part][key].as_f64()).fold(0.0, f64::max);
        let numbers = json!({
            "compared": pictures.len(),
            "worst_preprocessed_max": worst("preprocessed", "max"),
            "worst_preprocessed_mean": worst("preprocessed", "mean"),
            "worst_decoded_max": worst("decoded", "max"),
            "worst_decoded_mean": worst("decoded", "mean"),
            "outside_tolerance": outside,
            "passed_on_by_header": passed_on,
            "rejected_by_nvjpeg": rejected,
            "failed": failed,
            "pictures": pictures,
        });
        report.check(&name, wild == 0 && failed.is_empty() && !pictures.is_empty(), numbers);
    }
}

fn read(folder: &Path) -> Result<Vec<(String, Vec<u8>, JpegHeader)>, Failure> {
    let mut files = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "jpg")) {
        let encoded = std::fs::read(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let header = jpeg_header(&encoded, &Limits::default())
            .ok_or_else(|| format!("{name} is no JPEG"))?
            .map_err(|e| format!("{name}: {e}"))?;
        files.push((name, encoded, header));
    }
    Ok(files)
}

struct Differences {
    decoded: Difference,
    preprocessed: Difference,
}

/// Between two pictures, in levels.
struct Difference {
    max: u8,
    mean: f64,
    /// Of the values, those more than 3 levels apart.
    share_beyond_3: f64,
}

impl Difference {
    fn of(got: &[u8], expected: &[u8]) -> Self {
        let apart: Vec<u8> = got.iter().zip(expected).map(|(g, e)| g.abs_diff(*e)).collect();
        let count = apart.len().max(1) as f64;
        Self {
            max: apart.iter().copied().max().unwrap_or(0),
            mean: apart.iter().map(|a| f64::from(*a)).sum::<f64>() / count,
            share_beyond_3: apart.iter().filter(|a| **a > 3).count() as f64 / count,
        }
    }

    fn within(&self) -> bool {
        self.max <= TOLERANCE.0 && self.mean <= TOLERANCE.1
    }

    fn json(&self) -> Value {
        json!({ "max": self.max, "mean": self.mean, "share_beyond_3": self.share_beyond_3 })
    }
}

/// One picture both ways; `None` where nvJPEG does not take it, and the daemon would ask the CPU.
fn picture(
    gpu: &Gpu,
    nvjpeg: &Nvjpeg,
    way: Decode,
    encoded: &[u8],
    header: &JpegHeader,
) -> Result<Option<Differences>, Failure> {
    let mut bench = DecodeBench::new(&gpu.device, nvjpeg, header.width, header.height, 1)?;
    let place = bench.images()[0].clone();
    // Kept until the end: it waits for its own work.
    let mut lane = None;
    let decoded = if way == Decode::Hardware {
        bench.decode_batch(encoded).map_err(|e| e.to_string())
    } else {
        let lane = lane.insert(DecodeLane::new(&gpu.device, nvjpeg)?);
        lane.decode(encoded, &place).map(drop).map_err(|e| e.to_string())
    };
    bench.synchronize()?;
    match decoded {
        Err(why) if why.starts_with("nvJPEG does not take") => return Ok(None),
        decoded => decoded?,
    }
    let row = header.width as usize * 3;
    let all = gpu.download(place.memory(), place.memory().len())?;
    let got: Vec<u8> = all
        .chunks(place.image.pitch)
        .take(header.height as usize)
        .flat_map(|line| &line[..row])
        .copied()
        .collect();
    let mut decoder = Decoder::new();
    let view = decoder.decode(encoded, &Limits::default()).map_err(|e| e.to_string())?;
    let image = DeviceImage { orientation: view.orientation(), ..place.image };
    let config = kernels::config(112, 112, ResizeRule::Stretch);
    let on_device = kernels::run(gpu, &config, Datatype::Uint8, &[image])?;
    let mut preprocess = Preprocess::new(config)?;
    let mut on_cpu = vec![0; preprocess.elements()];
    preprocess.run_u8(&view, &mut on_cpu);
    if got.len() != view.pixels().len() {
        return Err(format!("{} bytes of pixels, and {} on the CPU", got.len(), view.pixels().len()).into());
    }
    Ok(Some(Differences {
        decoded: Difference::of(&got, view.pixels()),
        preprocessed: Difference::of(&on_device, &on_cpu),
    }))
}
