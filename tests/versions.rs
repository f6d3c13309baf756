//! Numbered folders: which of them are served, and which of them answers.

use crate::common::onnx::{self, Graph, Kind};
use crate::common::{Answer, Repository, Server, output};
use serde_json::json;

/// `y = x * factor`.
fn times(factor: f32) -> Vec<u8> {
    Graph::default()
        .input("x", Kind::FLOAT, &[-1, 1])
        .output("y", Kind::FLOAT, &[-1, 1])
        .weights("factor", &[1], &[factor])
        .node("Mul", &["x", "factor"], "y")
        .model()
}

fn repository(policy: &str) -> Repository {
    let onnx = |v: u32| format!("m/{v}/model.onnx");
    Repository::new()
        .file("m/model.toml", policy.as_bytes())
        .file(&onnx(1), &times(1.0))
        .file(&onnx(2), &times(2.0))
        .file(&onnx(10), &times(10.0))
        // Neither is a version's name.
        .file("m/02/model.onnx", &times(3.0))
        .file("m/notes/model.onnx", b"not a network")
}

fn ask(server: &Server, version: Option<&str>) -> Answer {
    let version = version.map_or(String::new(), |v| format!("/versions/{v}"));
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]});
    server.post_json(&format!("/v2/models/m{version}/infer"), &json!({"inputs": [input]}))
}

#[test]
fn every_version_policy() {
    let cases: [(&str, &[&str], &str); 6] = [
        ("", &["10"], "10"),
        ("[version_policy.latest]\nnum_versions = 2\n", &["2", "10"], "10"),
        ("[version_policy.latest]\nnum_versions = 9\n", &["1", "2", "10"], "10"),
        ("[version_policy.all]\n", &["1", "2", "10"], "10"),
        ("[version_policy]\nspecific = { versions = [1] }\n", &["1"], "1"),
        ("[version_policy.specific]\nversions = [2, 1]\n", &["1", "2"], "2"),
    ];
    for (policy, served, newest) in cases {
        let server = repository(policy).serve("rten");
        let metadata = server.get("/v2/models/m").json();
        assert_eq!(metadata["versions"], json!(served), "{policy}");
        for version in ["1", "2", "10", "02", "notes", "0", "11"] {
            let answer = ask(&server, Some(version));
            if served.contains(&version) {
                let answer = answer.json();
                assert_eq!(answer["model_version"], version, "{policy}");
                assert_eq!(output(&answer, "y").1, [version.parse::<f64>().unwrap()], "{policy}");
            } else {
                let list = served.join(", ");
                answer
                    .refused(404, &[&format!("version \"{version}\""), &format!("its versions are: {list}")]);
            }
        }
        let answer = ask(&server, None).json();
        assert_eq!(answer["model_version"], newest, "{policy}");
    }
}

#[test]
fn each_version_has_documents_and_metrics_of_its_own() {
    let server = repository("[version_policy.all]\n").serve("rten");
    ask(&server, Some("1")).json();
    ask(&server, None).json();
    ask(&server, None).json();
    for (version, count) in [("1", 1), ("2", 0), ("10", 2)] {
        let path = format!("/v2/models/m/versions/{version}");
        for below in ["", "/ready", "/config"] {
            assert_eq!(server.get(&format!("{path}{below}")).status, 200, "{path}{below}");
        }
        let stats = &server.get(&format!("{path}/stats")).json()["model_stats"][0];
        assert_eq!((&stats["version"], &stats["inference_count"]), (&json!(version), &json!(count)));
        let line = format!("visord_inference_rows_total{{model=\"m\",version=\"{version}\"}}");
        assert_eq!(server.metric(&line), f64::from(count));
    }
    for path in ["/v2/models/m/versions/3", "/v2/models/m/versions/3/ready", "/v2/models/m/versions/3/config"]
    {
        server.get(path).refused(404, &["1, 2, 10"]);
    }
    server.get("/v2/models/n").refused(404, &["\"n\"", "the models here are: m"]);
}

#[test]
fn a_model_without_model_toml_is_served() {
    let server = Repository::new().file("m/1/model.onnx", &onnx::doubled(&[-1, 1])).serve("rten");
    assert_eq!(output(&ask(&server, None).json(), "y").1, [2.0]);
}
