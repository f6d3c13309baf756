//! Times the CPU image path: `cargo bench --bench image`. With paths as arguments, decodes those files too.
//! Prints the median and the 99th percentile of each step; one thread, warm caches.

use std::path::Path;
use std::time::{Duration, Instant};

use visord::image::{ColorOrder, Decoder, Layout, Limits, Preprocess, PreprocessConfig, ResizeRule};

fn measure(name: &str, mut step: impl FnMut()) {
    let budget = Duration::from_secs(2);
    let started = Instant::now();
    while started.elapsed() < budget / 4 {
        step();
    }
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < budget || times.len() < 5 {
        let begun = Instant::now();
        step();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!("{name:60} p50 {:9.4} ms  p99 {:9.4} ms  n {}", at(50), at(99), times.len());
}

fn main() {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let mut files: Vec<_> = ["face.jpg", "astronaut.jpg", "size_224x224.png", "webp_lossy_face.webp"]
        .iter()
        .map(|name| images.join(name))
        .collect();
    files.extend(std::env::args().skip(1).filter(|a| !a.starts_with("--")).map(Into::into));
    let limits = Limits::default();
    let mut decoder = Decoder::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let encoded = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        measure(&format!("decode {name}"), || {
            std::hint::black_box(decoder.decode(&encoded, &limits).expect("a valid image"));
        });
        let image = decoder.decode(&encoded, &limits).expect("a valid image");
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let mut preprocess = Preprocess::new(PreprocessConfig {
                width: 112,
                height: 112,
                layout,
                color_order: ColorOrder::Rgb,
                mean: [127.5; 3],
                scale: [1.0 / 128.0; 3],
                resize: ResizeRule::Stretch,
            })
            .expect("a valid configuration");
            let mut out = vec![0.0; preprocess.elements()];
            let (w, h) = image.oriented_size();
            measure(&format!("resize {w}x{h} to 112x112 and normalise, {layout:?}"), || {
                preprocess.run(&image, std::hint::black_box(&mut out));
            });
        }
    }
}
