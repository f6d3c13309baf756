//! The model repository: one folder a model, one numbered folder a version.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{ModelConfig, VersionPolicy};
use super::golden::Golden;
use super::onnx::OnnxInfo;
use super::spec::ModelSpec;
use crate::problems::Problems;

/// File that holds a version's network.
pub const MODEL_FILE: &str = "model.onnx";

/// First path segments that belong to the server; a model cannot have such a name, since PaddleServing's
/// path starts with it.
pub const RESERVED_NAMES: [&str; 9] =
    ["v1", "v2", "metrics", "health", "healthz", "livez", "readyz", "openapi.json", "console"];

/// What [`is_name`] asks for, in words.
pub const NAME_RULE: &str = "must be made of letters, digits, '_', '-' and '.', and be none of v1, v2, metrics, \
                             health, healthz, livez, readyz, openapi.json, console";

/// Whether a model or a PaddleServing service can have that name: it is a path segment as it stands.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && name.chars().all(allowed) && !RESERVED_NAMES.contains(&name)
}

/// Whether a folder of the repository can be a model: one that begins with a dot is not looked at.
#[must_use]
pub fn is_model_name(name: &str) -> bool {
    is_name(name) && !name.starts_with('.')
}

/// A model that is to be served.
#[derive(Debug, Clone)]
pub struct RepositoryModel {
    /// Its `model.toml`.
    pub config: ModelConfig,
    /// Versions that the policy chose, ascending.
    pub versions: Vec<RepositoryVersion>,
}

/// A version that is to be served.
#[derive(Debug, Clone)]
pub struct RepositoryVersion {
    /// Number of the folder.
    pub version: u64,
    /// Everything that loading needs.
    pub spec: ModelSpec,
    /// What it must answer before it is ready, where its folder says.
    pub golden: Option<Arc<Golden>>,
}

/// Reads the whole repository, in name order; whatever is wrong lands in `problems`, also that there is no model.
pub fn read(root: &Path, problems: &mut Problems) -> Vec<RepositoryModel> {
    let before = problems.0.len();
    let models = read_all(root, problems);
    if models.is_empty() && problems.0.len() == before {
        let text = format!("{} holds no model; add <model>/1/{MODEL_FILE}", root.display());
        problems.add("--model-repository", "", "", text);
    }
    models
}

/// The same of a repository that may be empty.
pub fn read_all(root: &Path, problems: &mut Problems) -> Vec<RepositoryModel> {
    let mut models: Vec<RepositoryModel> = match folders(root) {
        Ok(list) => list.iter().filter_map(|(name, dir)| read_model(name, dir, problems)).collect(),
        Err(e) => {
            problems.add("--model-repository", "", "", format!("{} cannot be read: {e}", root.display()));
            return Vec::new();
        }
    };
    models.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    for pair in 1..models.len() {
        let service = &models[pair].config.paddle_service;
        if let Some(other) = models[..pair].iter().find(|m| m.config.paddle_service == *service) {
            service_is_taken(&models[pair].config, &other.config.name, problems);
        }
    }
    models
}

/// Reports that `other` has the PaddleServing service that `config` asks for.
pub fn service_is_taken(config: &ModelConfig, other: &str, problems: &mut Problems) {
    problems.add(
        config.dir.join("model.toml").display(),
        "paddle_serving.service",
        &config.paddle_service,
        format!("is already the service of model \"{other}\""),
    );
}

/// The names of the folders in `root`, sorted; those that begin with a dot are left out.
///
/// # Errors
/// The system's.
pub fn folder_names(root: &Path) -> std::io::Result<Vec<String>> {
    Ok(folders(root)?.into_iter().map(|(name, _)| name).collect())
}

fn folders(root: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut list = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') {
            list.push((name, path));
        }
    }
    list.sort();
    Ok(list)
}

/// The version that a folder's name, or a request's path, stands for. As with Triton, names that start with 0
/// stand for none, so that no two folders are the same version.
#[must_use]
pub fn version(name: &str) -> Option<u64> {
    name.starts_with(|c: char| matches!(c, '1'..='9')).then(|| name.parse().ok())?
}

/// Reads one model's folder; `None` where its name is none, and what is wrong lands in `problems`.
pub fn read_model(name: &str, dir: &Path, problems: &mut Problems) -> Option<RepositoryModel> {
    if !is_name(name) {
        problems.add(dir.display(), "", "", format!("the folder's name {NAME_RULE}"));
        return None;
    }
    let before = problems.0.len();
    let config = ModelConfig::read(dir, name, problems);
    let mut found: Vec<(u64, PathBuf)> = folders(dir)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(n, path)| Some((version(&n)?, path.join(MODEL_FILE))))
        .collect();
    found.sort();
    if found.is_empty() {
        problems.add(dir.display(), "", "", format!("holds no version; add 1/{MODEL_FILE}"));
    }
    let chosen: Vec<(u64, PathBuf)> = match &config.version_policy {
        VersionPolicy::All => found,
        VersionPolicy::Latest(n) => found.split_off(found.len().saturating_sub(*n)),
        VersionPolicy::Specific(list) => {
            for missing in list.iter().filter(|v| !found.iter().any(|(f, _)| f == *v)) {
                let source = dir.join("model.toml");
                // Without version_policy, [traffic] asks for it.
                let key = config.traffic.key_of(*missing);
                problems.add(
                    source.display(),
                    key.as_deref().unwrap_or("version_policy.specific.versions"),
                    missing,
                    format!("has no folder {}", dir.join(missing.to_string()).display()),
                );
            }
            found.retain(|(v, _)| list.contains(v));
            found
        }
    };
    let numbers: Vec<u64> = chosen.iter().map(|(v, _)| *v).collect();
    config.traffic.check(&numbers, &config.version_policy, &dir.join("model.toml"), problems);
    let versions = chosen
        .into_iter()
        .filter_map(|(version, path)| match OnnxInfo::read(&path) {
            Ok(onnx) => {
                let spec = ModelSpec::resolve(&config, &path, &onnx, problems);
                // Held against a signature that is not what was meant, it would only add to the confusion.
                let golden = if problems.0.len() == before { Golden::read(&spec, problems) } else { None };
                let golden = golden.map(Arc::new);
                Some(RepositoryVersion { version, spec, golden })
            }
            Err(e) => {
                problems.add(path.display(), "", "", e);
                None
            }
        })
        .collect();
    Some(RepositoryModel { config, versions })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_names_every_reserved_name() {
        for name in RESERVED_NAMES {
            assert!(NAME_RULE.contains(name) && !is_name(name), "{name}");
        }
        for (name, good) in [("ArcFace", true), ("a.b-c_1", true), ("", false), ("a/b", false), ("ä", false)]
        {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}
