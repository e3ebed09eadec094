//! The OpenAPI document against the routes and the model: it says all that there is, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use rollcall_registry::etcd::connect::{ConnectConfig, Connection};
use rollcall_shared::{
    CauseKind, Change, FieldError, Layout, Record, RegistryEvent, ServiceInstance, SnapshotReason,
    api::{
        ACTS_MAX, API, Act, ActResult, BatchAnswer, BatchRequest, ByeEvent, DeregisterAnswer, EditAnswer, EditRequest,
        EtcdState, InstanceDraft, InstanceEdit, LeaseAnswer, LeaseTtl, Problem, RecordsAnswer, RegisterAnswer,
        RegisterRequest, RevokeAnswer, ServiceSummary, ServicesAnswer, StatusEvent, TTL_S_MAX, TTL_S_MIN, TtlEvent,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{App, Edge, router};
use crate::{
    assets::Assets, guard::Guard, kept::KeptLeases, metrics::Metrics, mirror::Mirror, sse::Context, undo::UndoBook,
};

/// Every operation: its method, its path, and the statuses that are no success.
const OPERATIONS: [(&str, &str, &[u16]); 17] = [
    ("get", "/services", &[401, 421, 503]),
    ("get", "/services/{service}", &[400, 401, 404, 421, 503]),
    ("get", "/instances", &[304, 400, 401, 421, 503]),
    ("post", "/instances", &[400, 401, 403, 408, 409, 413, 415, 421, 422, 503]),
    ("put", "/instances", &[400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 428, 503]),
    ("delete", "/instances", &[400, 401, 403, 404, 409, 421, 428, 503]),
    ("get", "/instances/raw", &[400, 401, 403, 404, 421, 503]),
    ("get", "/leases/{id}", &[400, 401, 403, 404, 421, 503]),
    ("delete", "/leases/{id}", &[400, 401, 403, 404, 409, 421, 428, 503]),
    ("post", "/leases/{id}/keepalive", &[400, 401, 403, 404, 421, 503]),
    ("post", "/undo/{token}", &[400, 401, 403, 404, 409, 410, 421, 503]),
    ("post", "/batch", &[400, 401, 403, 408, 413, 415, 421, 422, 503]),
    ("get", "/events", &[401, 421]),
    ("get", "/openapi.json", &[401, 421]),
    ("get", "/healthz", &[]),
    ("get", "/readyz", &[503]),
    ("get", "/metrics", &[401, 421]),
];

/// What stands in a path of the document besides its operations.
const BESIDE_OPERATIONS: [&str; 1] = ["servers"];

fn document() -> Value {
    serde_json::from_str(include_str!("../openapi.json")).expect("the document is JSON")
}

fn object<'a>(value: &'a Value, pointer: &str) -> &'a serde_json::Map<String, Value> {
    value.pointer(pointer).and_then(Value::as_object).unwrap_or_else(|| panic!("no object at {pointer}"))
}

/// Each operation of the document, by method and path.
fn operations(document: &Value) -> BTreeMap<(String, String), &Value> {
    let paths = object(document, "/paths").iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("a path is an object").iter();
            let methods = methods.filter(|(name, _)| !BESIDE_OPERATIONS.contains(&name.as_str()));
            methods.map(move |(method, operation)| ((method.clone(), path.clone()), operation))
        })
        .collect()
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(reference) => document
            .pointer(reference.strip_prefix('#').expect("references stay in the document"))
            .unwrap_or_else(|| panic!("{reference} leads nowhere")),
        None => value,
    }
}

/// Calls `look` with every object below `value`.
fn walk<'a>(value: &'a Value, look: &mut impl FnMut(&'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            look(object);
            object.values().for_each(|value| walk(value, look));
        }
        Value::Array(list) => list.iter().for_each(|value| walk(value, look)),
        _ => {}
    }
}

#[test]
fn it_is_openapi_3_1_at_an_address_that_holds_below_a_base_path() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"][0]["url"], "../v1");
    assert!(API.ends_with("/v1"), "../v1 is the API only where it is named so");
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(document["paths"][path]["servers"][0]["url"], "../..", "{path}");
    }
}

#[test]
fn every_route_stands_in_it_and_nothing_else() {
    let document = document();
    let written: BTreeSet<_> = operations(&document).into_keys().collect();
    let wanted: BTreeSet<_> =
        OPERATIONS.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(written, wanted);
}

#[test]
fn every_operation_says_what_it_is_and_how_it_fails() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (method, path, statuses) in OPERATIONS {
        let operation = &document["paths"][path][method];
        for field in ["operationId", "summary", "description"] {
            let text = operation[field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{method} {path} has no {field}");
        }
        assert!(ids.insert(operation["operationId"].as_str()), "{method} {path} has another operation's id");
        let responses = operation["responses"].as_object().unwrap();
        let failures: BTreeSet<u16> =
            responses.keys().filter(|status| !status.starts_with('2')).filter_map(|text| text.parse().ok()).collect();
        assert_eq!(failures, statuses.iter().copied().collect(), "{method} {path}");
        assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path} never succeeds");
        for (status, response) in responses {
            let response = resolve(&document, response);
            assert!(response["description"].is_string(), "{method} {path} {status}");
            if status.starts_with('2') || status == "304" {
                continue;
            }
            let problem = &response["content"]["application/problem+json"];
            assert_eq!(problem["schema"]["$ref"], "#/components/schemas/Problem", "{method} {path} {status}");
            let example: Problem = serde_json::from_value(problem["example"].clone()).unwrap();
            if status != "default" {
                assert_eq!(example.status.to_string(), *status, "{method} {path}");
            }
            let title = StatusCode::from_u16(example.status).unwrap().canonical_reason();
            assert_eq!(Some(example.title.as_str()), title, "{method} {path} {status}");
            assert_eq!(response["headers"]["Retry-After"].is_object(), status == "503", "{method} {path} {status}");
        }
    }
}

#[test]
fn every_reference_resolves_and_every_component_is_used() {
    let document = document();
    let mut used = BTreeSet::new();
    walk(&document, &mut |object| {
        if let Some(reference) = object.get("$ref") {
            let reference = reference.as_str().expect("a reference is text");
            let pointer = reference.strip_prefix('#').expect("references stay in the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            used.insert(pointer.to_owned());
        }
    });
    for kind in ["schemas", "responses", "parameters", "headers"] {
        for name in object(&document, &format!("/components/{kind}")).keys() {
            let pointer = format!("/components/{kind}/{name}");
            assert!(used.contains(&pointer), "nothing uses {pointer}");
        }
    }
}

#[test]
fn every_parameter_of_a_path_is_described() {
    let document = document();
    for ((method, path), operation) in operations(&document) {
        let named: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let parameters: Vec<&Value> = parameters.iter().map(|parameter| resolve(&document, parameter)).collect();
        let described: BTreeSet<&str> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        assert_eq!(described, named, "{method} {path}");
        for parameter in parameters {
            assert!(parameter["description"].is_string(), "{method} {path}: {parameter}");
        }
    }
}

/// The examples of a schema, read as the model reads them and written as it writes them.
fn holds<T: Serialize + DeserializeOwned>(document: &Value, schema: &str) {
    let examples = document["components"]["schemas"][schema]["examples"].as_array();
    let examples = examples.unwrap_or_else(|| panic!("{schema} has no examples"));
    assert!(!examples.is_empty(), "{schema} has no examples");
    for example in examples {
        let read: T = serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{schema}: {error}"));
        assert_eq!(serde_json::to_value(read).unwrap(), *example, "{schema}");
    }
}

#[test]
fn its_examples_are_what_the_model_reads_and_writes() {
    let document = document();
    holds::<ServiceInstance>(&document, "Instance");
    holds::<Record>(&document, "Record");
    holds::<ServiceSummary>(&document, "ServiceSummary");
    holds::<ServicesAnswer>(&document, "ServicesAnswer");
    holds::<RecordsAnswer>(&document, "RecordsAnswer");
    holds::<LeaseAnswer>(&document, "LeaseAnswer");
    holds::<RegisterRequest>(&document, "RegisterRequest");
    holds::<InstanceDraft>(&document, "InstanceDraft");
    holds::<RegisterAnswer>(&document, "RegisterAnswer");
    holds::<DeregisterAnswer>(&document, "DeregisterAnswer");
    holds::<RevokeAnswer>(&document, "RevokeAnswer");
    holds::<EditRequest>(&document, "EditRequest");
    holds::<InstanceEdit>(&document, "InstanceEdit");
    holds::<EditAnswer>(&document, "EditAnswer");
    holds::<BatchRequest>(&document, "BatchRequest");
    holds::<Act>(&document, "Act");
    holds::<BatchAnswer>(&document, "BatchAnswer");
    holds::<ActResult>(&document, "ActResult");
    holds::<FieldError>(&document, "FieldError");
    holds::<Problem>(&document, "Problem");
    holds::<RegistryEvent>(&document, "Snapshot");
    holds::<RegistryEvent>(&document, "Delta");
    holds::<RegistryEvent>(&document, "Progress");
    holds::<RegistryEvent>(&document, "Cause");
    holds::<Change>(&document, "Change");
    holds::<StatusEvent>(&document, "StatusEvent");
    holds::<TtlEvent>(&document, "TtlEvent");
    holds::<LeaseTtl>(&document, "LeaseTtl");
    holds::<ByeEvent>(&document, "ByeEvent");
}

#[test]
fn its_words_and_bounds_are_the_models() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["Layout"]["enum"], json!(Layout::ALL));
    let reasons = [
        SnapshotReason::Connected,
        SnapshotReason::Compacted,
        SnapshotReason::Restored,
        SnapshotReason::Lagged,
        SnapshotReason::UnknownCursor,
    ];
    assert_eq!(schemas["Snapshot"]["properties"]["reason"]["enum"], json!(reasons));
    let causes = [CauseKind::Deregistered, CauseKind::Expired, CauseKind::Revoked, CauseKind::Unknown];
    assert_eq!(schemas["Cause"]["properties"]["cause"]["enum"], json!(causes));
    let states = [EtcdState::Live, EtcdState::Stale, EtcdState::Unreachable];
    assert_eq!(schemas["StatusEvent"]["properties"]["etcd"]["enum"], json!(states));
    let ttl_s = &schemas["RegisterRequest"]["properties"]["ttl_s"]["oneOf"][0];
    assert_eq!((&ttl_s["minimum"], &ttl_s["maximum"]), (&json!(TTL_S_MIN), &json!(TTL_S_MAX)));
    for (schema, list) in [("BatchRequest", "acts"), ("BatchAnswer", "results")] {
        let list = &schemas[schema]["properties"][list];
        assert_eq!((&list["minItems"], &list["maxItems"]), (&json!(1), &json!(ACTS_MAX)), "{schema}");
    }
}

/// The routes as they are served, over an etcd that nobody asks.
fn routes(base_path: &str, cancel: &CancellationToken) -> Router {
    let mirror = Arc::new(Mirror::new(Vec::new()));
    let config = ConnectConfig { endpoints: vec!["http://127.0.0.1:1".to_owned()], ..ConnectConfig::default() };
    let connection = Connection::new(config).unwrap();
    let kept = KeptLeases::start(connection.clone(), Arc::clone(&mirror), cancel);
    let app = App {
        context: Context { mirror, connection, metrics: Metrics::new(), shutdown: cancel.clone() },
        undo: UndoBook::default(),
        kept,
        assets: Assets::new(base_path, ""),
        streams_max: 1,
    };
    let edge = Edge { guard: Guard::new([], None), allow_origins: Vec::new(), base_path: base_path.to_owned() };
    router(Arc::new(app), edge)
}

#[tokio::test]
async fn the_routes_take_the_methods_that_it_names() {
    let document = document();
    let mut methods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path) in operations(&document).into_keys() {
        let of_path = methods.entry(path).or_default();
        of_path.insert(method.to_uppercase());
        if method == "get" {
            of_path.insert("HEAD".to_owned());
        }
    }
    let cancel = CancellationToken::new();
    let _end = cancel.clone().drop_guard();
    for base_path in ["", "/rollcall"] {
        let routes = routes(base_path, &cancel);
        for (path, wanted) in &methods {
            let below = if document["paths"][path]["servers"].is_array() { "" } else { API };
            let path = format!("{base_path}{below}{}", path.replace(['{', '}'], ""));
            let request = Request::builder().method(Method::PATCH).uri(&path).header(header::HOST, "localhost");
            let response = routes.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            let allow = response.headers()[header::ALLOW].to_str().unwrap();
            let allowed: BTreeSet<String> = allow.split(',').map(|method| method.trim().to_owned()).collect();
            assert_eq!(allowed, *wanted, "{path}");
        }
    }
}

#[tokio::test]
async fn it_is_served_as_it_stands() {
    let cancel = CancellationToken::new();
    let _end = cancel.clone().drop_guard();
    let request = Request::builder().uri(format!("{API}/openapi.json")).header(header::HOST, "localhost");
    let response = routes("", &cancel).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), document());
}
