//! Axes: from values to places, and where their marks are.

use crate::bench::table::figure;

/// How values lie along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Evenly, from 0.
    Linear,
    /// Evenly by their logarithm.
    Log,
    /// Shares by the nines that they have: 0.9, 0.99, 0.999 are evenly apart.
    Nines,
}

/// An axis.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    kind: Kind,
    from: f64,
    to: f64,
}

impl Scale {
    /// From 0 to a round number that `most` is below.
    pub fn linear(most: f64) -> Self {
        let step = round_step(most.max(1e-9) / 4.0);
        Self { kind: Kind::Linear, from: 0.0, to: (most.max(1e-9) / step).ceil() * step }
    }

    /// From `least` to `most`, which are over 0.
    pub fn log(least: f64, most: f64) -> Self {
        let least = least.max(1e-6);
        Self { kind: Kind::Log, from: least.log10(), to: most.max(least * 1.01).log10() }
    }

    /// From the share 0 to `most`, below 1.
    pub fn nines(most: f64) -> Self {
        Self { kind: Kind::Nines, from: 0.0, to: nines(most).max(1.0) }
    }

    /// Where `value` lies: 0 at the begin, 1 at the end.
    pub fn place(&self, value: f64) -> f64 {
        let at = match self.kind {
            Kind::Linear => value,
            Kind::Log => value.max(1e-9).log10(),
            Kind::Nines => nines(value),
        };
        ((at - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// Values that are marked, and what is written there.
    pub fn marks(&self) -> Vec<(f64, String)> {
        match self.kind {
            Kind::Linear => {
                let step = round_step(self.to / 4.0);
                let count = (self.to / step).round() as u32;
                (0..=count).map(|i| (f64::from(i) * step, plain(f64::from(i) * step))).collect()
            }
            Kind::Log => {
                let narrow = self.to - self.from < 2.5;
                let factors: &[f64] = if narrow { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let decades = self.from.floor() as i32..=self.to.ceil() as i32;
                let values = decades.flat_map(|d| factors.iter().map(move |f| f * 10f64.powi(d)));
                let inside = values.filter(|v| (self.from - 1e-9..=self.to + 1e-9).contains(&v.log10()));
                inside.map(|v| (v, plain(v))).collect()
            }
            Kind::Nines => {
                let shares = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
                let inside = shares.into_iter().filter(|s| nines(*s) <= self.to + 1e-9);
                inside.map(|s| (s, format!("{} %", (s * 1e8).round() / 1e6))).collect()
            }
        }
    }
}

fn nines(share: f64) -> f64 {
    -(1.0 - share).max(1e-9).log10()
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|f| f * power).find(|s| *s >= step * 0.999).unwrap_or(step)
}

/// A number of a mark, which is a round one.
fn plain(value: f64) -> String {
    let text = if value.abs() >= 1.0 { format!("{value:.2}") } else { figure(value) };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_within_the_axis() {
        let texts = |scale: Scale| scale.marks().into_iter().map(|(_, t)| t).collect::<Vec<_>>();
        for (scale, want) in [
            (Scale::linear(37.0), vec!["0", "10", "20", "30", "40"]),
            (Scale::linear(0.7), vec!["0", "0.2", "0.4", "0.6", "0.8"]),
            (Scale::log(3.0, 60.0), vec!["5", "10", "20", "50"]),
            (Scale::log(0.1, 5000.0), vec!["0.1", "1", "10", "100", "1000"]),
            (Scale::nines(0.999), vec!["0 %", "50 %", "90 %", "99 %", "99.9 %"]),
        ] {
            assert_eq!(texts(scale), want, "{scale:?}");
            for (value, text) in scale.marks() {
                assert!((0.0..=1.0).contains(&scale.place(value)), "{text} of {scale:?}");
            }
        }
        for hostile in [0.0, 1e-300, 1e300, f64::INFINITY] {
            assert!(Scale::linear(hostile.min(1e12)).marks().len() < 20, "{hostile}");
        }
    }
}
