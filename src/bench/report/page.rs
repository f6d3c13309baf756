//! The page around the picture: every figure as a table.

use std::fmt::Write as _;

use super::chart::escaped;
use crate::bench::summary::{Document, Summary};
use crate::bench::table::figure;
use crate::bench::tally::Percentiles;

const LATENCY: [&str; 7] = ["mean", "p50", "p90", "p95", "p99", "p99.9", "max"];

/// HTML that is XML too.
pub fn page(document: &Document, picture: &str) -> String {
    let mut body = String::new();
    body.push_str(picture);
    let rows = document.runs.iter().flat_map(latencies).collect::<Vec<_>>();
    let head: Vec<String> = ["", "requests", "failed", "requests/s"].map(str::to_owned).to_vec();
    let head = [head, LATENCY.map(|c| format!("{c} ms")).to_vec()].concat();
    table(&mut body, "Latency", &head, &rows);
    if !document.comparison.is_empty() {
        let rows: Vec<_> = document
            .comparison
            .iter()
            .map(|c| {
                let numbers = [c.ratio, c.min, c.max].map(|v| format!("{v:.3}"));
                [vec![c.figure.replace('_', " ")], numbers.to_vec()].concat()
            })
            .collect();
        table(
            &mut body,
            "Second by first, within each round",
            &["", "median", "least", "most"].map(str::to_owned),
            &rows,
        );
    }
    let errors: Vec<Vec<String>> = document
        .runs
        .iter()
        .flat_map(|run| {
            run.errors.iter().map(|e| {
                let code = e.code.map_or(String::new(), |c| format!(" {c}"));
                vec![run.name.clone(), e.count.to_string(), format!("{}{code}", e.kind), e.sample.clone()]
            })
        })
        .collect();
    if !errors.is_empty() {
        table(
            &mut body,
            "Failed requests",
            &["", "count", "kind", "the first said"].map(str::to_owned),
            &errors,
        );
    }
    let stages: Vec<Vec<String>> = document
        .runs
        .iter()
        .flat_map(|run| {
            run.server_stages.iter().map(|s| {
                let unit = if s.name == "batch size" { "rows" } else { "ms" };
                let several = document.runs.len() > 1;
                let name = if several { format!("{} {}", run.name, s.name) } else { s.name.to_owned() };
                vec![name, format!("{} {unit}", figure(s.mean)), s.observations()]
            })
        })
        .collect();
    if !stages.is_empty() {
        table(
            &mut body,
            "In the server, warm-up included",
            &["stage", "mean", "observations"].map(str::to_owned),
            &stages,
        );
    }
    let more: Vec<Vec<String>> = document.runs.iter().map(rest).collect();
    let head = [
        "",
        "protocol",
        "seconds",
        "images/s",
        "MB/s sent",
        "MB/s received",
        "connections opened",
        "warm-up requests",
    ];
    table(&mut body, "Load", &head.map(str::to_owned), &more);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <meta name=\"color-scheme\" content=\"light dark\"/><title>visord bench</title>\
         <style>{}{}</style></head>\n<body class=\"b-page\"><main>\n{body}\
         <footer>visord {} ({}), <code>visord {}</code></footer>\n</main></body></html>\n",
        include_str!("style.css"),
        include_str!("page.css"),
        escaped(document.version),
        escaped(document.commit),
        escaped(&document.command)
    )
}

fn latencies(run: &Summary) -> Vec<Vec<String>> {
    let cells = |p: &Percentiles| [p.mean, p.p50, p.p90, p.p95, p.p99, p.p999, p.max].map(figure).to_vec();
    let first =
        [run.name.clone(), run.requests.to_string(), run.failed.to_string(), figure(run.requests_per_second)];
    let mut rows = vec![[first.to_vec(), cells(&run.latency_ms)].concat()];
    if let Some(open) = &run.open_loop {
        for (name, p) in [("once sent", &open.service_ms), ("before that", &open.send_delay_ms)] {
            let first = [name.to_owned(), String::new(), String::new(), String::new()];
            rows.push([first.to_vec(), cells(p)].concat());
        }
    }
    rows
}

fn rest(run: &Summary) -> Vec<String> {
    vec![
        run.name.clone(),
        run.protocol.to_owned(),
        figure(run.seconds),
        figure(run.images_per_second),
        figure(run.sent_bytes_per_second / 1e6),
        figure(run.received_bytes_per_second / 1e6),
        run.connections_opened.to_string(),
        run.warmup_requests.to_string(),
    ]
}

fn table(out: &mut String, title: &str, head: &[String], rows: &[Vec<String>]) {
    let _ = write!(out, "<h2>{}</h2>\n<div class=\"wide\"><table><thead><tr>", escaped(title));
    for cell in head {
        let _ = write!(out, "<th>{}</th>", escaped(cell));
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let class = if cell.len() > 40 { " class=\"text\"" } else { "" };
            let _ = write!(out, "<td{class}>{}</td>", escaped(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}
