//! `visord migrate`: a PaddleServing `config.yml` becomes a model folder and the server's flags, with a line for every
//! key. [`yaml`] reads, [`server`] and [`op`] know the keys, [`model`] writes `model.toml`, [`report`] says what became of
//! what.

pub mod args;
pub mod files;
pub mod keys;
pub mod model;
pub mod op;
pub mod report;
pub mod server;
pub mod yaml;

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::cli::PaddleErrNo;
use crate::model::config::ModelConfig;
use crate::model::files::OnnxFile;
use crate::model::repository::{MODEL_FILE, NAME_RULE};
use crate::model::spec::ModelSpec;
use crate::problems::Problems;
use args::MigrateArgs;
use files::{Content, Output};
use op::{Device, OpFacts};
use report::{Fate, Report, one_line, shown};
use server::ServerFacts;
use yaml::{Document, Node};

/// How a migration ended.
#[derive(Debug)]
pub struct Migrated {
    /// The report for a person.
    pub text: String,
    /// Whether everything is known: nothing is left to decide.
    pub complete: bool,
}

/// Reads the configuration, writes the files, and says what became of each key.
///
/// # Errors
/// Sentences: a file that cannot be read, is not YAML or not ONNX, a flag that is wrong, a file that is in the way.
/// Nothing is written then.
pub fn run(args: &MigrateArgs) -> Result<Migrated, Vec<String>> {
    check_flags(args)?;
    let document = read_config(&args.paddle).map_err(|e| vec![format!("{} {e}", args.paddle.display())])?;
    let onnx = args.onnx.as_deref().map(OnnxFile::read).transpose().map_err(|e| vec![e])?;
    let top = document.root.entries().ok_or_else(|| {
        let kind = document.root.value.kind();
        vec![format!(
            "{} is {kind}, not a table of keys: no config.yml of PaddleServing",
            args.paddle.display()
        )]
    })?;
    let mut report = Report::default();
    let (server, dag, ops) = server::read(top, &mut report);
    for (line, key) in &document.twice {
        report.row(
            *line,
            key,
            "",
            Fate::Warning,
            "the key comes twice; the last value counts, as for PaddleServing",
        );
    }
    let Some((name, node)) = choose(ops, args, &mut report)? else {
        return Ok(Migrated { text: refusal(ops, args, &report), complete: false });
    };
    let op = op::read(name, node.entries().unwrap_or_default(), &dag, &mut report);
    let info = onnx.as_ref().map(|o| &o.info);
    let model_name = model_name(args, &op, &mut report);
    let model = model::write(&model_name, &op, &dag, args, info, &mut report);
    let absolute = std::path::absolute(&args.output).map_err(|e| vec![format!("--output {e}")])?;
    let repository = absolute.join("models");
    let repository = repository.to_str().ok_or_else(|| vec!["--output must be UTF-8".to_owned()])?;
    let flags = flags(&server, &op, args, repository, &mut report);
    if onnx.is_none()
        && let Some(dir) = &op.model_dir
    {
        let line = format!("op.{name}.local_service_conf.model_config");
        let place = line_of(node, &["local_service_conf", "model_config"]);
        report.row(
            place.unwrap_or(0),
            &line,
            dir,
            Fate::Decide,
            "a Paddle model: convert it, and migrate again with --onnx",
        );
    } else if let Some(dir) = &op.model_dir {
        let line = format!("op.{name}.local_service_conf.model_config");
        let place = line_of(node, &["local_service_conf", "model_config"]);
        let text = format!("models/{model_name}/1/{MODEL_FILE}, from --onnx");
        report.row(place.unwrap_or(0), &line, dir, Fate::Taken, text);
    }
    let folder = args.output.join("models").join(&model_name);
    let outputs = outputs(args, &folder, &model, &flags, onnx.as_ref(), &report);
    files::write_all(&outputs, args.force)?;
    if let Some(onnx) = &onnx {
        hold_against(&folder, &model_name, onnx, &mut report);
    }
    Ok(Migrated {
        complete: report.decisions().next().is_none(),
        text: summary(args, &op, &folder, &outputs, &report),
    })
}

/// Reads no more of the file than a `config.yml` may have.
fn read_config(path: &Path) -> Result<Document, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    file.take(yaml::MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot be read: {e}"))?;
    yaml::read(&bytes)
}

/// What clap cannot say of flags.
fn check_flags(args: &MigrateArgs) -> Result<(), Vec<String>> {
    let mut errors = Vec::new();
    for (flag, list) in [("--mean", &args.mean), ("--scale", &args.scale)] {
        // FP32 is what the model is fed with.
        let fits = list.iter().all(|v| (*v as f32).is_finite());
        if !matches!(list.len(), 0 | 1 | 3) || !fits {
            errors.push(format!("{flag} {list:?}: must be one number, or three with commas between"));
        }
    }
    for (flag, name, rule) in [
        ("--model-name", &args.model_name, model::is_folder_name as fn(&str) -> bool),
        ("--service-name", &args.service_name, crate::model::repository::is_name),
    ] {
        if let Some(name) = name.as_ref().filter(|n| !rule(n)) {
            errors.push(format!("{flag} {name:?}: {NAME_RULE}; a folder's name does not begin with '.'"));
        }
    }
    if args.fetch_name.iter().any(|f| f.is_empty() || f.starts_with('=') || f.ends_with('=')) {
        errors.push("--fetch-name: must be NAME or NAME=KEY".to_owned());
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The one operator that is to be served; `None` where that is not clear.
fn choose<'a>(
    ops: &'a [(String, Node)],
    args: &MigrateArgs,
    report: &mut Report,
) -> Result<Option<(&'a str, &'a Node)>, Vec<String>> {
    let chosen = match (&args.op, ops) {
        (Some(asked), _) => {
            let names = ops.iter().map(|(n, _)| shown(n)).collect::<Vec<_>>().join(", ");
            let found = ops.iter().find(|(n, _)| n == asked);
            Some(found.ok_or_else(|| vec![format!("--op {asked}: the operators are: {names}")])?)
        }
        (None, [one]) => Some(one),
        (None, []) => {
            report.absent("op", "none", Fate::Decide, "no operator stands in the file: PaddleServing takes the names of web_service.py and defaults, and no model. Nothing is written");
            None
        }
        (None, _) => {
            report.absent("op", &format!("{} operators", ops.len()), Fate::Decide, "a DAG of several operators: visord runs one model for a request. Migrate each with --op, and let clients call one after the other; nothing is written");
            None
        }
    };
    if let Some((name, _)) = chosen {
        for (other, node) in ops.iter().filter(|(n, _)| n != name) {
            let text = "not migrated: what web_service.py does between the operators is up to the clients";
            report.row(node.line, &format!("op.{other}"), "", Fate::Warning, text);
        }
    }
    Ok(chosen.map(|(n, node)| (n.as_str(), node)))
}

fn refusal(ops: &[(String, Node)], args: &MigrateArgs, report: &Report) -> String {
    let mut out = report.table("", |_| true);
    out.push('\n');
    for row in report.decisions() {
        let _ = writeln!(out, "decide    {}: {}", row.key, row.text);
    }
    for (name, _) in ops {
        let paddle = args.paddle.display();
        let _ = writeln!(
            out,
            "next      visord migrate --paddle {paddle} --op {} --output migrated-{}",
            shown(name),
            model::folder_name(name)
        );
    }
    out
}

/// The line of a nested key.
fn line_of(node: &Node, path: &[&str]) -> Option<usize> {
    path.iter()
        .try_fold(node, |node, key| node.entries()?.iter().find(|(k, _)| k == key).map(|(_, n)| n))
        .map(|n| n.line)
}

fn model_name(args: &MigrateArgs, op: &OpFacts, report: &mut Report) -> String {
    if let Some(name) = &args.model_name {
        report.flag("--model-name", name, Fate::Taken, "the model's folder");
        return name.clone();
    }
    let name = model::folder_name(&op.name);
    let text = if name == op.name {
        "the model's folder, after the operator"
    } else {
        "the model's folder: as near to the operator's name as a folder can be"
    };
    report.flag("--model-name", &name, Fate::Assumed, text);
    name
}

/// `visord.toml`.
fn flags(
    server: &ServerFacts,
    op: &OpFacts,
    args: &MigrateArgs,
    repository: &str,
    report: &mut Report,
) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "model_repository = {}", model::quoted(repository));
    let _ = writeln!(out, "host = \"0.0.0.0\"");
    let ServerFacts { http_port, grpc_port, metrics_port } = server;
    let _ = writeln!(out, "http_port = {http_port}\ngrpc_port = {grpc_port}\nmetrics_port = {metrics_port}");
    if matches!(op.device, Device::Gpu { .. }) {
        let _ = writeln!(out, "require_gpu = true");
    }
    if let Some(version) = args.paddle_err_no {
        let word = match version {
            PaddleErrNo::V06 => "0.6",
            PaddleErrNo::V08 => "0.8",
        };
        report.flag("--paddle-err-no", word, Fate::Taken, format!("visord.toml: paddle_err_no = \"{word}\""));
        let _ = writeln!(out, "paddle_err_no = \"{word}\"");
    } else {
        let text = "numbers 3000 on, over HTTP; where postprocess() has three arguments besides self, clients know 0 to 9: --paddle-err-no 0.6";
        report.flag("--paddle-err-no", "0.8", Fate::Assumed, text);
    }
    out
}

fn outputs(
    args: &MigrateArgs,
    folder: &Path,
    model: &str,
    flags: &str,
    onnx: Option<&OnnxFile>,
    report: &Report,
) -> Vec<Output> {
    let from = args.paddle.file_name().unwrap_or_default().to_string_lossy();
    let head = format!("# Written by `visord migrate` from PaddleServing's {}.\n", shown(&from));
    let of_op = |row: &report::Row| ["op.", "--", "ONNX "].iter().any(|p| row.key.starts_with(p));
    let tail = |table: String| format!("\n# What became of {}:\n#\n{table}", shown(&from));
    let flags = head.clone()
        + "# `visord serve --config` takes it; docs/configuration.md explains each key.\n\n"
        + flags
        + &tail(report.table("# ", |row| !of_op(row)));
    let model =
        head + "# docs/configuration.md explains each key.\n\n" + model + &tail(report.table("# ", of_op));
    let mut outputs = vec![
        Output { path: args.output.join("visord.toml"), content: Content::Text(flags) },
        Output { path: folder.join("model.toml"), content: Content::Text(model) },
    ];
    let copies = onnx.map(|o| o.copies(&folder.join("1"))).unwrap_or_default();
    outputs.extend(copies.into_iter().map(|(from, path)| Output { path, content: Content::CopyOf(from) }));
    outputs
}

/// What `visord check` will say of the model, while there is somebody to tell.
fn hold_against(folder: &Path, name: &str, onnx: &OnnxFile, report: &mut Report) {
    let mut problems = Problems::default();
    let config = ModelConfig::read(folder, name, &mut problems);
    ModelSpec::resolve(&config, &folder.join("1").join(MODEL_FILE), &onnx.info, &mut problems);
    for problem in problems.0 {
        report.absent(&problem.key, &problem.value, Fate::Decide, format!("model.toml: {}", problem.allowed));
    }
}

fn summary(args: &MigrateArgs, op: &OpFacts, folder: &Path, outputs: &[Output], report: &Report) -> String {
    let mut out = report.table("", |_| true);
    out.push('\n');
    for output in outputs {
        let _ = writeln!(out, "written   {}", output.path.display());
    }
    for row in report.decisions() {
        let _ = writeln!(out, "decide    {}: {}", row.key, row.text);
    }
    let config = quote(&args.output.join("visord.toml").to_string_lossy());
    if args.onnx.is_none() {
        for step in convert(args, op) {
            let _ = writeln!(out, "next      {step}");
        }
        if op.model_dir.is_some() {
            let _ = writeln!(out, "next      visord migrate, as now, with --onnx model.onnx --force");
        }
    }
    let _ = writeln!(out, "next      visord check --config {config}");
    let _ = writeln!(out, "next      visord serve --config {config}");
    if matches!(op.device, Device::Gpu { .. }) {
        let _ = writeln!(out, "note      on a host without a GPU, add --require-gpu false");
    }
    if report.decisions().next().is_none() {
        let _ = writeln!(
            out,
            "note      visord check --golden --config {} keeps today's answers in {}",
            config,
            folder.join("1/golden.json").display()
        );
    }
    out
}

/// The commands that make an ONNX file of the Paddle model. paddle2onnx 2.1 reads files by their endings, so those of
/// `paddle_serving_client.convert` are copied to such names.
fn convert(args: &MigrateArgs, op: &OpFacts) -> Vec<String> {
    let Some(dir) = &op.model_dir else { return Vec::new() };
    let base = args.paddle.parent().unwrap_or(Path::new(""));
    let there = base.join(dir);
    let text = |p: &Path| quote(&one_line(&p.to_string_lossy()));
    let file = |ending: &str| -> Option<String> {
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(&there).ok()?.filter_map(|e| Some(e.ok()?.path())).take(1000).collect();
        found.retain(|p| p.extension().is_some_and(|e| e == ending));
        found.sort();
        Some(one_line(&found.first()?.file_name()?.to_string_lossy()))
    };
    let command = |dir: &Path, model: &str, params: &str| {
        format!(
            "paddle2onnx --model_dir {} --model_filename {} --params_filename {} --save_file model.onnx",
            text(dir),
            quote(model),
            quote(params)
        )
    };
    if let (Some(model), Some(params)) = (file("pdmodel"), file("pdiparams")) {
        return vec![command(&there, &model, &params)];
    }
    let paddle = Path::new("paddle");
    vec![
        format!(
            "mkdir -p paddle && cp {} paddle/inference.pdmodel && cp {} paddle/inference.pdiparams",
            text(&there.join("__model__")),
            text(&there.join("__params__"))
        ),
        command(paddle, "inference.pdmodel", "inference.pdiparams"),
    ]
}

/// A word for a shell.
#[must_use]
pub fn quote(text: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ',' | '=' | '+' | ':');
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
