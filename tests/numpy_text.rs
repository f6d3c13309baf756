//! The numpy text and the .npy file against what numpy wrote (tests/golden/numpy/make.py).

use visord::server::{npy, numpy};
use visord::tensor::{Datatype, Tensor};

#[derive(serde::Deserialize)]
struct Case {
    dtype: String,
    shape: Vec<usize>,
    data: String,
    text: String,
    npy: Option<String>,
}

impl Case {
    fn tensor(&self) -> Tensor {
        let datatype =
            Datatype::ALL.into_iter().find(|&d| numpy::dtype_name(d) == Some(&self.dtype)).unwrap();
        Tensor { datatype, shape: self.shape.clone(), data: unhex(&self.data).into() }
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn cases(path: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn compare(cases: &[Case]) -> usize {
    let mut wrong = 0;
    for (i, case) in cases.iter().enumerate() {
        let mut text = Vec::new();
        numpy::write_repr(&case.tensor(), &mut text).unwrap();
        if text != case.text.as_bytes() {
            wrong += 1;
            if wrong <= 10 {
                let got = String::from_utf8_lossy(&text);
                eprintln!("case {i} {} {:?} {}\n{}\n{got}", case.dtype, case.shape, case.data, case.text);
            }
        }
    }
    wrong
}

#[test]
fn prints_what_numpy_prints() {
    let cases = cases(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/numpy/cases.jsonl"));
    assert!(cases.len() > 500, "{} cases", cases.len());
    assert_eq!(compare(&cases), 0);
}

/// More cases, from `make.py --random`, where someone made them.
#[test]
#[allow(clippy::disallowed_methods, reason = "names a file for this test, configures nothing")]
fn prints_what_numpy_prints_for_random_arrays() {
    let Ok(path) = std::env::var("VISORD_NUMPY_CASES") else { return };
    let cases = cases(&path);
    let floats: usize = cases.iter().map(|c| c.shape.iter().product::<usize>()).sum();
    assert_eq!(compare(&cases), 0, "of {} arrays, {floats} floats", cases.len());
    eprintln!("{} arrays, {floats} floats: equal", cases.len());
}

#[test]
fn the_json_form_is_the_text_escaped() {
    for case in cases(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/numpy/cases.jsonl")) {
        let mut json = vec![b'"'];
        numpy::write_repr_json(&case.tensor(), &mut json).unwrap();
        json.push(b'"');
        assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), case.text);
    }
}

#[test]
fn writes_the_npy_file_numpy_writes() {
    let cases = cases(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/numpy/cases.jsonl"));
    let mut files = 0;
    for (case, npy) in cases.iter().filter_map(|c| c.npy.as_ref().map(|npy| (c, npy))) {
        let mut file = Vec::new();
        npy::write(&case.tensor(), &mut file).unwrap();
        assert_eq!(file, unhex(npy), "{} {:?}", case.dtype, case.shape);
        files += 1;
    }
    assert!(files > 30, "{files} files");
}

#[test]
fn refuses_what_numpy_does_not_have() {
    let tensor = |datatype, bytes| Tensor { datatype, shape: vec![2], data: vec![0; bytes].into() };
    for (tensor, expected) in [
        (tensor(Datatype::Bf16, 4), "numpy has no BF16 arrays"),
        (tensor(Datatype::Bytes, 8), "numpy has no BYTES arrays"),
        (tensor(Datatype::Fp32, 7), "8 bytes of shape, 7 bytes of data"),
        (tensor(Datatype::Fp32, 12), "8 bytes of shape, 12 bytes of data"),
    ] {
        let mut out = Vec::new();
        assert_eq!(numpy::write_repr(&tensor, &mut out).unwrap_err().to_string(), expected);
        assert_eq!(npy::write(&tensor, &mut out).unwrap_err().to_string(), expected);
        assert!(out.is_empty());
    }
}

/// Not a bound, a figure to look at: `cargo test --release --test integration numpy_text -- --ignored --nocapture`.
#[test]
#[ignore = "a timing"]
fn times_an_embedding() {
    let mut state = 1_u32;
    let mut normal = || {
        (0..12)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 16_777_216.0
            })
            .sum::<f32>()
            - 6.0
    };
    for elements in [192_usize, 512] {
        let data = (0..elements).flat_map(|_| (normal() / 20.0).to_le_bytes()).collect::<Vec<_>>();
        let tensor = Tensor { datatype: Datatype::Fp32, shape: vec![1, elements], data: data.into() };
        let mut out = Vec::new();
        let rounds = 2000;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            out.clear();
            numpy::write_repr(&tensor, &mut out).unwrap();
        }
        eprintln!("{elements} floats, {} bytes: {:?} each", out.len(), start.elapsed() / rounds);
    }
}
