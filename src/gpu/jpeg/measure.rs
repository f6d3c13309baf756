//! What `decoder = "auto"` goes by: how many pictures a second each way decodes here, and from which size on the
//! GPU is the faster one.

use std::time::{Duration, Instant};

use super::Thresholds;

/// Pictures a second at one size; `None` for a way that is not there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Pixels of the picture.
    pub pixels: u64,
    /// By the CPU pool.
    pub cpu: f64,
    /// By CPU and GPU together, on all lanes.
    pub hybrid: Option<f64>,
    /// By the JPEG engine.
    pub hardware: Option<f64>,
}

/// The smallest measured sizes from which on, at every larger size measured, the GPU's rate is at least the CPU's.
/// A tie goes to the GPU: it leaves the CPU to others. The engine must also not be slower than the hybrid way, or
/// that is the GPU's.
#[must_use]
pub fn thresholds(measured: &[Rates]) -> Thresholds {
    let mut by_size = measured.to_vec();
    by_size.sort_by_key(|rates| rates.pixels);
    let from = |wins: &dyn Fn(&Rates) -> bool| {
        by_size.iter().rev().take_while(|rates| wins(rates)).last().map_or(u64::MAX, |rates| rates.pixels)
    };
    let at_least = |rate: Option<f64>, other: f64| rate.is_some_and(|rate| rate >= other);
    Thresholds {
        hardware_min_pixels: from(&|r| at_least(r.hardware, r.cpu.max(r.hybrid.unwrap_or(0.0)))),
        hybrid_min_pixels: from(&|r| at_least(r.hybrid, r.cpu)),
    }
}

/// Calls `decode`, which says how many pictures it decoded to the end, for about `budget` (at least twice, the first
/// uncounted: it allocates and warms up), and gives pictures a second.
///
/// **Errors:** the first of `decode`.
pub fn images_per_second<E>(
    budget: Duration,
    mut decode: impl FnMut() -> Result<usize, E>,
) -> Result<f64, E> {
    decode()?;
    let start = Instant::now();
    let mut images = 0;
    loop {
        images += decode()?;
        let elapsed = start.elapsed();
        if elapsed >= budget {
            // A clock that stands still must not make a rate of infinity.
            return Ok(images as f64 / elapsed.as_secs_f64().max(1e-9));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gpu_begins_where_it_stays_ahead() {
        let rates = |pixels, cpu, hybrid, hardware| Rates { pixels, cpu, hybrid, hardware };
        let never = u64::MAX;
        for (what, measured, hardware, hybrid) in [
            ("nothing measured", vec![], never, never),
            ("no GPU", vec![rates(100, 9.0, None, None)], never, never),
            ("a V100", vec![rates(100, 9.0, Some(5.0), None), rates(200, 4.0, Some(4.0), None)], never, 200),
            (
                "order does not matter",
                vec![rates(200, 4.0, Some(4.0), None), rates(100, 9.0, Some(5.0), None)],
                never,
                200,
            ),
            (
                "a lone win below a loss does not count",
                vec![
                    rates(100, 1.0, Some(9.0), Some(9.0)),
                    rates(200, 9.0, Some(1.0), Some(1.0)),
                    rates(300, 1.0, Some(2.0), Some(3.0)),
                ],
                300,
                300,
            ),
            ("all sizes", vec![rates(100, 1.0, Some(2.0), Some(3.0)); 2], 100, 100),
            ("the engine behind the hybrid way", vec![rates(100, 1.0, Some(3.0), Some(2.0))], never, 100),
            ("the engine alone", vec![rates(100, 2.0, Some(1.0), Some(2.0))], 100, never),
        ] {
            let expected = Thresholds { hardware_min_pixels: hardware, hybrid_min_pixels: hybrid };
            assert_eq!(thresholds(&measured), expected, "{what}");
        }
    }

    #[test]
    fn a_rate_is_pictures_over_time() {
        let mut calls = 0;
        let rate = images_per_second(Duration::from_millis(20), || {
            calls += 1;
            std::thread::sleep(Duration::from_millis(5));
            Ok::<_, ()>(10)
        });
        let rate = rate.unwrap();
        assert!(calls >= 3, "{calls} calls");
        // 10 pictures take at least 5 ms.
        assert!(rate > 1.0 && rate <= 2000.0, "{rate}");
        assert_eq!(images_per_second(Duration::ZERO, || Err("broken")), Err("broken"));
    }
}
