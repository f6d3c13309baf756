//! `visord init` makes a folder of an ONNX file that `check` takes at once; the folders of docs/models.md are taken too.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::onnx::{self, BIAS, Graph, Kind, Pixels, WEIGHTS, int, ints};
use crate::common::{Repository, Server, output, png, text, visord};

struct Place(tempfile::TempDir);

impl Place {
    fn new(name: &str, onnx: &[u8]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write(name, onnx);
        place
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn init(&self, arguments: &[&str]) -> Output {
        visord().arg("init").args(arguments).current_dir(self.0.path()).output().unwrap()
    }

    #[track_caller]
    fn check(&self) -> String {
        let command = ["check", "--backend", "rten", "--model-repository", "models"];
        let output = visord().args(command).current_dir(self.0.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    }

    fn toml(&self, model: &str) -> toml::Table {
        let path = self.path(&format!("models/{model}/model.toml"));
        std::fs::read_to_string(path).unwrap().parse().unwrap()
    }
}

/// `[batch, 3, side, side]` to `[batch, n]`, after `first`, which makes `steps` of `x`.
fn network(shape: &[i64], n: i64, first: impl FnOnce(Graph) -> Graph, last: &str) -> Vec<u8> {
    let rows = [shape[0], n];
    let graph = Graph::default().input("x", Kind::FLOAT, shape).output("y", Kind::FLOAT, &rows);
    let graph = first(graph)
        .node("GlobalAveragePool", &["steps"], "pooled")
        .node_with("Flatten", &["pooled"], "channels", vec![int("axis", 1)])
        .weights("w", &[shape[1], n], &vec![0.5; (shape[1] * n) as usize]);
    match last {
        "" => graph.node("MatMul", &["channels", "w"], "y").model(),
        op => graph
            .node("MatMul", &["channels", "w"], "scores")
            .node_with(op, &["scores"], "y", vec![int("axis", 1)])
            .model(),
    }
}

fn plain(graph: Graph) -> Graph {
    graph.node("Identity", &["x"], "steps")
}

/// `op` with one constant, and what comes of it.
fn step(op: &'static str, constant: f32) -> impl FnOnce(Graph) -> Graph {
    move |graph| graph.weights("c", &[1], &[constant]).node(op, &["x", "c"], "steps")
}

/// Mean and scale of each channel.
type Normalisation = (Vec<f64>, Vec<f64>);

#[test]
fn each_guess_says_what_it_is() {
    let unit = 0.003_921_568_627_450_98;
    let one = |v: f64| vec![v; 3];
    let imagenet = (vec![123.675, 116.28, 103.53], vec![0.017_124_75, 0.017_507, 0.017_429_19]);
    let faces = (one(127.5), one(0.007_843_137_254_901_96));
    struct Case {
        name: &'static str,
        onnx: Vec<u8>,
        batch: i64,
        /// Width, resize rule, mean and scale; `None` where the model takes tensors.
        image: Option<(i64, &'static str, Normalisation)>,
        words: &'static [&'static str],
    }
    let case = |name, onnx, batch, image, words| Case { name, onnx, batch, image, words };
    let cases = [
        case(
            "face",
            network(&[-1, 3, 112, 112], 512, plain, ""),
            32,
            Some((112, "stretch", faces.clone())),
            &["an embedding of 512 numbers", "# normalize = \"l2\"", "InsightFace"],
        ),
        case(
            "open_face",
            network(&[-1, 3, -1, -1], 128, plain, ""),
            32,
            Some((112, "stretch", faces.clone())),
            &["the file leaves the sides open; 112x112"],
        ),
        case(
            "fixed_face",
            network(&[1, 3, 112, 112], 512, plain, ""),
            1,
            Some((112, "stretch", faces.clone())),
            &["the first dimension is fixed at 1"],
        ),
        case(
            "mxnet_face",
            network(&[-1, 3, 112, 112], 512, step("Sub", 127.5), ""),
            32,
            Some((112, "stretch", (one(0.0), one(1.0)))),
            &["normalising levels of 0 to 255 itself"],
        ),
        case(
            "divided",
            network(&[-1, 3, 64, 64], 7, step("Div", 255.0), ""),
            32,
            Some((64, "stretch", (one(0.0), one(1.0)))),
            &["levels of 0 to 255"],
        ),
        case(
            "unit",
            network(&[-1, 3, 224, 224], 1000, step("Sub", 0.485), ""),
            32,
            Some((224, "center_crop", (one(0.0), one(unit)))),
            &["values of 0 to 1 itself"],
        ),
        case(
            "doubled",
            network(&[-1, 3, 32, 32], 7, step("Mul", 2.0), ""),
            32,
            Some((32, "stretch", (one(0.0), one(unit)))),
            &["values of 0 to 1 itself"],
        ),
        case(
            "imagenet",
            network(&[-1, 3, 224, 224], 1000, plain, ""),
            32,
            Some((224, "center_crop", imagenet.clone())),
            &["resize_shorter_side = 256", "scores of 1000 classes", "# softmax = true"],
        ),
        case(
            "inception",
            network(&[-1, 3, 299, 299], 1000, plain, "Softmax"),
            32,
            Some((299, "center_crop", imagenet.clone())),
            &["resize_shorter_side = 342", "ends in softmax already"],
        ),
        case(
            "pets",
            network(&[-1, 3, 96, 96], 5, plain, "Softmax"),
            32,
            Some((96, "stretch", (one(0.0), one(unit)))),
            &["scores of 5 classes", "nothing in the file speaks for it"],
        ),
        case(
            "keras",
            onnx::classifier(Pixels::Nhwc, 1.0),
            32,
            Some((8, "stretch", (one(0.0), one(unit)))),
            &["layout = \"NHWC\""],
        ),
        case(
            "levels",
            onnx::classifier(Pixels::Uint8, 1.0),
            32,
            Some((8, "stretch", (vec![], vec![]))),
            &["UINT8 and takes the levels"],
        ),
        case(
            "grey",
            network(&[-1, 1, 28, 28], 10, plain, ""),
            32,
            None,
            &["Pictures of one channel are not decoded"],
        ),
        case("eight", network(&[8, 3, 112, 112], 512, plain, ""), 0, None, &["fixed at 8"]),
        case("tensors", onnx::two_inputs(Kind::INT64, &[-1, 3]), 32, None, &["clients send"]),
        case("no_batch", onnx::two_inputs(Kind::FLOAT, &[]), 0, None, &["no common first dimension"]),
    ];
    for Case { name, onnx, batch, image, words } in cases {
        let place = Place::new(&format!("{name}.onnx"), &onnx);
        let done = place.init(&[&format!("{name}.onnx")]);
        let said = text(&done);
        assert_eq!(done.status.code(), Some(0), "{name}: {said}");
        place.check();
        let toml = place.toml(name);
        let written = std::fs::read_to_string(place.path(&format!("models/{name}/model.toml"))).unwrap();
        assert_eq!(toml["max_batch_size"].as_integer(), Some(batch), "{name}");
        for word in words {
            assert!(written.contains(word), "{name}: {word} in\n{written}");
        }
        match image {
            Some((side, rule, (mean, scale))) => {
                let got = &toml["image"];
                assert_eq!(got["width"].as_integer(), Some(side), "{name}");
                assert_eq!(got["resize"].as_str(), Some(rule), "{name}");
                for (key, want) in [("mean", mean), ("scale", scale)] {
                    let number = |v: &toml::Value| v.as_float().or(v.as_integer().map(|i| i as f64)).unwrap();
                    let values = match got.get(key) {
                        None => vec![],
                        Some(toml::Value::Array(list)) => list.iter().map(number).collect(),
                        Some(one) => vec![number(one); 3],
                    };
                    let near = values.iter().zip(&want).all(|(v, w)| (v - w).abs() < 1e-7);
                    assert!(values.len() == want.len() && near, "{name}: {key} {values:?}, not {want:?}");
                }
                assert!(said.contains(&format!("curl --data-binary @picture.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/models/{name}/infer")), "{name}: {said}");
                assert!(said.contains("guessed   color_order"), "{name}: {said}");
            }
            None => {
                assert!(!toml.contains_key("image"), "{name}: {written}");
                assert!(said.contains(&format!("/v2/models/{name}/infer")), "{name}: {said}");
            }
        }
        for next in [
            "next      visord check --model-repository models",
            "next      visord serve --model-repository models",
        ] {
            assert!(said.contains(next), "{name}: {said}");
        }
        // A second time nothing is written.
        let again = place.init(&[&format!("{name}.onnx")]);
        assert_eq!(again.status.code(), Some(64), "{name}: {}", text(&again));
        assert!(text(&again).contains("is there; --name or --output makes another"), "{}", text(&again));
        assert_eq!(
            std::fs::read_to_string(place.path(&format!("models/{name}/model.toml"))).unwrap(),
            written
        );
    }
}

/// The commands that it prints are what one needs.
#[test]
fn what_it_writes_is_served() {
    let place = Place::new("small.onnx", &onnx::classifier(Pixels::Nchw, 1.0));
    place.write("add.onnx", &onnx::two_inputs(Kind::INT32, &[-1, 3]));
    place.write("twice.onnx", &onnx::doubled(&[-1, 100]));
    let mut said = Vec::new();
    for name in ["small", "add", "twice"] {
        let done = place.init(&[&format!("{name}.onnx")]);
        assert_eq!(done.status.code(), Some(0), "{}", text(&done));
        said.push(text(&done));
    }
    let server = Server::start(&place.path("models"), "rten", &[]);
    let answer = server.post(
        "/v1/models/small/infer",
        &[("Content-Type", "image/png")],
        &png(8, 8, |_, _, c| [255, 0, 51][c]),
    );
    let (_, got) = output(&answer.json(), "logits");
    let want = |class: usize| {
        f64::from(WEIGHTS[0][class]) + 0.2 * f64::from(WEIGHTS[2][class]) + f64::from(BIAS[class])
    };
    for (class, value) in got.iter().enumerate() {
        assert!((value - want(class)).abs() < 1e-4, "{class}: {got:?}");
    }
    let body = said[1]
        .split("curl -d '")
        .nth(1)
        .and_then(|s| s.split('\'').next())
        .unwrap_or_else(|| panic!("{}", said[1]));
    let answer = server.post("/v2/models/add/infer", &[], body.as_bytes()).json();
    assert_eq!(output(&answer, "sum"), (vec![1, 3], vec![0.0; 3]));
    assert!(
        said[2].contains(
            "head -c 400 /dev/zero | curl --data-binary @- -H 'Inference-Header-Content-Length: 0'"
        ),
        "{}",
        said[2]
    );
    let raw = server.post("/v2/models/twice/infer", &[("Inference-Header-Content-Length", "0")], &[0; 400]);
    assert_eq!(raw.status, 200, "{}", raw.text());
}

#[test]
fn names_come_from_files_and_folders() {
    let onnx = onnx::doubled(&[-1, 3]);
    for (file, flags, want) in [
        ("w600k_mbf.onnx", &[][..], "w600k_mbf"),
        ("my net (1).onnx", &[], "my-net--1-"),
        ("v2.onnx", &[], "model-v2"),
        ("faces/model.onnx", &[], "faces"),
        ("faces/3/model.onnx", &[], "faces"),
        ("faces/inference.onnx", &[], "faces"),
        ("a.onnx", &["--name", "other"], "other"),
    ] {
        let place = Place::new(file, &onnx);
        let done = place.init(&[&[file], flags].concat());
        assert_eq!(done.status.code(), Some(0), "{file}: {}", text(&done));
        assert!(place.path(&format!("models/{want}/1/model.onnx")).is_file(), "{file}: {}", text(&done));
        place.check();
    }
}

#[test]
fn what_cannot_be_served_leaves_nothing_behind() {
    let external = |location: &str| {
        Graph::default()
            .input("x", Kind::FLOAT, &[-1, 3])
            .output("y", Kind::FLOAT, &[-1, 3])
            .external("w", &[3], location)
            .node("Add", &["x", "w"], "y")
            .model()
    };
    let strings = Graph::default().input("x", Kind::STRING, &[-1]).output("x", Kind::STRING, &[-1]).model();
    let good = onnx::doubled(&[-1, 3]);
    let cases: [(&str, &[u8], &[&str], &str); 8] = [
        ("empty", b"", &[], "no graph"),
        ("noise", &[0xff; 64], &[], "is not an ONNX model"),
        ("strings", &strings, &[], "which is not served"),
        ("gone", &external("weights.bin"), &[], "weights.bin, which is not there"),
        ("outside", &external("../weights.bin"), &[], "must be in the model's own folder"),
        ("dots", &good, &["--name", ".."], "--name \"..\""),
        ("slash", &good, &["--name", "a/b"], "--name \"a/b\""),
        ("reserved", &good, &["--name", "metrics"], "be none of"),
    ];
    for (name, onnx, flags, words) in cases {
        let place = Place::new("net.onnx", onnx);
        let done = place.init(&[&["net.onnx"], flags].concat());
        assert_eq!(done.status.code(), Some(64), "{name}: {}", text(&done));
        assert!(text(&done).contains(words), "{name}: {words} in {}", text(&done));
        assert!(
            !place.path("models").exists() || place.path("models").read_dir().unwrap().next().is_none(),
            "{name}"
        );
    }
    let place = Place::new("net.onnx", &external("data/weights.bin"));
    place.write("data/weights.bin", &[0; 12]);
    let done = place.init(&["net.onnx"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    assert!(place.path("models/net/1/data/weights.bin").is_file());
    let missing = place.init(&["none.onnx"]);
    assert_eq!(missing.status.code(), Some(64), "{}", text(&missing));
}

/// A tensor's name is a stranger's: it must not leave its comment, its quotes or the command's.
#[test]
fn names_of_tensors_stay_in_their_quotes() {
    let name = "x\"\n[golden]\nq = '\u{1b}[31m\\";
    let place = Place::new(
        "net.onnx",
        &Graph::default()
            .input(name, Kind::FLOAT, &[-1, 3, 4, 4])
            .output("y", Kind::FLOAT, &[-1, 3, 4, 4])
            .node("Add", &[name, name], "y")
            .model(),
    );
    let done = place.init(&["net.onnx"]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    assert!(!text(&done).contains('\u{1b}'), "{}", text(&done));
    let toml = place.toml("net");
    assert_eq!(toml["image"]["input"].as_str(), Some(name), "{toml}");
    assert!(!toml.contains_key("golden"), "{toml}");
}

/// A network with that signature.
fn with_signature(input: &str, shape: &[i64; 4], out: &str, n: i64) -> Vec<u8> {
    Graph::default()
        .input(input, Kind::FLOAT, shape)
        .output(out, Kind::FLOAT, &[shape[0], n])
        .node_with("ReduceMean", &[input], "means", vec![ints("axes", &[2, 3]), int("keepdims", 0)])
        .weights("w", &[3, n], &vec![0.5; 3 * n as usize])
        .node("MatMul", &["means", "w"], out)
        .model()
}

#[test]
fn the_folders_of_the_page_are_taken() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/models.md")).unwrap();
    let face = [-1, 3, 112, 112];
    let networks = [
        ("w600k_mbf", with_signature("input.1", &face, "516", 512)),
        ("w600k_r50", with_signature("input.1", &face, "683", 512)),
        ("MobileFaceNet_128", with_signature("x", &face, "fetch_name_0", 128)),
        ("resnet50", with_signature("input", &[-1, 3, 224, 224], "logits", 1000)),
        ("ArcFace", with_signature("input", &face, "embedding", 192)),
    ];
    let mut repository = Repository::new();
    // Each block is headed by the path that it is for.
    let blocks: Vec<(&str, &str)> = page
        .split("```toml\n")
        .skip(1)
        .map(|rest| {
            let block = rest.split("```").next().unwrap();
            let path =
                block.lines().next().unwrap().strip_prefix("# models/").unwrap_or_else(|| panic!("{block}"));
            (path.split('/').next().unwrap(), block)
        })
        .collect();
    let names: Vec<&str> = blocks.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, networks.each_ref().map(|(name, _)| *name));
    for ((name, block), (_, onnx)) in blocks.iter().zip(&networks) {
        // Two of them are other folders for one service, and no two models of a server share that.
        let block = &block.replace("service = \"ArcFace\"", "service = \"MobileFaceNet\"");
        repository = repository.model(name, block, onnx);
    }
    let labels: String = (0..1000).map(|i| format!("class {i}\n")).collect();
    let repository = repository.file("resnet50/labels.txt", labels.as_bytes());
    let done = repository.run("check", &["--backend", "rten"]);
    let said = text(&done);
    assert_eq!(done.status.code(), Some(0), "{said}");
    for words in [
        "encoded images, Stretch to 112x112",
        "CenterCrop { resize_shorter_side: Some(256) } to 224x224",
        "mean [127.5, 127.5, 127.5], scale [0.007843138, 0.007843138, 0.007843138]",
        "mean [123.675, 116.28, 103.53]",
    ] {
        assert!(said.contains(words), "{words} in\n{said}");
    }
    let shipped =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/ArcFace/model.toml"))
            .unwrap();
    let table = |text: &str| text.parse::<toml::Table>().unwrap();
    assert_eq!(table(blocks[4].1), table(&shipped), "the shipped model's");
    // They serve, and answer a picture with as many numbers as the page says.
    let server = repository.serve("rten");
    for (name, numbers) in
        [("w600k_mbf", 512), ("w600k_r50", 512), ("MobileFaceNet_128", 128), ("resnet50", 1000)]
    {
        let path = format!("/v1/models/{name}/infer");
        let answer = server.post(
            &path,
            &[("Content-Type", "image/png")],
            &png(50, 70, |x, y, c| (x * 3 + y + c as u32) as u8),
        );
        let answer = answer.json();
        let shape = &answer["outputs"][0]["shape"];
        assert_eq!(shape, &serde_json::json!([1, numbers]), "{name}");
    }
}
