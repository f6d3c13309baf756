//! The pages of `docs/` against the code that they describe: flags, keys, metrics, errors, and links.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use visord::cli::Cli;
use visord::error::ErrorKind;
use visord::telemetry::names;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The cells of the table row whose first cell is `name` in backticks.
fn row<'a>(page: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let begin = format!("| `{name}` |");
    let line = page.lines().find(|line| line.starts_with(&begin))?;
    Some(line.trim_matches('|').split('|').map(str::trim).collect())
}

/// The string literals in `source` that directly follow one of `openings`.
fn literals<'a>(source: &'a str, openings: &[&str]) -> Vec<&'a str> {
    let after = openings.iter().flat_map(|opening| source.split(*opening).skip(1));
    after.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next()).collect()
}

#[test]
fn every_flag_is_described_with_its_variable_and_default() {
    let page = read("docs/configuration.md");
    let command = Cli::command();
    // What `build` has in a way of its own is in its own section.
    let (before, of_build) = page.split_once("### `visord build`").expect("it has a section");
    let flags = [("serve", before), ("build", of_build)].into_iter().flat_map(|(name, section)| {
        let subcommand = command.find_subcommand(name).expect("both are there");
        subcommand.get_arguments().map(move |arg| (arg, section))
    });
    for (arg, section) in flags {
        let Some(long) = arg.get_long().filter(|l| !matches!(*l, "help" | "version")) else { continue };
        let name = format!("--{long}");
        let cells = row(section, &name).or_else(|| row(&page, &name));
        let cells = cells.unwrap_or_else(|| panic!("{name} has no row"));
        let variable = arg.get_env().map(|v| v.to_string_lossy()).unwrap_or_default();
        assert_eq!(cells[1], format!("`{variable}`"), "--{long}");
        for default in arg.get_default_values() {
            let default = default.to_string_lossy();
            assert!(
                cells[3].contains(&*default),
                "--{long}: its default is {default}, the page says {}",
                cells[3]
            );
        }
    }
}

#[test]
fn every_key_of_model_toml_is_described() {
    let page = read("docs/configuration.md");
    let source =
        ["src/model/config.rs", "src/model/tensorrt.rs", "src/model/traffic.rs"].map(read).join("\n");
    let readers = [
        ".string(",
        ".strings(",
        ".boolean(",
        ".integer(",
        ".integers(",
        ".number(",
        ".choice(",
        ".triple(",
        ".string_map(",
    ];
    let keys = literals(&source, &readers);
    assert!(keys.len() > 30, "the reader has changed: {keys:?}");
    for key in keys {
        assert!(page.contains(key), "{key} is not in docs/configuration.md");
    }
    for table in literals(&source, &[".section(", ".sections("]) {
        let forms = [format!("[{table}]"), format!(".{table}]]"), format!("`{table} = {{")];
        let described = forms.iter().any(|form| page.contains(form));
        assert!(described, "[{table}] is not in docs/configuration.md");
    }
}

#[test]
fn every_metric_is_described_with_its_kind() {
    let page = read("docs/metrics.md");
    for &(name, kind, _) in names::ALL {
        let cells = row(&page, name).unwrap_or_else(|| panic!("{name} has no row"));
        assert_eq!(cells[1], format!("{kind:?}").to_lowercase(), "{name}");
    }
    let source = read("src/telemetry/names.rs");
    let triton: Vec<&str> =
        literals(&source, &["&str = "]).into_iter().filter(|n| n.starts_with("nv_")).collect();
    assert!(!triton.is_empty());
    for name in triton {
        assert!(row(&page, name).is_some(), "{name} has no row");
    }
}

#[test]
fn every_error_is_described_with_its_statuses() {
    let page = read("docs/errors.md");
    for kind in ErrorKind::ALL {
        let status = kind.status();
        let cells = row(&page, status.reason).unwrap_or_else(|| panic!("{} has no row", status.reason));
        let wanted =
            [i32::from(status.http), status.grpc, status.paddle, status.paddle_06].map(|n| n.to_string());
        let written = [1, 2, 3, 4].map(|i: usize| cells[i].trim_start_matches("‡ "));
        assert_eq!(written[..], wanted[..], "{}", status.reason);
    }
}

/// The blocks of a page in that language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&*fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_queries_and_files_of_ab_testing_are_right() {
    let page = read("docs/ab-testing.md");
    let queries = blocks(&page, "promql");
    assert!(queries.len() >= 9, "{} queries", queries.len());
    for query in queries {
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let used: Vec<&str> = words.filter(|w| w.starts_with("visord_")).collect();
        assert!(!used.is_empty(), "{query}");
        for used in used {
            let known = names::ALL.iter().any(|(name, kind, _)| match kind {
                names::Kind::Histogram => {
                    used.strip_prefix(name).is_some_and(|s| ["_bucket", "_sum", "_count"].contains(&s))
                }
                names::Kind::Counter | names::Kind::Gauge => used == *name,
            });
            assert!(known, "{used} is no series of ours: {query}");
        }
        // A bound that is no bucket's would match nothing.
        for bound in query.split("le=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let bound: f64 = bound.parse().expect("a bound is a number");
            assert!(names::COSINE_BUCKETS.contains(&bound), "{query}");
        }
    }
    let files = blocks(&page, "toml");
    assert!(files.len() >= 4, "{} files", files.len());
    for file in files {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("model.toml"), file).expect("a file");
        let mut problems = visord::problems::Problems::default();
        let config = visord::model::config::ModelConfig::read(dir.path(), "Faces", &mut problems);
        assert!(problems.0.is_empty() && !config.traffic.weights.is_empty(), "{file}{problems:?}");
    }
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The targets of a page's links, code left out.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            // Every second piece between backticks is code.
            let prose: String = line.split('`').step_by(2).collect();
            let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            found.extend(targets.map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_relative_link_resolves() {
    let docs = std::fs::read_dir(root().join("docs")).expect("there is docs/");
    let mut pages: Vec<PathBuf> = docs.map(|entry| entry.expect("docs/ can be listed").path()).collect();
    pages.retain(|path| path.extension().is_some_and(|e| e == "md"));
    pages.extend(
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "engines/ArcFace/README.md"].map(|p| root().join(p)),
    );
    let mut broken = Vec::new();
    for page in pages {
        for link in links(&read(&page)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.with_file_name(path) };
            let there = target.exists()
                && (heading.is_empty()
                    || read(&target).lines().any(|l| l.starts_with('#') && anchor(l) == heading));
            if !there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}
