//! How values get from FP32 to FP16, wherever they are stored.

use half::f16;

use super::super::*;
use super::*;

/// `y = PRelu(x, w)` with an encoded weight.
fn model_of(weight: Vec<u8>) -> Vec<u8> {
    let mut build = x_to_y().node("PRelu", "x w", "y");
    build.0.push(Field::bytes(graph_field::INITIALIZER, weight));
    build.model(17)
}

fn halves(tensor: &rten_onnx::onnx::TensorProto) -> Vec<f16> {
    assert_eq!(tensor.data_type.map(|t| t.0), Some(FLOAT16));
    assert!(
        tensor.float_data.is_empty() && tensor.external_data.is_empty() && tensor.data_location.is_none()
    );
    let raw = tensor.raw_data.as_ref().unwrap().borrow();
    raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect()
}

fn external(entries: &[(&str, &str)], count: u64) -> Vec<u8> {
    let mut fields =
        vec![Field::varint(1, count), Field::varint(2, 1), Field::text(8, "w"), Field::varint(14, 1)];
    for (key, value) in entries {
        fields.push(Field::bytes(13, Message(vec![Field::text(1, key), Field::text(2, value)]).encode()));
    }
    Message(fields).encode()
}

#[test]
fn values_are_read_from_wherever_they_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    let raw: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("data/w.bin"), [&[9u8; 16][..], &raw].concat()).unwrap();
    let float = |v: f32| Field { number: 4, value: Value::Fixed32(v.to_le_bytes()) };
    let head = || vec![Field::varint(1, 2), Field::varint(2, 1), Field::text(8, "w")];
    let with = |more: Vec<Field<'static>>| Message([head(), more].concat()).encode();
    let packed_dims = Message(vec![
        Field::bytes(1, vec![1, 2]),
        Field::varint(2, 1),
        Field::text(8, "w"),
        Field::bytes(9, raw.clone()),
    ]);
    let place = [("location", "data/w.bin"), ("offset", "16"), ("length", "8"), ("checksum", "x")];
    let cases = [
        ("raw_data", with(vec![Field::bytes(9, raw.clone())])),
        ("float_data, packed", with(vec![Field::bytes(4, raw.clone())])),
        ("float_data, one by one", with(vec![float(1.5), float(-2.0)])),
        ("packed dims", packed_dims.encode()),
        ("external", external(&place, 2)),
        ("external without length", external(&place[..2], 2)),
    ];
    for (name, weight) in cases {
        let out = to_fp16(&model_of(weight), &dir.path().join("model.onnx"), &Fp16Options::default());
        let graph = parse(&out.unwrap_or_else(|e| panic!("{name}: {e}")));
        assert_eq!(graph.initializer[0].dims.iter().product::<i64>(), 2, "{name}");
        assert_eq!(halves(&graph.initializer[0]), [f16::from_f32(1.5), f16::from_f32(-2.0)], "{name}");
    }
}

#[test]
fn constants_are_read_from_each_of_their_attributes() {
    let floats = Message(vec![
        Field::text(1, "value_floats"),
        Field { number: 7, value: Value::Fixed32(1.5f32.to_le_bytes()) },
        Field::varint(20, 6),
    ]);
    let cases = [
        ("value", Attribute::with_tensor("value", tensor("", &[1.5])), vec![1]),
        ("value_float", Attribute::with_float("value_float", 1.5), vec![]),
        ("value_floats", Field::bytes(node_field::ATTRIBUTE, floats.encode()), vec![1]),
    ];
    for (name, attribute, dims) in cases {
        let build = x_to_y().node_with("Constant", "", "w", vec![attribute]).node("PRelu", "x w", "y");
        let graph = parse(&convert(&build.model(17)).unwrap());
        let node = graph.node.iter().find(|n| n.op_type.as_deref() == Some("Constant")).unwrap();
        assert_eq!(node.attribute.len(), 1, "{name}");
        let value = node.attribute[0].t.as_ref().unwrap();
        assert_eq!((halves(value), &value.dims), (vec![f16::from_f32(1.5)], &dims), "{name}");
    }
}

#[test]
fn values_that_fp16_lacks_become_the_nearest_that_it_has() {
    let cases = [
        (65504.0, 65504.0),
        (65519.0, 65504.0),
        (65520.0, 65504.0),
        (-3.4e38, -65504.0),
        (f32::INFINITY, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (1.0 + 1.0 / 2048.0, 1.0),
        (1.0 + 3.0 / 2048.0, 1.0 + 2.0 / 1024.0),
        (2f32.powi(-24), 2f32.powi(-24)),
        (2f32.powi(-25), 0.0),
        (2f32.powi(-25) * 1.01, 2f32.powi(-24)),
        (-1e-9, 0.0),
        (0.0, 0.0),
    ];
    let values: Vec<f32> = cases.iter().map(|c| c.0).collect();
    let model = model_of(tensor("w", &values));
    let (out, report) = rewrite(&model, Path::new("model.onnx"), &Fp16Options::default()).unwrap();
    assert_eq!((report.clamped, report.flushed), (2, 2));
    for ((value, want), got) in cases.iter().zip(halves(&parse(&out).initializer[0])) {
        assert_eq!(got.to_f32(), *want, "{value:e}");
    }
    let nan = parse(&convert(&model_of(tensor("w", &[f32::NAN]))).unwrap());
    assert!(halves(&nan.initializer[0])[0].is_nan());
}

#[test]
fn batch_normalisation_computes_the_same_with_two_parameters() {
    let graph = parse(&convert(&batch_norm(&[3.0, -1.0].map(|s: f32| s * 1e-4)[..1]).model(17)).unwrap());
    let value = |name: &str| {
        let tensor = graph.initializer.iter().find(|t| t.name.as_deref() == Some(name)).unwrap();
        halves(tensor)[0].to_f64()
    };
    // scale 3e-4, bias 2, mean 4, variance 1e-9, epsilon 3e-9: the last two are zero in FP16.
    let a = 3e-4 / 4e-9f64.sqrt();
    for (name, want) in [("y_scale", a), ("y_bias", 2.0 - 4.0 * a), ("y_mean", 0.0), ("y_variance", 1.0)] {
        assert!((value(name) - want).abs() <= want.abs() * 2f64.powi(-11), "{name}: {} {want}", value(name));
    }
    let node = graph.node.iter().find(|n| n.op_type.as_deref() == Some("BatchNormalization")).unwrap();
    let epsilon = node.attribute.iter().find(|a| a.name.as_deref() == Some("epsilon")).unwrap();
    assert_eq!((epsilon.f, node.attribute.len()), (Some(0.0), 1));
}

#[test]
fn old_models_list_new_weights_among_the_inputs() {
    let build = batch_norm(&[1.0])
        .input("s", FLOAT)
        .input("w", FLOAT)
        .weights("w", &[1.0])
        .output("z", FLOAT)
        .node("Conv", "x w", "a")
        .node("Pow", "a w", "z");
    let mut model = build.model(8);
    model[1] = 3; // ir_version
    let graph = parse(&convert(&model).unwrap());
    let inputs: Vec<(&str, i32)> = graph
        .input
        .iter()
        .map(|v| {
            let kind = v.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
            (v.name.as_deref().unwrap(), kind.elem_type.unwrap().0)
        })
        .collect();
    let new = ["y_scale", "y_bias", "y_mean", "y_variance", "w_fp16"].map(|n| (n, FLOAT16));
    assert_eq!(inputs, [&[("x", FLOAT), ("w", FLOAT)][..], &new].concat());
}

#[test]
fn external_data_stays_inside_the_folder_and_its_file() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(root.path().join("secret"), [0; 64]).unwrap();
    std::fs::write(dir.join("w.bin"), [0; 8]).unwrap();
    std::os::unix::fs::symlink("../secret", dir.join("link")).unwrap();
    let absolute = root.path().join("secret").display().to_string();
    let max = u64::MAX.to_string();
    type Entries<'e> = Vec<(&'e str, &'e str)>;
    let cases: Vec<(Entries, u64, &str)> = vec![
        (vec![("location", "../secret")], 2, "not a path inside the model's folder"),
        (vec![("location", &absolute)], 2, "not a path inside the model's folder"),
        (vec![], 2, "not a path inside the model's folder"),
        (vec![("location", "link")], 2, "leads outside the model's folder"),
        (vec![("location", ".")], 0, "is not a file"),
        (vec![("location", "absent")], 2, "cannot be read"),
        (vec![("location", "w.bin")], 3, "holds 8 bytes, too few for 12 at 0"),
        (vec![("location", "w.bin"), ("offset", "1")], 2, "too few for 8 at 1"),
        (vec![("location", "w.bin"), ("offset", &max)], 2, "too few"),
        (vec![("location", "w.bin"), ("offset", "-1")], 2, "a number is due"),
        (vec![("location", "w.bin"), ("length", "4")], 2, "holds 4 bytes of it by its own account"),
        (vec![("location", "w.bin")], u64::MAX >> 1, "has the shape"),
        (vec![("location", "w.bin")], 1 << 60, "too few"),
    ];
    for (entries, count, want) in cases {
        let model = model_of(external(&entries, count));
        let error =
            to_fp16(&model, &dir.join("model.onnx"), &Fp16Options::default()).unwrap_err().to_string();
        assert!(error.contains("weight \"w\"") && error.contains(want), "{entries:?}: {error}");
    }
}

#[test]
fn a_weight_whose_shape_and_data_disagree_is_refused() {
    let raw = |dims: &[u64], bytes: usize| {
        let mut fields: Vec<Field> = dims.iter().map(|d| Field::varint(1, *d)).collect();
        fields.extend([Field::varint(2, 1), Field::text(8, "w"), Field::bytes(9, vec![0; bytes])]);
        Message(fields).encode()
    };
    let cases = [
        ("too few", raw(&[3], 8)),
        ("too many", raw(&[1], 8)),
        ("none", raw(&[u64::MAX >> 1, 4], 0)),
        ("negative", raw(&[u64::MAX], 4)),
        ("odd", raw(&[1], 5)),
        ("overflow", raw(&[1 << 40, 1 << 40], 4)),
    ];
    for (name, weight) in cases {
        let error = convert(&model_of(weight)).unwrap_err().to_string();
        assert!(error.contains("weight \"w\" has the shape"), "{name}: {error}");
    }
}
