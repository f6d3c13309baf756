//! Damaged models end in an error or in a model, never in a panic.

use super::*;

/// A small generator of pseudo-random numbers (splitmix64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap()
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mixed = x_to_y()
        .weights("w", &[0.5])
        .value_info("a", FLOAT)
        .constant("k", &[1e-12])
        .node("Conv", "x w", "a")
        .node("Max", "a k", "b")
        .node("ReduceL2", "b", "c")
        .node("Div", "b c", "d")
        .node_with("Cast", "d", "e", to(FLOAT16))
        .node_with("Cast", "e", "f", to(FLOAT))
        .node("Resize", "f - w", "y");
    [mixed, with_if(), quantised(0.1), batch_norm(&[1.0])].map(|b| b.model(19)).into()
}

#[test]
fn mutated_models_never_panic() {
    let seeds = seeds();
    let mut random = Random(3);
    let (mut rewritten, mut refused) = (0, 0);
    for round in 0..60_000 {
        let mut model = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(model.len());
            match random.below(6) {
                0 => model[at] = random.next().to_le_bytes()[0],
                1 => model[at] ^= 1 << random.below(8),
                2 => model.truncate(at),
                3 => model.insert(at, [0, 0x7f, 0x80, 0xff][random.below(4)]),
                4 => {
                    model.remove(at);
                }
                _ => {
                    let end = (at + random.below(40)).min(model.len());
                    let part = model[at..end].to_vec();
                    let into = random.below(model.len());
                    model.splice(into..into, part);
                }
            }
            if model.is_empty() {
                break;
            }
        }
        match convert(&model) {
            Ok(_) => rewritten += 1,
            Err(_) => refused += 1,
        }
    }
    // Both must happen, or the loop tries nothing.
    assert!(rewritten > 1000 && refused > 1000, "{rewritten} rewritten, {refused} refused");
}

#[test]
fn every_truncation_and_random_bytes_never_panic() {
    for seed in seeds() {
        for end in 0..seed.len() {
            let _ = convert(&seed[..end]);
        }
    }
    let mut random = Random(11);
    for _ in 0..20_000 {
        let length = random.below(200);
        let bytes: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
        let _ = convert(&bytes);
    }
}

#[test]
fn claims_of_size_and_depth_cost_nothing() {
    // A field of 2^62 bytes, graphs a hundred thousand deep, and a chain of light nodes listed so that each
    // removal frees the one before.
    let mut huge = vec![0x3a];
    huge.extend([0x80; 8]);
    huge.push(0x40);
    assert!(matches!(convert(&huge), Err(Fp16Error::Damaged(_))));

    let mut deep = Build::default().encode();
    for _ in 0..3000 {
        let mut build = Build::default();
        build.0.push(Field::bytes(
            graph_field::NODE,
            Message(vec![Field::bytes(
                node_field::ATTRIBUTE,
                Message(vec![Field::bytes(attribute_field::G, deep)]).encode(),
            )])
            .encode(),
        ));
        deep = build.encode();
    }
    let model = Message(vec![Field::bytes(field::GRAPH, deep)]).encode();
    assert!(matches!(convert(&model), Err(Fp16Error::Depth)));

    let links = 20_000;
    let mut chain = x_to_y().node("Exp", "x", "v0");
    for i in 0..links {
        chain = chain.node("Neg", &format!("v{i}"), &format!("v{}", i + 1));
    }
    let chain = chain.node("Relu", &format!("v{links}"), "y").model(17);
    let start = std::time::Instant::now();
    let (_, report) = rewrite(&chain, Path::new("model.onnx"), &Fp16Options::default()).unwrap();
    assert_eq!((report.half_nodes, report.casts), (links + 1, 2));
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
