//! The latency report: one picture, alone or in a page with the figures. No script, nothing from elsewhere.

mod chart;
mod page;
mod scale;

use std::fmt::Write as _;

use super::plan::ReportKind;
use super::summary::{Document, Summary};
use super::table::figure;
use chart::{Chart, Frame, escaped, text};
use scale::Scale;

/// Width of the picture, pixels.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 20.0;
/// Points of the rate by time, at most.
const POINTS: usize = 60;
/// Bars of the histogram.
const BARS: usize = 40;
/// From this ratio of the slowest to the median on, latency is drawn by its logarithm.
const LONG_TAIL: f64 = 12.0;
/// Letters of a name in a legend.
const NAME_LETTERS: usize = 34;

/// The whole file.
pub fn document(document: &Document, kind: ReportKind) -> String {
    let picture = picture(document);
    match kind {
        ReportKind::Svg => format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{picture}"),
        ReportKind::Html => page::page(document, &picture),
    }
}

/// The picture, which has its own style, light and dark.
fn picture(document: &Document) -> String {
    let mut body = String::new();
    let runs = &document.runs;
    let (inner, half) = (WIDTH - 2.0 * MARGIN, (WIDTH - 3.0 * MARGIN) / 2.0);
    text(&mut body, [MARGIN, 40.0], "head", "start", &title(document));
    text(&mut body, [MARGIN, 62.0], "soft", "start", &subtitle(document));
    let mut top = 80.0;
    if let [run] = &runs[..] {
        tiles(&mut body, run, top);
        top += 84.0;
    }
    percentiles(&mut body, runs, [MARGIN, top, inner, 320.0]);
    top += 320.0 + MARGIN;
    if swept(document) {
        sweep(&mut body, runs, [MARGIN, top, inner, 300.0]);
    } else {
        rates(&mut body, runs, [MARGIN, top, half, 300.0]);
        histogram(&mut body, runs, [2.0 * MARGIN + half, top, half, 300.0]);
    }
    top += 300.0 + MARGIN;
    let said = format!("visord {} ({})", document.version, document.commit);
    text(&mut body, [WIDTH - MARGIN, top + 4.0], "soft small", "end", &said);
    let height = top + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"b-page\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\">\n<style>{}</style>\n\
         <rect class=\"bg\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n",
        escaped(&spoken(document)),
        include_str!("style.css")
    )
}

/// Whether the runs are one server's with different numbers of connections.
fn swept(document: &Document) -> bool {
    let [first, rest @ ..] = &document.runs[..] else { return false };
    !rest.is_empty() && rest.iter().all(|r| r.url == first.url && r.connections != first.connections)
}

fn title(document: &Document) -> String {
    match &document.runs[..] {
        [] => "nothing was measured".to_owned(),
        [first, second] if !document.comparison.is_empty() => {
            format!("{} beside {}", short(&second.name), short(&first.name))
        }
        [first, ..] => first.url.clone(),
    }
}

fn subtitle(document: &Document) -> String {
    let Some(run) = document.runs.first() else { return String::new() };
    let load = match &run.open_loop {
        Some(open) => {
            format!("open loop, {} requests/s over {} connections", figure(open.rate), run.connections)
        }
        None if swept(document) => "closed loop".to_owned(),
        None => format!("closed loop, {} connections", run.connections),
    };
    let requests: u64 = document.runs.iter().map(|r| r.requests).sum();
    let mut said = format!("{}, {load}; {requests} requests", run.protocol);
    if let Some(ratio) = document.comparison.first() {
        let _ = write!(
            said,
            "; rate {:.2} times the first one's ({:.2} to {:.2} over {} rounds)",
            ratio.ratio,
            ratio.min,
            ratio.max,
            run.rounds.len().max(1)
        );
    }
    said
}

/// The picture for those who do not see it.
fn spoken(document: &Document) -> String {
    let runs = document.runs.iter().map(|r| {
        format!(
            "{}: {} requests/s, median {} ms, 99 % within {} ms, {} failed",
            r.name,
            figure(r.requests_per_second),
            figure(r.latency_ms.p50),
            figure(r.latency_ms.p99),
            r.failed
        )
    });
    format!("Latency report. {}", runs.collect::<Vec<_>>().join(". "))
}

fn short(name: &str) -> String {
    let name = name.trim_start_matches("http://");
    if name.chars().count() <= NAME_LETTERS {
        return name.to_owned();
    }
    format!("{}…", name.chars().take(NAME_LETTERS - 1).collect::<String>())
}

/// The figures that are looked for first.
fn tiles(out: &mut String, run: &Summary, top: f64) {
    let failed = if run.failed == 0 { String::new() } else { " bad".to_owned() };
    let tiles = [
        (figure(run.requests_per_second), "requests/s", ""),
        (format!("{} ms", figure(run.latency_ms.p50)), "median", ""),
        (format!("{} ms", figure(run.latency_ms.p99)), "99 % within", ""),
        (format!("{} ms", figure(run.latency_ms.p999)), "99.9 % within", ""),
        (run.failed.to_string(), "failed", &*failed),
    ];
    let width = (WIDTH - 2.0 * MARGIN - 4.0 * 12.0) / 5.0;
    for (i, (value, words, class)) in tiles.iter().enumerate() {
        let left = MARGIN + i as f64 * (width + 12.0);
        let _ = writeln!(
            out,
            "<rect class=\"card\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"68\" rx=\"8\"/>"
        );
        text(out, [left + 16.0, top + 34.0], &format!("big{class}"), "start", value);
        text(out, [left + 16.0, top + 54.0], "soft small", "start", words);
    }
}

/// The axis of latency up to `most`.
fn latency(least: f64, median: f64, most: f64) -> Scale {
    if most > LONG_TAIL * median && median > 0.0 {
        Scale::log(least, most * 1.1)
    } else {
        Scale::linear(most)
    }
}

/// How many answers came within which time.
fn percentiles(out: &mut String, runs: &[Summary], place: [f64; 4]) {
    let mut lines: Vec<(String, usize, bool, Vec<[f64; 2]>)> = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let open = run.open_loop.is_some();
        let name = if open { "from when it was due".to_owned() } else { "latency".to_owned() };
        let name = if runs.len() > 1 { short(&run.name) } else { name };
        lines.push((name, i, false, run.percentile_curve.clone()));
        if open && runs.len() == 1 {
            let sent = run.percentile_curve.iter().map(|[share, _]| [*share, run.tally.service.at(*share)]);
            lines.push(("from when it left".to_owned(), 1, true, sent.collect()));
        }
    }
    let points = || lines.iter().flat_map(|(_, _, _, points)| points);
    let most = points().map(|p| p[1]).fold(0.0, f64::max);
    let least = points().map(|p| p[1]).fold(f64::INFINITY, f64::min);
    let median = runs.iter().map(|r| r.latency_ms.p50).filter(|m| *m > 0.0).fold(f64::INFINITY, f64::min);
    let share = points().map(|p| p[0]).fold(0.9, f64::max);
    let frame = Frame {
        place,
        title: "How many answers came within which time?",
        x: (Scale::nines(share), "share of answers"),
        y: (latency(least.min(most), median, most), "milliseconds"),
    };
    let mut chart = Chart::new(out, &frame);
    for (_, colour, dashed, points) in &lines {
        chart.line(points, *colour, *dashed);
    }
    let names: Vec<_> = lines.into_iter().map(|(name, colour, dashed, _)| (name, colour, dashed)).collect();
    if names.len() > 1 && names.len() <= 8 {
        chart.legend(&names);
    }
}

/// Answers a second by time; failed requests stand at the bottom.
fn rates(out: &mut String, runs: &[Summary], place: [f64; 4]) {
    let line = |run: &Summary| -> Vec<[f64; 2]> {
        // The last step is cut off by the end.
        let steps = &run.timeline.steps;
        let whole = &steps[..steps.len().saturating_sub(1)];
        let joined = whole.len().div_ceil(POINTS).max(1);
        let step = run.timeline.step_seconds * joined as f64;
        let rounds = run.rounds.len().max(1) as f64;
        let ok = whole.chunks_exact(joined).map(|steps| steps.iter().map(|s| s.ok).sum::<u64>());
        ok.enumerate().map(|(i, ok)| [(i as f64 + 0.5) * step, ok as f64 / step / rounds]).collect()
    };
    let lines: Vec<_> = runs.iter().map(line).collect();
    let most = lines.iter().flatten().map(|p| p[1]).fold(1.0, f64::max);
    let end = lines.iter().flatten().map(|p| p[0]).fold(0.1, f64::max);
    let frame = Frame {
        place,
        title: "Is the rate steady?",
        x: (Scale::linear(end), "seconds"),
        y: (Scale::linear(most), "answers/s"),
    };
    let mut chart = Chart::new(out, &frame);
    for (i, (run, line)) in runs.iter().zip(&lines).enumerate() {
        if runs.len() == 1 {
            chart.area(line, i);
        }
        chart.line(line, i, false);
        let step = run.timeline.step_seconds;
        for (at, failed) in run.timeline.steps.iter().enumerate().filter(|(_, s)| s.failed > 0) {
            let from = at as f64 * step;
            let words = format!("{} failed at {} s", failed.failed, figure(from));
            chart.bar(from, from + step, failed.failed as f64 / step, "bad half", &words);
        }
    }
}

/// How many answers took how long.
fn histogram(out: &mut String, runs: &[Summary], place: [f64; 4]) {
    let measured = || runs.iter().filter(|r| r.ok > 0);
    let least = measured().map(|r| r.tally.response.min()).fold(f64::INFINITY, f64::min);
    let most = measured().map(|r| r.latency_ms.max).fold(0.0, f64::max);
    let (least, most) = if most > 0.0 { (least.max(1e-3) * 0.95, most * 1.05) } else { (1.0, 10.0) };
    let edge = |i: usize| least * (most / least).powf(i as f64 / BARS as f64);
    let shares = |run: &Summary| -> Vec<f64> {
        let below: Vec<u64> = (0..=BARS).map(|i| run.tally.response.within(edge(i))).collect();
        let total = run.ok.max(1) as f64;
        below.windows(2).map(|w| (w[1] - w[0]) as f64 / total * 100.0).collect()
    };
    let all: Vec<Vec<f64>> = runs.iter().map(shares).collect();
    let highest = all.iter().flatten().copied().fold(1.0, f64::max);
    let frame = Frame {
        place,
        title: "How long did answers take?",
        x: (Scale::log(least, most), "milliseconds"),
        y: (Scale::linear(highest), "% of answers"),
    };
    let mut chart = Chart::new(out, &frame);
    for (run, shares) in all.iter().enumerate() {
        let class = format!("f{} {}", run % chart::COLOURS, if runs.len() == 1 { "" } else { "half" });
        for (i, share) in shares.iter().enumerate().filter(|(_, s)| **s > 0.0) {
            let words =
                format!("{} % took {} to {} ms", figure(*share), figure(edge(i)), figure(edge(i + 1)));
            chart.bar(edge(i), edge(i + 1), *share, class.trim_end(), &words);
        }
    }
}

/// Latency against throughput, a point for each number of connections.
fn sweep(out: &mut String, runs: &[Summary], place: [f64; 4]) {
    let most_rate = runs.iter().map(|r| r.requests_per_second).fold(1.0, f64::max);
    let most = runs.iter().map(|r| r.latency_ms.p99).fold(0.1, f64::max);
    let frame = Frame {
        place,
        title: "What does more throughput cost?",
        x: (Scale::linear(most_rate), "requests/s; the numbers are connections"),
        y: (Scale::linear(most), "milliseconds"),
    };
    let mut chart = Chart::new(out, &frame);
    type Of = fn(&Summary) -> f64;
    let of: [(&str, Of); 2] = [("median", |r| r.latency_ms.p50), ("99 % within", |r| r.latency_ms.p99)];
    for (colour, (name, of)) in of.iter().enumerate() {
        let points: Vec<_> = runs.iter().map(|r| [r.requests_per_second, of(r)]).collect();
        chart.line(&points, colour, false);
        for (run, point) in runs.iter().zip(points) {
            let hint =
                format!("{}: {} requests/s, {name} {} ms", run.name, figure(point[0]), figure(point[1]));
            // Once is enough: the median's dot is below it.
            let words = if colour > 0 { run.connections.to_string() } else { String::new() };
            chart.dot(point, colour, &words, &hint);
        }
    }
    let names: Vec<_> = of.iter().enumerate().map(|(i, (name, _))| ((*name).to_owned(), i, false)).collect();
    chart.legend(&names);
}
