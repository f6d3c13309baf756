//! Which paths there are, with their verbs: the one table that dispatch, 405 answers and `/openapi.json` share.

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'p> {
    /// Liveness.
    Live,
    /// Readiness of everything.
    Ready,
    /// Prometheus metrics.
    Metrics,
    /// The API's description.
    Openapi,
    /// A file of the page at `/`; "" is the page itself.
    Console(&'p str),
    /// Server metadata.
    Server,
    /// Statistics of every model.
    AllStats,
    /// Settings of the log.
    Logging,
    /// Triton's system shared memory: one region, or all of them.
    SharedMemory(SharedMemoryRoute, Option<&'p str>),
    /// Something about one model.
    Model(ModelRoute, &'p str, Option<&'p str>),
    /// Something about the model repository; the model, where it is about one, and the repository's name, if any.
    Repository(RepositoryRoute, &'p str, Option<&'p str>),
    /// PaddleServing's `/{service}/{method}`.
    Paddle(&'p str),
}

/// What is asked of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedMemoryRoute {
    /// What is registered.
    Status,
    /// Registers a region.
    Register,
    /// Forgets.
    Unregister,
}

/// What is asked of the model repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryRoute {
    /// Its models and their states.
    Index,
    /// To load a model.
    Load,
    /// To unload a model.
    Unload,
}

/// What is asked of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelRoute {
    /// An image in, JSON out.
    PlainInfer,
    /// Open Inference Protocol inference.
    Infer,
    /// Its metadata.
    Metadata,
    /// Its readiness.
    Ready,
    /// Its configuration.
    Config,
    /// Its statistics.
    Stats,
}

/// `GET, HEAD`: what documents answer to.
pub const GET: &str = "GET, HEAD";
/// `POST`: what inference answers to.
pub const POST: &str = "POST";
/// What can be read and changed.
pub const BOTH: &str = "GET, HEAD, POST";

impl Route<'_> {
    /// The verbs of the path, as `Allow` lists them.
    #[must_use]
    pub const fn verbs(self) -> &'static str {
        match self {
            Self::Logging => BOTH,
            Self::Paddle(_)
            | Self::Repository(..)
            | Self::Model(ModelRoute::PlainInfer | ModelRoute::Infer, ..)
            | Self::SharedMemory(SharedMemoryRoute::Register | SharedMemoryRoute::Unregister, _) => POST,
            Self::Live
            | Self::Ready
            | Self::Metrics
            | Self::Openapi
            | Self::Console(_)
            | Self::Server
            | Self::AllStats
            | Self::SharedMemory(SharedMemoryRoute::Status, _)
            | Self::Model(
                ModelRoute::Metadata | ModelRoute::Ready | ModelRoute::Config | ModelRoute::Stats,
                ..,
            ) => GET,
        }
    }
}

/// Every path below one model: what follows its name (and version), and what it stands for.
pub const MODEL_PATHS: [(&str, ModelRoute); 5] = [
    ("infer", ModelRoute::Infer),
    ("", ModelRoute::Metadata),
    ("ready", ModelRoute::Ready),
    ("config", ModelRoute::Config),
    ("stats", ModelRoute::Stats),
];

/// What is done with a model of the repository: the last segment of its path.
pub const REPOSITORY_PATHS: [(&str, RepositoryRoute); 2] =
    [("load", RepositoryRoute::Load), ("unload", RepositoryRoute::Unload)];

/// Every fixed path. The aliases are those that Kubernetes users expect: `livez` and `healthz` ask whether the
/// process lives, `readyz` and `health` whether it should get traffic.
pub const FIXED_PATHS: [(&str, Route<'static>); 13] = [
    ("/v2", Route::Server),
    ("/v2/health/live", Route::Live),
    ("/v2/health/ready", Route::Ready),
    ("/v2/models/stats", Route::AllStats),
    ("/v2/logging", Route::Logging),
    ("/metrics", Route::Metrics),
    ("/openapi.json", Route::Openapi),
    ("/livez", Route::Live),
    ("/healthz", Route::Live),
    ("/health/live", Route::Live),
    ("/readyz", Route::Ready),
    ("/health", Route::Ready),
    ("/health/ready", Route::Ready),
];

/// Finds what a path stands for; `is_service` tells the names that PaddleServing's clients may use.
///
/// A path of two segments whose first is no service is PaddleServing's too when it is posted to, since its
/// gateway answers for every name.
pub fn route<'p>(path: &'p str, posted: bool, is_service: impl Fn(&str) -> bool) -> Option<Route<'p>> {
    if let Some((_, fixed)) = FIXED_PATHS.iter().find(|(p, _)| *p == path) {
        return Some(*fixed);
    }
    let mut segments = [""; 7];
    let mut count = 0;
    for segment in path.strip_prefix('/')?.split('/') {
        *segments.get_mut(count)? = segment;
        count += 1;
    }
    let below = |rest: &str| MODEL_PATHS.iter().find(|(p, _)| *p == rest).map(|(_, r)| *r);
    let change = |rest: &str| REPOSITORY_PATHS.iter().find(|(p, _)| *p == rest).map(|(_, r)| *r);
    match segments[..count] {
        [""] => Some(Route::Console("")),
        ["console", file] if !file.is_empty() && super::console::has(file) => Some(Route::Console(file)),
        ["v2", "repository", "index"] => Some(Route::Repository(RepositoryRoute::Index, "", None)),
        ["v2", "repository", "models", model, rest] => Some(Route::Repository(change(rest)?, model, None)),
        ["v2", "repository", repository, "index"] => {
            Some(Route::Repository(RepositoryRoute::Index, "", Some(repository)))
        }
        ["v2", "repository", repository, "models", model, rest] => {
            Some(Route::Repository(change(rest)?, model, Some(repository)))
        }
        ["v1", "models", model, "infer"] => Some(Route::Model(ModelRoute::PlainInfer, model, None)),
        ["v1", "models", model, "versions", v, "infer"] => {
            Some(Route::Model(ModelRoute::PlainInfer, model, Some(v)))
        }
        ["v2", "models", model] if !model.is_empty() => Some(Route::Model(ModelRoute::Metadata, model, None)),
        ["v2", "models", model, "versions", v] => Some(Route::Model(ModelRoute::Metadata, model, Some(v))),
        ["v2", "models", model, rest] if !rest.is_empty() => Some(Route::Model(below(rest)?, model, None)),
        ["v2", "models", model, "versions", v, rest] if !rest.is_empty() => {
            Some(Route::Model(below(rest)?, model, Some(v)))
        }
        ["v2", "systemsharedmemory", asked] => {
            Some(Route::SharedMemory(shared(asked).filter(|a| *a != SharedMemoryRoute::Register)?, None))
        }
        ["v2", "systemsharedmemory", "region", name, asked] if !name.is_empty() => {
            Some(Route::SharedMemory(shared(asked)?, Some(name)))
        }
        [service, method]
            if !service.is_empty()
                && !method.is_empty()
                && !crate::model::repository::RESERVED_NAMES.contains(&service)
                && (posted || is_service(service)) =>
        {
            Some(Route::Paddle(service))
        }
        _ => None,
    }
}

/// The last word of a path of shared memory.
fn shared(word: &str) -> Option<SharedMemoryRoute> {
    match word {
        "status" => Some(SharedMemoryRoute::Status),
        "register" => Some(SharedMemoryRoute::Register),
        "unregister" => Some(SharedMemoryRoute::Unregister),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        use ModelRoute as M;
        let model = |m, v| Some(Route::Model(m, "A", v));
        let cases = [
            ("/v1/models/A/infer", model(M::PlainInfer, None)),
            ("/v1/models/A/versions/2/infer", model(M::PlainInfer, Some("2"))),
            ("/v2/models/A", model(M::Metadata, None)),
            ("/v2/models/A/versions/2", model(M::Metadata, Some("2"))),
            ("/v2/models/A/versions/2/config", model(M::Config, Some("2"))),
            ("/v2/models/A/stats", model(M::Stats, None)),
            ("/v2/models/stats", Some(Route::AllStats)),
            ("/v2/models/A/nonsense", None),
            ("/v2/models/", None),
            ("/v2/models/A/", None),
            ("/v2/nonsense", None),
            ("/v2/systemsharedmemory/status", Some(Route::SharedMemory(SharedMemoryRoute::Status, None))),
            (
                "/v2/systemsharedmemory/unregister",
                Some(Route::SharedMemory(SharedMemoryRoute::Unregister, None)),
            ),
            ("/v2/systemsharedmemory/register", None),
            (
                "/v2/systemsharedmemory/region/r/register",
                Some(Route::SharedMemory(SharedMemoryRoute::Register, Some("r"))),
            ),
            ("/v2/systemsharedmemory/region//status", None),
            ("/v2/systemsharedmemory/region/r/nonsense", None),
            ("/v2/repository/index", Some(Route::Repository(RepositoryRoute::Index, "", None))),
            ("/v2/repository/r/index", Some(Route::Repository(RepositoryRoute::Index, "", Some("r")))),
            ("/v2/repository/models/A/load", Some(Route::Repository(RepositoryRoute::Load, "A", None))),
            (
                "/v2/repository/r/models/A/unload",
                Some(Route::Repository(RepositoryRoute::Unload, "A", Some("r"))),
            ),
            ("/v2/repository/models/A/remove", None),
            ("/v2/repository/models/A", None),
            ("/v2/repository", None),
            ("/healthz", Some(Route::Live)),
            ("/A/prediction", Some(Route::Paddle("A"))),
            ("/A/anything", Some(Route::Paddle("A"))),
            ("/B/prediction", None),
            ("/A", None),
            ("/A/prediction/more", None),
            ("/A/", None),
            ("//prediction", None),
            ("/", Some(Route::Console(""))),
            ("/console/app.js", Some(Route::Console("app.js"))),
            ("/console/", None),
            ("/console", None),
            ("/console/mod.rs", None),
            ("/console/x/app.js", None),
            ("*", None),
            ("/a/b/c/d/e/f/g/h/i", None),
        ];
        for (path, want) in cases {
            assert_eq!(route(path, false, |s| s == "A"), want, "{path}");
        }
        assert_eq!(route("/B/prediction", true, |s| s == "A"), Some(Route::Paddle("B")));
        assert_eq!(route("/v1/prediction", true, |_| true), None);
    }

    #[test]
    fn no_fixed_path_can_be_a_model_s() {
        for (path, _) in FIXED_PATHS {
            let first = path.split('/').nth(1).unwrap();
            assert!(crate::model::repository::RESERVED_NAMES.contains(&first), "{path}");
        }
    }
}
