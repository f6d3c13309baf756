//! Bodies that nobody means well: mutated ones, deep ones, long ones.

use std::time::{Duration, Instant};

use super::*;
use crate::server::oip::{InputData, resolve};

/// SplitMix64: the same bodies on every run.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

const WORDS: [&[u8]; 24] = [
    b"\"",
    b"\\",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"-",
    b"e9",
    b"null",
    b"true",
    b"1e999",
    b"-1",
    b"\\u",
    b"\xff",
    b"\xc3",
    b"\0",
    b"18446744073709551615",
    b"9223372036854775807",
    b"\"data\":[",
    b"\"shape\":[",
    b"\"binary_data_size\":",
    b"BYTES",
];

fn mutate(random: &mut Random, body: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(body.len() + 1);
        let end = (at + random.below(12)).min(body.len());
        match random.below(6) {
            0 if at < body.len() => body[at] ^= 1 << random.below(8),
            1 => drop(body.drain(at..end)),
            2 => drop(body.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            3 => drop(body.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied())),
            4 => {
                let copy = body[at..end].to_vec();
                drop(body.splice(at..at, copy));
            }
            _ => body.truncate(at.max(body.len() / 2)),
        }
    }
}

#[test]
fn mutated_bodies_never_panic_and_what_parses_is_consistent() {
    let json = r#"{"id":"7","parameters":{"priority":1,"timeout":5,"binary_data_output":true},"inputs":[
        {"name":"a","datatype":"FP32","shape":[2,2],"data":[[0.5,-1e3],[3,4]]},
        {"name":"b","datatype":"BYTES","shape":[2],"data":["aGk=","\u00fc\\"]},
        {"name":"c","datatype":"INT16","shape":[2],"parameters":{"binary_data_size":4}},
        {"name":"d","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":11}}],
        "outputs":[{"name":"y","parameters":{"classification":3,"binary_data":true}}]}"#;
    let good = [json.as_bytes(), b"\x01\0\x02\0\x03\0\0\0abc\0\0\0\0"].concat();
    let model = [spec("a", Datatype::Fp32, &[2])];
    let mut random = Random(0x5eed);
    let (start, mut parsed) = (Instant::now(), 0);
    for round in 0..20_000 {
        let mut body = good.clone();
        mutate(&mut random, &mut body);
        // The header mostly moves with the JSON, so that the mutations reach what lies behind it.
        let header = match random.below(8) {
            0 => None,
            1 => Some(random.below(body.len() + 2).to_string()),
            2 => Some("0".to_owned()),
            _ => Some(body.iter().rposition(|&b| b == b'}').map_or(0, |at| at + 1).to_string()),
        };
        let body = Bytes::from(body);
        match parse(&body, header.as_deref()) {
            Ok(Parsed::Infer(request)) => {
                parsed += 1;
                let _either = resolve::check_inputs(&request.inputs, &model, true);
                for input in &request.inputs {
                    let elements: usize = input.shape.iter().product();
                    let consistent = match &input.data {
                        InputData::Dense(data) => {
                            Some(data.len()) == input.datatype.size_bytes().map(|s| s * elements)
                        }
                        InputData::Binary(items) | InputData::Text(items) => items.len() == elements,
                    };
                    assert!(consistent, "round {round}: {input:?}");
                }
            }
            Ok(Parsed::Raw(raw)) => drop(raw.resolve(&model, true)),
            Err(error) => assert!(error.message.len() < 2_000, "round {round}: {error}"),
        }
    }
    assert!(
        parsed > 500,
        "only {parsed} of the mutated bodies parsed: the mutations are too coarse to test much"
    );
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
}

#[test]
fn deep_and_long_bodies_are_cheap() {
    const MIB: usize = 1 << 20;
    let input = |datatype: &str, shape: &str, data: &str| {
        format!(r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#)
    };
    let deep = format!("{}1{}", "[".repeat(MIB), "]".repeat(MIB));
    let cases: Vec<(&str, String, bool)> = vec![
        ("deep data", input("INT8", "[1]", &deep), true),
        ("deep data cut short", input("INT8", "[1]", &deep[..MIB]), false),
        ("deep unknown field", format!(r#"{{"a":{deep},"inputs":[]}}"#), false),
        ("deep parameter", format!(r#"{{"parameters":{{"priority":{deep}}},"inputs":[]}}"#), false),
        ("many elements for one", input("INT8", "[1]", &format!("[{}1]", "1,".repeat(MIB))), false),
        ("large shape, few elements", input("FP64", "[1000000000000]", "[1,2]"), false),
        ("large BYTES shape", input("BYTES", "[1000000000000]", "[]"), false),
        ("many strings", input("BYTES", "[1048577]", &format!("[{}\"\"]", "\"\",".repeat(MIB))), false),
        ("many backslashes", input("BYTES", "[1]", &format!("[\"{}\"]", "\\\\".repeat(MIB))), true),
        ("many escaped quotes", input("BYTES", "[1]", &format!("[\"{}\"]", "\\\"".repeat(MIB))), true),
        (
            "long name",
            format!(
                r#"{{"inputs":[{{"name":"{}","datatype":"FP31","shape":[],"data":[]}}]}}"#,
                "ü".repeat(MIB)
            ),
            false,
        ),
        ("long datatype", input(&"F".repeat(MIB), "[1]", "[1]"), false),
        ("long number", input("FP32", "[1]", &format!("[0.{}1]", "0".repeat(MIB))), true),
        ("long wrong type", format!(r#"{{"inputs":"{}"}}"#, "ü".repeat(MIB)), false),
        ("long dimensions", input("INT8", &format!("[{}1]", "1,".repeat(MIB)), "[1]"), false),
    ];
    for (what, json, fine) in cases {
        let start = Instant::now();
        match (parse_split(&json, None), fine) {
            (Ok(_), true) => {}
            (Err(error), false) => {
                assert!(error.message.len() < 2_000, "{what}: {} bytes", error.message.len())
            }
            (Ok(_), false) => panic!("{what} parsed"),
            (Err(error), true) => panic!("{what}: {error}"),
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{what} took {:?}", start.elapsed());
    }
}
