use std::path::Path;

use super::*;
use crate::image::{ColorOrder, Layout, PreprocessConfig, ResizeRule};
use crate::model::config::{DecoderChoice, Normalize};
use crate::model::spec::{ImageInput, OutputSpec};
use crate::model::tensorrt::TensorRtConfig;
use crate::tensor::{Datatype, TensorSpec};

fn tensor(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec() }
}

/// Inputs `a` FP32 `[2]` and `b` INT64 `[-1]`, outputs `y` FP32 `[3]`, `n` INT32 `[1]` and `open` FP32 `[-1]`.
fn tensors(folder: &Path) -> ModelSpec {
    let output =
        |tensor| OutputSpec { tensor, softmax: false, normalize: Normalize::None, labels: Vec::new() };
    ModelSpec {
        path: folder.join("model.onnx"),
        max_batch_size: 4,
        inputs: vec![tensor("a", Datatype::Fp32, &[2]), tensor("b", Datatype::Int64, &[-1])],
        outputs: [("y", Datatype::Fp32, 3), ("n", Datatype::Int32, 1), ("open", Datatype::Fp32, -1)]
            .map(|(name, datatype, side)| output(tensor(name, datatype, &[side])))
            .to_vec(),
        image: None,
        precision: Precision::Fp32,
        preferred_batch_size: Vec::new(),
        tensorrt: TensorRtConfig::default(),
    }
}

fn pictures(folder: &Path) -> ModelSpec {
    let preprocess = PreprocessConfig {
        width: 2,
        height: 2,
        layout: Layout::Nchw,
        color_order: ColorOrder::Rgb,
        mean: [0.0; 3],
        scale: [1.0; 3],
        resize: ResizeRule::Stretch,
    };
    let inputs = vec![tensor("pixels", Datatype::Fp32, &[3, 2, 2])];
    let image = ImageInput { name: "image".into(), preprocess, decoder: DecoderChoice::Auto };
    ModelSpec { inputs, image: Some(image), ..tensors(folder) }
}

/// What is read from that text, and what is wrong with it, without the file's name in front.
fn read(spec: &ModelSpec, text: &[u8]) -> (Option<Golden>, Vec<String>) {
    let path = Golden::path(spec);
    std::fs::write(&path, text).unwrap();
    let mut problems = Problems::default();
    let golden = Golden::read(spec, &mut problems);
    let source = format!("{}: ", path.display());
    let texts = problems.0.iter().map(|p| p.to_string().strip_prefix(&source).unwrap().to_owned());
    (golden, texts.collect())
}

fn file(cases: &str) -> String {
    format!("{{\"format\": 1, \"cases\": [{cases}]}}")
}

#[test]
fn cases_are_read_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"format": 1, "made_by": "me", "bound": {"cosine": 0.99, "absolute": 2}, "cases": [
        {"name": "one", "inputs": {"b": {"datatype": "INT64", "shape": [1, 3], "data": [1, 2, -3]},
                                   "a": {"shape": [1, 2], "data": [0.5, 1], "datatype": "FP32"}},
         "outputs": {"n": [7], "y": [1, 2.5, -3e0]}},
        {"inputs": {"a": {"datatype": "FP32", "shape": [1, 2], "data": [0, 0]},
                    "b": {"datatype": "INT64", "shape": [1, 1], "data": [0]}}, "outputs": {"open": [1, 2, 3, 4]}}]}"#;
    let (golden, problems) = read(&tensors(dir.path()), text.as_bytes());
    assert_eq!(problems, [""; 0]);
    let golden = golden.unwrap();
    assert_eq!(golden.made_by.as_deref(), Some("me"));
    assert_eq!(golden.bound, Some(Bound { cosine: Some(0.99), absolute: Some(2.0) }));
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let CaseInput::Tensors(inputs) = &golden.cases[0].input else { panic!("tensors") };
    assert_eq!((&inputs[0].shape[..], &inputs[0].data[..]), (&[2][..], &bytes(&[0.5, 1.0])[..]));
    let b: Vec<u8> = [1i64, 2, -3].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!((&inputs[1].shape[..], &inputs[1].data[..]), (&[3][..], &b[..]));
    let outputs = &golden.cases[0].outputs;
    assert_eq!(outputs[0], Expected { output: 0, data: bytes(&[1.0, 2.5, -3.0]) });
    assert_eq!(outputs[1], Expected { output: 1, data: 7i32.to_le_bytes().to_vec() });
    assert_eq!(golden.cases[1].outputs, [Expected { output: 2, data: bytes(&[1.0, 2.0, 3.0, 4.0]) }]);
    assert_eq!((golden.case_name(0), golden.case_name(1)), ("case 1 (one)".into(), "case 2".into()));

    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/x.jpg"), b"picture").unwrap();
    let cases = r#"{"image": "sub/x.jpg", "outputs": {"n": [1]}}, {"image_base64": "cGljdHVyZQ==", "outputs": {"n": [1]}}"#;
    let (golden, problems) = read(&pictures(dir.path()), file(cases).as_bytes());
    assert_eq!(problems, [""; 0]);
    let golden = golden.unwrap();
    for (case, name) in golden.cases.iter().zip(["sub/x.jpg", ""]) {
        assert_eq!((&case.input, case.name.as_str()), (&CaseInput::Image(Bytes::from("picture")), name));
    }
    assert_eq!(golden.bound_in(Precision::Bf16).0, Bound::default_for(Precision::Bf16));
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let fp32 = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let a = Tensor { datatype: Datatype::Fp32, shape: vec![2], data: fp32(&[0.1, -1e-7]).into() };
    let b = Tensor { datatype: Datatype::Int64, shape: vec![1], data: (-5i64).to_le_bytes().to_vec().into() };
    let outputs = vec![
        Expected { output: 0, data: fp32(&[1.5, 0.1, 3.0]) },
        Expected { output: 2, data: fp32(&[2.0]) },
    ];
    let case = |name: &str, input| Case { name: name.into(), input, outputs: outputs.clone() };
    let tensor_cases = [case("a \"quoted\"\nname", CaseInput::Tensors(vec![a, b]))];
    let image_cases =
        [case("", CaseInput::Image(Bytes::from("p"))), case("x", CaseInput::Image(Bytes::from("q")))];
    for (spec, cases) in [(tensors(dir.path()), &tensor_cases[..]), (pictures(dir.path()), &image_cases)] {
        let text = Golden::render("the \"test\"", &spec, cases).unwrap();
        let (golden, problems) = read(&spec, text.as_bytes());
        assert_eq!(problems, [""; 0], "{text}");
        let golden = golden.unwrap();
        assert_eq!((golden.cases.as_slice(), golden.made_by.as_deref()), (cases, Some("the \"test\"")));
    }
    let infinite = [Case {
        outputs: vec![Expected { output: 0, data: fp32(&[0.0, f32::INFINITY]) }],
        ..image_cases[0].clone()
    }];
    let error = Golden::render("", &pictures(dir.path()), &infinite).unwrap_err();
    assert_eq!(error, "value 1 of output \"y\" of case 1 is NaN or infinite");
    let large = [case("", CaseInput::Image(Bytes::from(vec![0; 13 << 20])))];
    let error = Golden::render("", &pictures(dir.path()), &large).unwrap_err();
    assert!(error.contains("16777216 are read"), "{error}");
}

#[test]
fn every_mistake_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret.jpg");
    std::fs::write(&secret, b"secret").unwrap();
    std::os::unix::fs::symlink(&secret, dir.path().join("link.jpg")).unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("folder")).unwrap();
    std::fs::write(dir.path().join("empty.jpg"), b"").unwrap();
    let huge = std::fs::File::create(dir.path().join("huge.jpg")).unwrap();
    huge.set_len(MAX_IMAGE_BYTES + 1).unwrap();
    let absolute = secret.display().to_string();
    let image = |name: &str| file(&format!("{{\"image\": \"{name}\", \"outputs\": {{\"n\": [1]}}}}"));
    let outputs = |list: &str| file(&format!("{{\"image_base64\": \"eA==\", \"outputs\": {list}}}"));
    let input = |a: &str| {
        let b = r#""b": {"datatype": "INT64", "shape": [1, 1], "data": [0]}"#;
        file(&format!("{{\"inputs\": {{\"a\": {a}, {b}}}, \"outputs\": {{\"n\": [1]}}}}"))
    };
    let (images, numbers) = (pictures(dir.path()), tensors(dir.path()));
    let deep = format!("{{\"format\": 1, \"cases\": {}", "[".repeat(1 << 20));
    let many = file(&vec!["{}"; MAX_CASES + 1].join(","));
    let inside = "must name a file in the version's folder";
    let table: [(&ModelSpec, String, &[&str]); 51] = [
        (&images, String::new(), &["not valid JSON"]),
        (&images, "[1, 2".into(), &["not valid JSON"]),
        (&images, "[]".into(), &["must be an object"]),
        (&images, "null".into(), &["must be an object"]),
        (&images, deep, &["not valid JSON"]),
        (&images, "{\"format\": 1, \"cases\": [NaN]}".into(), &["not valid JSON"]),
        (&images, "{\"cases\": []}".into(), &["format = nothing: must be 1"]),
        (&images, "{\"format\": 2, \"cases\": []}".into(), &["format = 2: must be 1"]),
        (&images, "{\"format\": 1}".into(), &["cases: must be there"]),
        (&images, file(""), &["cases = []: must hold at least one case"]),
        (&images, "{\"format\": 1, \"cases\": {}}".into(), &["cases: invalid type: map, expected a list of at most 64 cases"]),
        (&images, many, &["cases: invalid length 65, expected a list of at most 64 cases"]),
        (&images, "{\"format\": 1, \"cases\": [7]}".into(), &["cases[0] = 7: must be an object"]),
        (&images, file("{}"), &["cases[0]: must have exactly one of image", "cases[0].outputs: must be there"]),
        (
            &images,
            "{\"format\": 1, \"extra\": 3, \"made_by\": 4, \"bound\": {}, \"cases\": [{\"image_base64\": \"eA==\", \"outputs\": {\"n\": [1]}, \"x\": 0}]}".into(),
            &["extra = 3: unknown key; the keys here are: format, ", "made_by = 4: must be a string", "bound = {}: must say cosine", "cases[0].x = 0: unknown key"],
        ),
        (&images, "{\"format\": 1, \"format\": 1, \"cases\": []}".into(), &["format = 1: comes twice", "must hold at least"]),
        (&images, "{\"format\": 1, \"bound\": 0.9, \"cases\": []}".into(), &["bound = 0.9: must be an object", "must hold"]),
        (&images, "{\"format\": 1, \"bound\": {\"cosine\": 1.5}, \"cases\": []}".into(), &["bound.cosine = 1.5: must be a number from -1 to 1", "must hold"]),
        (&images, "{\"format\": 1, \"bound\": {\"cosine\": \"high\"}, \"cases\": []}".into(), &["bound.cosine = \"high\": must be", "must hold"]),
        (&images, "{\"format\": 1, \"bound\": {\"absolute\": -1}, \"cases\": []}".into(), &["bound.absolute = -1: must be a number from 0 on", "must hold"]),
        (&images, "{\"format\": 1, \"bound\": {\"euclid\": 1}, \"cases\": []}".into(), &["bound.euclid = 1: unknown key", "must hold"]),
        (&images, image("../secret.jpg"), &[inside]),
        (&images, image("sub/../../secret.jpg"), &[inside]),
        (&images, image(&absolute), &[inside]),
        (&images, image(""), &[inside]),
        (&images, image("./empty.jpg"), &[inside]),
        (&images, image("link.jpg"), &["cases[0].image = link.jpg: leads to", ]),
        (&images, image("folder/secret.jpg"), &["leads to"]),
        (&images, image("a\\u0000b"), &[inside]),
        (&images, image("missing.jpg"), &["cases[0].image = missing.jpg: ", ]),
        (&images, image("empty.jpg"), &["must hold an encoded image; it is empty"]),
        (&images, image("huge.jpg"), &["has 67108865 bytes; at most 67108864 are read"]),
        (&images, image("folder"), &["leads to"]),
        (&images, file("{\"image\": 7, \"outputs\": {\"n\": [1]}}"), &["cases[0].image = 7: must be a string"]),
        (&images, file("{\"image_base64\": \"e$\", \"outputs\": {\"n\": [1]}}"), &["cases[0].image_base64 = e$: must be base64"]),
        (&images, file("{\"image_base64\": \"eA==\", \"image\": \"x\", \"outputs\": {\"n\": [1]}}"), &["cases[0] = image, image_base64: must have exactly one"]),
        (&images, outputs("{}"), &["cases[0].outputs = {}: must have at least one of the outputs: y, n, open"]),
        (&images, outputs("{\"z\": [1]}"), &["cases[0].outputs.z = [1]: unknown key; the keys here are: y, n, open"]),
        (&images, outputs("{\"y\": [1, 2]}"), &["cases[0].outputs.y = 2 values: must hold 3 values"]),
        (&images, outputs("{\"y\": [1, 2, 1e39]}"), &["cases[0].outputs.y = [1, 2, 1e39]: value 2 is beyond the range of FP32"]),
        (&images, outputs("{\"y\": [[1, 2, 3]]}"), &["must be a flat list of FP32 values"]),
        (&images, outputs("{\"y\": [1, 2, null]}"), &["must be a flat list of FP32 values"]),
        (&images, outputs("{\"n\": [1.5]}"), &["must be a flat list of INT32 values"]),
        (&images, outputs("{\"open\": []}"), &["cases[0].outputs.open = []: must hold at least one value"]),
        (&numbers, image("empty.jpg"), &["this model takes tensors, not images; use inputs"]),
        (&numbers, file("{\"inputs\": {\"c\": {}}, \"outputs\": {\"n\": [1]}}"), &["cases[0].inputs.c = {}: unknown key; the keys here are: a, b", "inputs.a: must be there", "inputs.b: must be there"]),
        (&numbers, input("{\"datatype\": \"FP32\", \"data\": [1, 2]}"), &["cases[0].inputs.a: must have datatype, shape and data"]),
        (&numbers, input("{\"datatype\": \"FP16\", \"shape\": [1, 2], \"data\": [1, 2]}"), &["cases[0].inputs.a.datatype = FP16: must be FP32"]),
        (&numbers, input("{\"datatype\": \"FP32\", \"shape\": [2, 2], \"data\": [1, 2, 3, 4]}"), &["cases[0].inputs.a.shape = [2, 2]: must be [1, 2]"]),
        (&numbers, input("{\"datatype\": \"FP32\", \"shape\": [1, -2], \"data\": []}"), &["cases[0].inputs.a.shape = [1, -2]: must be [1, 2]"]),
        (&numbers, input("{\"datatype\": \"FP32\", \"shape\": [1, 2], \"data\": [1]}"), &["cases[0].inputs.a.data = 1 values: must hold 2 values"]),
    ];
    for (spec, text, wanted) in table {
        let (golden, problems) = read(spec, text.as_bytes());
        let shown = crate::error::shorten(&text);
        assert_eq!(golden, None, "{shown}");
        let all = problems.len() == wanted.len() && problems.iter().zip(wanted).all(|(p, w)| p.contains(w));
        assert!(all, "{shown}\ngives {problems:#?}\nwanted {wanted:#?}");
        assert!(problems.iter().all(|p| p.len() < 600), "a long message: {problems:?}");
    }
    let endless = [
        r#"{"datatype": "INT64", "shape": [1, 18446744073709551615], "data": [1]}"#,
        r#"{"datatype": "INT64", "shape": [1, 0], "data": []}"#,
    ];
    for b in endless {
        let a = r#""a": {"datatype": "FP32", "shape": [1, 2], "data": [1, 2]}"#;
        let text = file(&format!("{{\"inputs\": {{{a}, \"b\": {b}}}, \"outputs\": {{\"n\": [1]}}}}"));
        let (golden, problems) = read(&numbers, text.as_bytes());
        assert!(
            golden.is_none() && problems.len() == 1 && problems[0].contains("inputs.b."),
            "{b}: {problems:?}"
        );
    }
}

#[test]
fn a_file_that_is_none_or_too_large_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let spec = pictures(dir.path());
    let path = Golden::path(&spec);
    let read = || {
        let mut problems = Problems::default();
        assert_eq!(Golden::read(&spec, &mut problems), None);
        problems.0.iter().map(|p| p.allowed.clone()).collect::<Vec<_>>()
    };
    assert_eq!(read(), [""; 0], "a version without golden.json has nothing wrong with it");
    std::fs::File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    assert_eq!(read(), ["has 16777217 bytes; at most 16777216 are read"]);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert_eq!(read(), ["must be a regular file"]);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(read(), ["must be a regular file"]);
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, b"\xff\xfe").unwrap();
    assert!(read()[0].starts_with("is not UTF-8"));
}

#[test]
fn images_count_together() {
    let dir = tempfile::tempdir().unwrap();
    let most = std::fs::File::create(dir.path().join("most.jpg")).unwrap();
    most.set_len(MAX_IMAGE_BYTES - 1).unwrap();
    let case = |kind: &str, value: &str| format!("{{\"{kind}\": \"{value}\", \"outputs\": {{\"n\": [1]}}}}");
    let cases = |tail: &str| file(&format!("{}, {}", case("image", "most.jpg"), case("image_base64", tail)));
    let (golden, problems) = read(&pictures(dir.path()), cases("eA==").as_bytes());
    assert!(golden.is_some(), "{problems:?}");
    let (_, problems) = read(&pictures(dir.path()), cases("eHg=").as_bytes());
    assert_eq!(
        problems,
        ["cases[1].image_base64 = 2 bytes: the images of this file must not exceed 67108864 bytes together"]
    );
}
