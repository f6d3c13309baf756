//! `GET /openapi.json`: the API as it is served now, with the models that are there.

use serde_json::{Value, json};

use super::route::{FIXED_PATHS, MODEL_PATHS, ModelRoute, REPOSITORY_PATHS, RepositoryRoute, Route};
use super::state::ServerState;

/// The OpenAPI 3.1 document. Paths come from the same table that dispatch uses.
#[must_use]
pub fn describe(state: &ServerState) -> Value {
    let models = state.registry.models();
    let names: Vec<&str> = models.keys().map(String::as_str).collect();
    let mut paths = serde_json::Map::new();
    for (path, route) in FIXED_PATHS {
        let mut verbs = json!({ "get": fixed(route) });
        if route == Route::Logging {
            verbs["post"] = change_logging();
        }
        paths.insert(path.to_owned(), verbs);
    }
    for (rest, route) in MODEL_PATHS {
        let rest = if rest.is_empty() { String::new() } else { format!("/{rest}") };
        for (versioned, middle) in [(false, ""), (true, "/versions/{version}")] {
            paths.insert(format!("/v2/models/{{model}}{middle}{rest}"), model_path(route, versioned, &names));
        }
    }
    for (versioned, middle) in [(false, ""), (true, "/versions/{version}")] {
        let path = format!("/v1/models/{{model}}{middle}/infer");
        paths.insert(path, model_path(ModelRoute::PlainInfer, versioned, &names));
    }
    paths.insert("/v2/repository/index".to_owned(), repository_path(RepositoryRoute::Index));
    for (rest, route) in REPOSITORY_PATHS {
        paths.insert(format!("/v2/repository/models/{{model}}/{rest}"), repository_path(route));
    }
    if state.limits.console {
        let page = json!({
            "summary": "A page for people, its files below /console/; who does not ask for HTML gets 404",
            "responses": { "200": { "description": "OK", "content": { "text/html": {} } } },
        });
        paths.insert("/".to_owned(), json!({ "get": page }));
    }
    for model in models.values().filter(|m| !m.config.paddle_service.is_empty()) {
        let path = format!("/{}/prediction", model.config.paddle_service);
        paths.insert(path, json!({ "post": paddle(&model.config.name) }));
    }
    if state.shared_memory.on() {
        for (path, verb, summary) in SHARED_MEMORY {
            let answer = json!({ "summary": summary, "responses": { "200": { "description": "OK" } } });
            paths.insert(path.to_owned(), json!({ verb: answer }));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "visord",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Inference on images: encoded images or tensors in, tensors out.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas() },
    })
}

/// Triton's extension, with `--shared-memory`.
const SHARED_MEMORY: [(&str, &str, &str); 5] = [
    ("/v2/systemsharedmemory/status", "get", "The registered regions of shared memory"),
    ("/v2/systemsharedmemory/unregister", "post", "Forget every region"),
    ("/v2/systemsharedmemory/region/{name}/status", "get", "One region of shared memory"),
    ("/v2/systemsharedmemory/region/{name}/register", "post", "Register a region: key, offset, byte_size"),
    ("/v2/systemsharedmemory/region/{name}/unregister", "post", "Forget a region"),
];

fn fixed(route: Route<'_>) -> Value {
    let (summary, kind, unready) = match route {
        Route::Live => ("Whether the process lives", "application/json", false),
        Route::Ready => ("Whether every model is ready for traffic", "application/json", true),
        Route::Metrics => ("Prometheus metrics", "text/plain", false),
        Route::Openapi => ("This document", "application/json", false),
        Route::Server => ("Server metadata", "application/json", false),
        Route::AllStats => ("Statistics of every model", "application/json", false),
        Route::Logging => ("Settings of the log", "application/json", false),
        Route::Model(..)
        | Route::Repository(..)
        | Route::Paddle(_)
        | Route::SharedMemory(..)
        | Route::Console(_) => ("", "application/json", false),
    };
    let mut responses = json!({ "200": { "description": "OK", "content": { kind: {} } } });
    if unready {
        responses["503"] = error_response("Not ready, and why");
    }
    json!({ "summary": summary, "responses": responses })
}

fn change_logging() -> Value {
    json!({
        "summary": "Changes settings of the log; with --log-control",
        "requestBody": { "required": true, "content": { "application/json": { "schema": {
            "type": "object",
            "properties": {
                "log_level": { "type": "string" },
                "log_error": { "type": "boolean" }, "log_warning": { "type": "boolean" },
                "log_info": { "type": "boolean" },
                "log_verbose_level": { "type": "integer", "minimum": 0 },
            },
        } } } },
        "responses": {
            "200": { "description": "The settings as they are now", "content": { "application/json": {} } },
            "400": error_response("A setting that is unknown, or whose value is not taken"),
            "403": error_response("The server was not started with --log-control"),
        },
    })
}

fn error_response(description: &str) -> Value {
    json!({
        "description": description,
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
    })
}

fn model_path(route: ModelRoute, versioned: bool, names: &[&str]) -> Value {
    let mut parameters = vec![
        json!({ "name": "model", "in": "path", "required": true, "schema": { "type": "string", "enum": names } }),
    ];
    if versioned {
        parameters.push(
            json!({ "name": "version", "in": "path", "required": true, "schema": { "type": "string" } }),
        );
    }
    let document = |summary: &str| {
        json!({ "get": {
            "summary": summary,
            "parameters": parameters,
            "responses": {
                "200": { "description": "OK", "content": { "application/json": {} } },
                "404": error_response("No such model or version"),
                "503": error_response("The model is not ready"),
            },
        } })
    };
    match route {
        ModelRoute::Metadata => document("A model's inputs and outputs"),
        ModelRoute::Ready => document("Whether a model is ready"),
        ModelRoute::Config => document("A model's configuration"),
        ModelRoute::Stats => document("A model's statistics"),
        ModelRoute::Infer => json!({ "post": {
            "summary": "Inference by the Open Inference Protocol",
            "parameters": parameters,
            "requestBody": { "required": true, "content": {
                "application/json": { "schema": { "$ref": "#/components/schemas/InferRequest" } },
                "application/octet-stream": {},
            } },
            "responses": inference_responses(json!({
                "application/json": { "schema": { "$ref": "#/components/schemas/InferResponse" } },
                "application/octet-stream": {},
            })),
        } }),
        ModelRoute::PlainInfer => {
            for (name, schema, text) in [
                ("timeout", json!({ "type": "integer", "minimum": 0 }), "Microseconds to answer in"),
                (
                    "priority",
                    json!({ "type": "integer", "minimum": 0 }),
                    "1 is the most urgent, 0 the model's default",
                ),
                ("output", json!({ "type": "string" }), "The one output to answer"),
            ] {
                parameters
                    .push(json!({ "name": name, "in": "query", "schema": schema, "description": text }));
            }
            json!({ "post": {
                "summary": "Inference on an image in the body, or on several in a form",
                "parameters": parameters,
                "requestBody": { "required": true, "content": {
                    "image/*": {},
                    "application/octet-stream": {},
                    "multipart/form-data": { "schema": { "type": "object" } },
                } },
                "responses": inference_responses(json!({
                    "application/json": { "schema": { "$ref": "#/components/schemas/InferResponse" } },
                    "application/x-npy": {},
                    "application/octet-stream": {},
                })),
            } })
        }
    }
}

/// Which models there are, and how they come and go.
fn repository_path(route: RepositoryRoute) -> Value {
    let body = |properties: Value| json!({ "content": { "application/json": { "schema": { "type": "object", "properties": properties } } } });
    let model = json!([{ "name": "model", "in": "path", "required": true, "schema": { "type": "string" } }]);
    let change = |summary: &str, properties: Value| {
        json!({ "post": {
            "summary": format!("{summary}; with --model-control-mode explicit"),
            "parameters": model,
            "requestBody": body(json!({ "parameters": { "type": "object", "properties": properties } })),
            "responses": {
                "200": { "description": "Done" },
                "400": error_response("The model cannot be loaded, and why; what served before still does"),
                "404": error_response("The repository has no such model"),
                "501": error_response("Parameters that are not taken"),
                "503": error_response("Not in this mode, or shutting down"),
            },
        } })
    };
    match route {
        RepositoryRoute::Index => json!({ "post": {
            "summary": "Every model and version of the repository, with its state",
            "requestBody": body(json!({ "ready": { "type": "boolean" } })),
            "responses": { "200": { "description": "OK", "content": { "application/json": {} } } },
        } }),
        RepositoryRoute::Load => {
            change("Loads a model, or loads it again where its folder has changed", json!({}))
        }
        RepositoryRoute::Unload => {
            change("Takes a model out of service", json!({ "unload_dependents": { "type": "boolean" } }))
        }
    }
}

fn inference_responses(content: Value) -> Value {
    json!({
        "200": { "description": "The outputs", "content": content },
        "400": error_response("Bad input; the text names the field and the limit"),
        "404": error_response("No such model or version"),
        "408": error_response("The body came too slowly"),
        "413": error_response("The body is over the limit, as sent or inflated"),
        "415": error_response("Content-Type or Content-Encoding that is not read"),
        "429": error_response("The model's queue is full; see Retry-After"),
        "500": error_response("The engine failed"),
        "503": error_response("Not ready, shutting down, or out of memory for bodies"),
        "504": error_response("Not answered before the deadline"),
    })
}

fn paddle(model: &str) -> Value {
    json!({
        "summary": format!("PaddleServing's pipeline protocol, answered by {model}; application errors come as err_no with 200"),
        "x-visord-model": model,
        "requestBody": { "required": true, "content": {
            "application/json": { "schema": { "$ref": "#/components/schemas/PaddleRequest" } },
        } },
        "responses": {
            "200": { "description": "The outputs as numpy text, or err_no", "content": {
                "application/json": { "schema": { "$ref": "#/components/schemas/PaddleResponse" } },
            } },
            "400": { "description": "JSON that does not parse", "content": { "application/json": {} } },
        },
    })
}

fn schemas() -> Value {
    let strings = json!({ "type": "array", "items": { "type": "string" } });
    let tensor = json!({
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": { "type": "string" },
            "datatype": { "enum": crate::tensor::Datatype::ALL.map(crate::tensor::Datatype::name) },
            "shape": { "type": "array", "items": { "type": "integer" } },
            "data": { "type": "array" },
            "parameters": { "type": "object" },
        },
    });
    json!({
        "Error": { "type": "object", "required": ["error"], "properties": { "error": { "type": "string" } } },
        "Tensor": tensor,
        "InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": { "type": "string" },
                "parameters": { "type": "object", "properties": {
                    "timeout": { "type": "integer" }, "priority": { "type": "integer" },
                    "binary_data_output": { "type": "boolean" },
                } },
                "inputs": { "type": "array", "items": { "$ref": "#/components/schemas/Tensor" } },
                "outputs": { "type": "array", "items": { "type": "object" } },
            },
        },
        "InferResponse": {
            "type": "object",
            "required": ["model_name", "model_version", "outputs"],
            "properties": {
                "model_name": { "type": "string" }, "model_version": { "type": "string" }, "id": { "type": "string" },
                "outputs": { "type": "array", "items": { "$ref": "#/components/schemas/Tensor" } },
            },
        },
        "PaddleRequest": {
            "type": "object",
            "properties": { "key": strings, "value": strings, "logid": { "type": "integer" } },
        },
        "PaddleResponse": {
            "type": "object",
            "properties": {
                "err_no": { "type": "integer" }, "err_msg": { "type": "string" }, "key": strings, "value": strings,
                "tensors": { "type": "array" },
            },
        },
    })
}
