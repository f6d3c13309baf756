//! The text on a terminal.

use std::fmt::Write as _;

use super::summary::{Comparison, Document, Summary};
use super::tally::Percentiles;

const COLUMNS: [&str; 7] = ["mean", "p50", "p90", "p95", "p99", "p99.9", "max"];

/// Everything that was measured, for people.
#[must_use]
pub fn text(document: &Document) -> String {
    let mut out = String::new();
    let rows: Vec<Vec<String>> = document.runs.iter().flat_map(rows).collect();
    let mut head = vec!["", "requests", "failed", "requests/s", "MB/s sent", "MB/s received"];
    let milliseconds = COLUMNS.map(|c| format!("{c} ms"));
    head.extend(milliseconds.iter().map(String::as_str));
    write_table(&mut out, &head, &rows);
    for run in &document.runs {
        for line in remarks(run) {
            let _ = writeln!(
                out,
                "{}{line}",
                if document.runs.len() > 1 { format!("{}: ", run.name) } else { String::new() }
            );
        }
        if !run.server_stages.is_empty() {
            out.push_str("\nin the server, warm-up included:\n");
            let rows: Vec<Vec<String>> = run
                .server_stages
                .iter()
                .map(|s| {
                    let unit = if s.name == "batch size" { "rows" } else { "ms" };
                    vec![s.name.to_owned(), format!("{} {unit}", figure(s.mean)), s.observations()]
                })
                .collect();
            write_table(&mut out, &["stage", "mean", "observations"], &rows);
        }
    }
    if let [first, second] = &document.runs[..]
        && !document.comparison.is_empty()
    {
        let _ = writeln!(
            out,
            "\n{} by {}, median of {} rounds:",
            second.name,
            first.name,
            first.rounds.len().max(1)
        );
        let rows: Vec<Vec<String>> = document.comparison.iter().map(ratio).collect();
        write_table(&mut out, &["", "ratio", "least", "most"], &rows);
    }
    out
}

fn ratio(c: &Comparison) -> Vec<String> {
    let mut row =
        vec![c.figure.replace("_ms", " ms").replace("_per_", "/").replace("requests/second", "requests/s")];
    row.extend([c.ratio, c.min, c.max].map(|v| format!("{v:.3}")));
    row
}

/// The run's line; in an open loop, what passed between leaving and answer too.
fn rows(run: &Summary) -> Vec<Vec<String>> {
    let mut row = vec![run.name.clone(), run.requests.to_string(), run.failed.to_string()];
    row.push(figure(run.requests_per_second));
    row.extend([run.sent_bytes_per_second, run.received_bytes_per_second].map(|b| figure(b / 1e6)));
    row.extend(cells(&run.latency_ms));
    let mut rows = vec![row];
    if let Some(open) = &run.open_loop {
        let of = |name: &str, p: &Percentiles| {
            let mut row = vec![name.to_owned()];
            row.extend(std::iter::repeat_n(String::new(), 5));
            row.extend(cells(p));
            row
        };
        rows.push(of("  of it, once sent", &open.service_ms));
        rows.push(of("  of it, before that", &open.send_delay_ms));
    }
    rows
}

fn cells(p: &Percentiles) -> [String; 7] {
    [p.mean, p.p50, p.p90, p.p95, p.p99, p.p999, p.max].map(figure)
}

/// What a reader must know to read the figures.
fn remarks(run: &Summary) -> Vec<String> {
    let mut lines = Vec::new();
    for error in &run.errors {
        let code = error.code.map_or(String::new(), |c| format!(" {c}"));
        lines.push(format!("failed: {} {}{code}: {}", error.count, error.kind, error.sample));
    }
    if let Some(open) = &run.open_loop {
        let behind = open.sent_late as f64 / open.due.max(1) as f64;
        if behind > 0.01 {
            lines.push(format!(
                "{} of {} requests left more than 1 ms late (99 % within {} ms, up to {} waited at a time): the {} \
                 connections were busy, or this machine was; latency has that wait in it",
                open.sent_late,
                open.due,
                figure(open.send_delay_ms.p99),
                open.backlog_max,
                run.connections
            ));
        }
        if run.requests_per_second < 0.95 * open.rate && !run.interrupted {
            lines.push(format!(
                "{} requests/s were asked for, {} were answered",
                figure(open.rate),
                figure(run.requests_per_second)
            ));
        }
    }
    if run.interrupted {
        lines.push(format!("ended early; {} answers were not waited for", run.cut));
    }
    lines
}

/// Three digits that matter.
#[must_use]
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

/// Columns of equal width, the first to the left, the others to the right.
fn write_table(out: &mut String, head: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..head.len())
        .map(|i| {
            rows.iter()
                .filter_map(|r| r.get(i))
                .map(|c| c.chars().count())
                .chain([head[i].len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (i, cell) in cells.enumerate() {
            let _ = if i == 0 {
                write!(out, "{cell:<w$}", w = widths[i])
            } else {
                write!(out, "  {cell:>w$}", w = widths[i])
            };
        }
        out.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}
