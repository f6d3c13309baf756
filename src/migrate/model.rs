//! `model.toml` for an operator: what its `config.yml` says, what flags say of `web_service.py`, and what the ONNX file
//! says, held against each other.

use std::fmt::Write as _;

use super::args::MigrateArgs;
use super::op::{Device, OpFacts};
use super::report::{Fate, Report, moves_terminals};
use super::server::DagFacts;
use crate::image::Layout;
use crate::model::onnx::{BatchDimension, OnnxInfo};
use crate::model::repository::is_name;
use crate::model::spec::image_shape;
use crate::tensor::{Datatype, TensorSpec};

/// Whether a name can be a model's folder: [`is_name`], and not hidden.
#[must_use]
pub fn is_folder_name(name: &str) -> bool {
    is_name(name) && !name.starts_with('.')
}

/// The nearest name that a folder can have.
#[must_use]
pub fn folder_name(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '-' };
    let name: String = text.trim_start_matches('.').chars().take(64).map(allowed).collect();
    match () {
        () if is_folder_name(&name) => name,
        () if name.is_empty() => "model".to_owned(),
        () => format!("model-{name}"),
    }
}

/// A TOML string on one line, whatever is in it: it stands in comments too.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if moves_terminals(c) => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A number, or three.
fn numbers(list: &[f64]) -> String {
    match list {
        [one] => toml::Value::Float(*one).to_string(),
        list => toml::Value::Array(list.iter().map(|v| toml::Value::Float(*v)).collect()).to_string(),
    }
}

/// Writes `model.toml`, and says in `report` where each part comes from.
pub fn write(
    name: &str,
    op: &OpFacts,
    dag: &DagFacts,
    args: &MigrateArgs,
    onnx: Option<&OnnxInfo>,
    report: &mut Report,
) -> String {
    let mut out = String::new();
    if let Some(n) = max_batch_size(op, onnx, report) {
        let _ = writeln!(out, "max_batch_size = {n}");
    }
    let _ = writeln!(out, "precision = \"{}\"", op.precision);
    out.push_str(&image(args, onnx, report));
    let _ = write!(
        out,
        "\n[dynamic_batching]\nmax_queue_delay_microseconds = {}\nmax_queue_size = {}\ndefault_timeout_microseconds = {}\n",
        op.queue_delay_us, dag.max_queue_size, op.timeout_us
    );
    out.push_str("\n[[instance_group]]\n");
    match &op.device {
        Device::Cpu { count, threads } => {
            let _ = writeln!(out, "kind = \"cpu\"\ncount = {count}\nthreads = {threads}");
        }
        Device::Gpu { gpus, slots } => {
            let _ = writeln!(out, "kind = \"auto\"      # require_gpu in visord.toml keeps it off the CPU");
            let _ = writeln!(out, "gpus = {gpus:?}");
            if *slots > 1 {
                let _ = writeln!(out, "# count = {slots}        # where one instance leaves the GPU idle");
            }
        }
    }
    let fetch = fetch(op, args, onnx, report);
    let service = service(name, op, args, report);
    let _ = writeln!(out, "\n[paddle_serving]\nservice = {}", quoted(&service));
    if !fetch.is_empty() {
        let pairs: Vec<String> =
            fetch.iter().map(|(output, key)| format!("{} = {}", quoted(output), quoted(key))).collect();
        let _ = writeln!(out, "fetch = {{ {} }}", pairs.join(", "));
    }
    out
}

fn max_batch_size(op: &OpFacts, onnx: Option<&OnnxInfo>, report: &mut Report) -> Option<i64> {
    let dimension = onnx.map(OnnxInfo::batch_dimension);
    match dimension {
        None | Some(Some(BatchDimension::Dynamic)) => (op.batch_size > 1).then_some(op.batch_size),
        Some(Some(BatchDimension::Fixed(1))) => {
            if op.batch_size > 1 {
                let text = "the ONNX file's first dimension is fixed at 1, so max_batch_size is left out; export it open for batches";
                report.absent("ONNX first dimension", "1", Fate::Warning, text);
            }
            None
        }
        Some(other) => {
            let text = "no batches with this ONNX file, and no pictures: export it with an open first dimension in all inputs";
            let size = match other {
                Some(BatchDimension::Fixed(n)) => n.to_string(),
                Some(BatchDimension::Dynamic) | None => "none in common".to_owned(),
            };
            report.absent("ONNX first dimension", &size, Fate::Decide, text);
            None
        }
    }
}

/// The ONNX file's one input as a picture: layout, height, width, -1 where open.
pub(crate) fn picture(onnx: &OnnxInfo) -> Option<(&TensorSpec, Layout, i64, i64)> {
    let [input] = onnx.inputs.as_slice() else { return None };
    let takes = matches!(input.datatype, Datatype::Fp32 | Datatype::Fp16 | Datatype::Uint8);
    let (layout, height, width) = image_shape(input.shape.get(1..)?).filter(|_| takes)?;
    Some((input, layout, height, width))
}

/// `[image]`.
fn image(args: &MigrateArgs, onnx: Option<&OnnxInfo>, report: &mut Report) -> String {
    let found = onnx.map(picture);
    if let Some(None) = found {
        let text = "no picture fits the ONNX file's inputs. PaddleServing's clients send tensors to such an operator; visord takes those over the inference protocol (/v2) only";
        report.absent("ONNX inputs", "tensors", Fate::Decide, text);
        return String::new();
    }
    let found = found.flatten();
    let mut out = "\n[image]\n".to_owned();
    match (&args.feed_name, found) {
        (_, Some((input, ..))) => {
            if let Some(feed) = args.feed_name.as_ref().filter(|f| **f != input.name) {
                let text =
                    format!("the ONNX file calls its input {}; model.toml: image.input", quoted(&input.name));
                report.flag("--feed-name", feed, Fate::Changed, text);
            }
            let _ = writeln!(out, "input = {}", quoted(&input.name));
        }
        (Some(feed), None) => {
            report.flag(
                "--feed-name",
                feed,
                Fate::Taken,
                format!("model.toml: image.input = {}", quoted(feed)),
            );
            let _ = writeln!(out, "input = {}", quoted(feed));
        }
        (None, None) => {}
    }
    out.push_str(&size(args, found.map(|(_, _, h, w)| (w, h)), report));
    match (&args.layout, found.map(|(_, layout, ..)| layout)) {
        (Some(asked), Some(has)) if !asked.eq_ignore_ascii_case(has.name()) => {
            let text = format!("the ONNX file's input is {}: which is right?", has.name());
            report.flag("--layout", asked, Fate::Decide, text);
            let _ = writeln!(out, "layout = \"{}\"", has.name());
        }
        (_, Some(has)) => {
            let _ = writeln!(out, "layout = \"{}\"", has.name());
        }
        (Some(asked), None) => {
            let _ = writeln!(out, "layout = \"{}\"", asked.to_uppercase());
        }
        (None, None) => {}
    }
    if let Some(order) = &args.color_order {
        let order = order.to_uppercase();
        report.flag(
            "--color-order",
            &order,
            Fate::Taken,
            format!("model.toml: image.color_order = \"{order}\""),
        );
        let _ = writeln!(out, "color_order = \"{order}\"");
    } else {
        let text = "RGB or BGR? cv2.imdecode gives BGR; [:, :, ::-1], cvtColor or BGR2RGB() in web_service.py make it RGB. Give --color-order";
        report.absent("--color-order", "RGB", Fate::Decide, text);
        out.push_str("# color_order = \"RGB\"   # DECIDE\n");
    }
    let levels = found.is_some_and(|(input, ..)| input.datatype == Datatype::Uint8);
    for (key, list, hint) in [
        (
            "mean",
            &args.mean,
            "what web_service.py subtracts, for levels of 0 to 255: mean * 255 where it divides by 255 first",
        ),
        ("scale", &args.scale, "what it multiplies by then: 1 / (std * 255) where it divides by 255 first"),
    ] {
        let flag = format!("--{key}");
        let given = numbers(list);
        if levels {
            if !list.is_empty() {
                report.flag(
                    &flag,
                    &given,
                    Fate::Warning,
                    "left out: the ONNX file's input takes the levels as they are",
                );
            }
        } else if list.is_empty() {
            report.absent(
                &flag,
                if key == "mean" { "0" } else { "1/255" },
                Fate::Decide,
                format!("{hint}. Give {flag}"),
            );
            let _ = writeln!(out, "# {key} = …   # DECIDE: {hint}");
        } else {
            report.flag(&flag, &given, Fate::Taken, format!("model.toml: image.{key} = {given}"));
            let _ = writeln!(out, "{key} = {given}");
        }
    }
    out
}

/// `width`, `height`, `resize`.
fn size(args: &MigrateArgs, onnx: Option<(i64, i64)>, report: &mut Report) -> String {
    let mut out = String::new();
    let fixed = onnx.and_then(|(w, h)| Some((u32::try_from(w).ok()?, u32::try_from(h).ok()?)));
    let shown = |(w, h): (u32, u32)| format!("{w}x{h}");
    match (args.resize, fixed) {
        (Some(asked), Some(has)) if asked != has => {
            let text = format!("the ONNX file's input is {}, which is written: which is right?", shown(has));
            report.flag("--resize", &shown(asked), Fate::Decide, text);
        }
        (Some(asked), _) => {
            let text = format!("model.toml: image.width = {}, image.height = {}", asked.0, asked.1);
            report.flag("--resize", &shown(asked), Fate::Taken, text);
        }
        (None, None) if onnx.is_some() => {
            let text = "the ONNX file leaves the picture's sides open: what does web_service.py resize to? Give --resize";
            report.absent("--resize", "", Fate::Decide, text);
        }
        (None, _) => {}
    }
    if let Some((width, height)) = fixed.or(args.resize) {
        let _ = writeln!(out, "width = {width}\nheight = {height}");
    }
    let rule = &args.resize_rule;
    if rule == "stretch" {
        report.flag(
            "--resize-rule",
            rule,
            Fate::Assumed,
            "cv2.resize(image, (width, height)), bilinear; other rules: --resize-rule",
        );
    } else {
        report.flag("--resize-rule", rule, Fate::Taken, format!("model.toml: image.resize = \"{rule}\""));
    }
    let _ = writeln!(out, "resize = \"{rule}\"");
    match args.resize_shorter_side {
        Some(side) if rule == "center_crop" => {
            report.flag(
                "--resize-shorter-side",
                &side.to_string(),
                Fate::Taken,
                "model.toml: image.resize_shorter_side",
            );
            let _ = writeln!(out, "resize_shorter_side = {side}");
        }
        Some(side) => report.flag(
            "--resize-shorter-side",
            &side.to_string(),
            Fate::Warning,
            "left out: it belongs to --resize-rule center_crop",
        ),
        None => {}
    }
    out
}

/// The service's name.
fn service(name: &str, op: &OpFacts, args: &MigrateArgs, report: &mut Report) -> String {
    let (asked, fate) = match &args.service_name {
        Some(s) => (s.as_str(), Fate::Taken),
        None => (op.name.as_str(), Fate::Assumed),
    };
    let service = if is_name(asked) { asked } else { name };
    let text = format!("POST /{service}/prediction; the name is WebService(name=…) in web_service.py");
    if service == asked {
        report.flag("--service-name", service, fate, text);
    } else {
        let text = format!("cannot be a path here: clients must say {}", quoted(service));
        report.flag("--service-name", asked, Fate::Decide, text);
    }
    service.to_owned()
}

/// `[paddle_serving.fetch]`: outputs of the ONNX file and their keys.
fn fetch(
    op: &OpFacts,
    args: &MigrateArgs,
    onnx: Option<&OnnxInfo>,
    report: &mut Report,
) -> Vec<(String, String)> {
    let outputs: Option<Vec<&str>> = onnx.map(|o| o.outputs.iter().map(|t| t.name.as_str()).collect());
    let (line, list) = &op.fetch_list;
    let key = format!("op.{}.local_service_conf.fetch_list", op.name);
    let given: Vec<(&str, &str)> =
        args.fetch_name.iter().map(|f| f.rsplit_once('=').unwrap_or((f, f))).collect();
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, to) in &given {
        let is_output = outputs.as_ref().is_some_and(|o| o.contains(name));
        if is_output || (outputs.is_none() && (list.is_empty() || list.iter().any(|l| l == name))) {
            pairs.push(((*name).to_owned(), (*to).to_owned()));
            report.flag(
                "--fetch-name",
                name,
                Fate::Taken,
                format!("model.toml: paddle_serving.fetch, key {}", quoted(to)),
            );
        } else if !list.iter().any(|l| l == name) {
            let names =
                outputs.clone().unwrap_or_else(|| list.iter().map(String::as_str).collect()).join(", ");
            report.flag("--fetch-name", name, Fate::Decide, format!("is none of {names}"));
        }
    }
    for name in list {
        let mut say = |fate, text: String| match line {
            Some(line) => report.row(*line, &key, name, fate, text),
            None => report.absent(&key, name, fate, text),
        };
        if pairs.iter().any(|(output, _)| output == name) {
            say(Fate::Taken, "the key in the answer is what --fetch-name says".to_owned());
            continue;
        }
        let to = given.iter().find(|(g, _)| g == name).map(|(_, to)| *to);
        let output = match &outputs {
            None => Some(name.as_str()),
            Some(o) if o.contains(&name.as_str()) => Some(name.as_str()),
            // paddle2onnx renames outputs: fetch_name_0 and so on.
            Some(o) if o.len() == 1 && list.len() == 1 => Some(o[0]),
            Some(_) => None,
        };
        match (output, to) {
            (None, _) if given.iter().any(|(g, _)| outputs.as_ref().is_some_and(|o| o.contains(g))) => {
                say(Fate::Changed, "the ONNX file has other names, which --fetch-name gives".to_owned());
            }
            (None, _) => {
                let names = outputs.clone().unwrap_or_default().join(", ");
                say(
                    Fate::Decide,
                    format!(
                        "the ONNX file has no such output but {names}: give --fetch-name <one of them>=<key> for each"
                    ),
                );
            }
            (Some(output), Some(to)) => {
                let fate = if output == name { Fate::Taken } else { Fate::Changed };
                say(
                    fate,
                    format!(
                        "model.toml: paddle_serving.fetch, output {}, key {}",
                        quoted(output),
                        quoted(to)
                    ),
                );
                pairs.push((output.to_owned(), to.to_owned()));
            }
            (Some(_), None) => say(
                Fate::Decide,
                format!(
                    "under which key does postprocess() of web_service.py return it? Give --fetch-name {name}=<key>, or {name} alone where there is no postprocess()"
                ),
            ),
        }
    }
    let wrong = report.decisions().any(|r| r.key == key);
    if list.is_empty() && given.is_empty() && !wrong {
        let text = "PaddleServing fetches every output then; under which keys does postprocess() return them? Give --fetch-name <output>=<key>";
        match line {
            Some(line) => report.row(*line, &key, "[]", Fate::Decide, text),
            None => report.absent(&key, "every output", Fate::Decide, text),
        }
    }
    pairs
}
