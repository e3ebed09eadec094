//! Reads what `POST /instances` asks for, and plans the key and value: every fault is found before etcd is asked.

use std::collections::BTreeMap;

use bytes::Bytes;
use rollcall_shared::{
    FieldError, Layout, ServiceInstance,
    api::{InstanceDraft, KeepAlive, RegisterRequest, TTL_S_MAX, TTL_S_MIN},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::mirror::{SourceConfig, source_of};

/// A key and value that are to be written.
#[derive(Debug)]
pub struct Registering {
    /// The source that has the key.
    pub source: SourceConfig,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
}

/// Reads the body.
///
/// # Errors
/// Every field that is missing, of the wrong kind or unknown.
pub fn read(body: &Value) -> Result<RegisterRequest, Vec<FieldError>> {
    let mut faults = Faults::default();
    let Some(body) = body.as_object() else {
        return Err(vec![FieldError::new("", "an object is wanted")]);
    };
    faults.unknown("", body, &["layout", "instance", "ttl_s", "keep_alive"]);
    let layout = faults.layout(body.get("layout"));
    let instance = faults.instance(body.get("instance"));
    let ttl_s = faults.ttl_s(body.get("ttl_s"));
    let keep_alive = faults.keep_alive(body.get("keep_alive"), ttl_s);
    match (layout, instance, ttl_s) {
        (Some(layout), Some(instance), Some(ttl_s)) if faults.0.is_empty() => {
            Ok(RegisterRequest { layout, instance, ttl_s, keep_alive })
        }
        _ => Err(faults.0),
    }
}

/// The key and value that `request` comes to.
///
/// # Errors
/// Where no source has the layout, or the layout cannot carry the instance.
pub fn plan(request: &RegisterRequest, sources: &[SourceConfig]) -> Result<Registering, Vec<FieldError>> {
    let fault = |pointer: &str, detail: String| vec![FieldError::new(pointer, detail)];
    let layout = request.layout;
    let source = sources.iter().find(|source| source.layout == layout).ok_or_else(|| {
        fault("/layout", format!("no source is watched as {layout}: --watch {layout}=PREFIX adds one"))
    })?;
    let draft = &request.instance;
    let id = match &draft.id {
        Some(id) => id.clone(),
        None => layout.default_id(&draft.endpoints, || Uuid::new_v4().to_string()),
    };
    let instance = ServiceInstance {
        id,
        name: draft.name.clone(),
        version: draft.version.clone(),
        metadata: draft.metadata.clone(),
        endpoints: draft.endpoints.clone(),
    };
    let (key, value) = layout.encode(&source.prefix, &instance)?;
    match source_of(sources, &key) {
        Some(owner) if owner == source => Ok(Registering { source: source.clone(), key, value: value.into() }),
        Some(owner) => Err(fault("/instance/name", format!("the key {key:?} belongs to the source {}", owner.prefix))),
        None => Err(fault("/instance/name", format!("the key {key:?} lies outside of the sources"))),
    }
}

/// What was found wrong so far.
#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError::new(pointer, detail));
    }

    /// What is not known would be dropped in silence.
    fn unknown(&mut self, at: &str, object: &Map<String, Value>, known: &[&str]) {
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            self.add(format!("{at}/{}", escape(name)), format!("unknown: known are {}", known.join(", ")));
        }
    }

    fn layout(&mut self, value: Option<&Value>) -> Option<Layout> {
        let layout = match value {
            None => Err("missing".to_owned()),
            Some(Value::String(text)) => text.parse().map_err(|error| format!("{error}")),
            Some(_) => Err("a string is wanted".to_owned()),
        };
        layout.map_err(|detail| self.add("/layout", detail)).ok()
    }

    fn instance(&mut self, value: Option<&Value>) -> Option<InstanceDraft> {
        let Some(value) = value else {
            self.add("/instance", "missing");
            return None;
        };
        let Some(object) = value.as_object() else {
            self.add("/instance", "an object is wanted");
            return None;
        };
        self.unknown("/instance", object, &["id", "name", "version", "metadata", "endpoints"]);
        let id = match object.get("id") {
            None | Some(Value::Null) => None,
            given => Some(self.text("/instance/id", given)),
        };
        if object.get("name").is_none() {
            self.add("/instance/name", "missing");
        }
        let name = object.get("name").map(|given| self.text("/instance/name", Some(given))).unwrap_or_default();
        let version = match object.get("version") {
            None | Some(Value::Null) => String::new(),
            given => self.text("/instance/version", given),
        };
        let metadata = self.metadata(object.get("metadata"));
        let endpoints = self.endpoints(object.get("endpoints"));
        Some(InstanceDraft { id, name, version, metadata, endpoints })
    }

    fn text(&mut self, pointer: &str, value: Option<&Value>) -> String {
        if let Some(Value::String(text)) = value {
            return text.clone();
        }
        self.add(pointer, "a string is wanted");
        String::new()
    }

    fn metadata(&mut self, value: Option<&Value>) -> BTreeMap<String, String> {
        let object = match value {
            None | Some(Value::Null) => return BTreeMap::new(),
            Some(Value::Object(object)) => object,
            Some(_) => {
                self.add("/instance/metadata", "an object of strings is wanted");
                return BTreeMap::new();
            }
        };
        let pairs = object.iter().map(|(name, value)| {
            let pointer = format!("/instance/metadata/{}", escape(name));
            (name.clone(), self.text(&pointer, Some(value)))
        });
        pairs.collect()
    }

    fn endpoints(&mut self, value: Option<&Value>) -> Vec<String> {
        let list = match value {
            None | Some(Value::Null) => {
                self.add("/instance/endpoints", "missing: at least one is wanted");
                return Vec::new();
            }
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.add("/instance/endpoints", "a list of strings is wanted");
                return Vec::new();
            }
        };
        let endpoints = list.iter().enumerate();
        endpoints.map(|(index, value)| self.text(&format!("/instance/endpoints/{index}"), Some(value))).collect()
    }

    /// `Some(None)` for `null`: a permanent key.
    #[expect(clippy::option_option, reason = "null is an answer of its own here")]
    fn ttl_s(&mut self, value: Option<&Value>) -> Option<Option<i64>> {
        let wanted =
            format!("a whole number of seconds from {TTL_S_MIN} to {TTL_S_MAX} is wanted, or null for a permanent key");
        match value {
            Some(Value::Null) => Some(None),
            Some(Value::Number(number)) => {
                let ttl_s = number.as_i64().filter(|ttl_s| (TTL_S_MIN..=TTL_S_MAX).contains(ttl_s));
                if ttl_s.is_none() {
                    self.add("/ttl_s", wanted);
                }
                ttl_s.map(Some)
            }
            Some(_) => {
                self.add("/ttl_s", wanted);
                None
            }
            None => {
                self.add("/ttl_s", format!("missing: {wanted}"));
                None
            }
        }
    }

    #[expect(clippy::option_option, reason = "null is an answer of its own here")]
    fn keep_alive(&mut self, value: Option<&Value>, ttl_s: Option<Option<i64>>) -> Option<KeepAlive> {
        let wanted = "\"caller\" or \"server\" is wanted: who renews the lease";
        match value {
            None | Some(Value::Null) => {
                if ttl_s.flatten().is_some() {
                    self.add("/keep_alive", format!("missing beside a TTL: {wanted}"));
                }
                None
            }
            Some(Value::String(text)) if text == "caller" => Some(KeepAlive::Caller),
            Some(Value::String(text)) if text == "server" => Some(KeepAlive::Server),
            Some(_) => {
                self.add("/keep_alive", wanted);
                None
            }
        }
    }
}

/// A name as RFC 6901 writes it in a pointer.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointers(body: &Value) -> Vec<String> {
        read(body).map_or_else(|faults| faults.into_iter().map(|fault| fault.pointer).collect(), |_| Vec::new())
    }

    fn good() -> Value {
        json!({"layout": "kratos", "ttl_s": 15, "keep_alive": "caller",
            "instance": {"name": "a", "endpoints": ["http://127.0.0.1:1"]}})
    }

    #[test]
    fn every_fault_is_told_where_it_is() {
        assert!(read(&good()).is_ok());
        assert_eq!(pointers(&json!([])), [""]);
        assert_eq!(pointers(&json!({})), ["/layout", "/instance", "/ttl_s"]);
        let with = |pointer: &str, value: Value| {
            let mut body = good();
            *body.pointer_mut(pointer).unwrap() = value;
            pointers(&body)
        };
        assert_eq!(with("/layout", json!("x")), ["/layout"]);
        assert_eq!(with("/ttl_s", json!(1)), ["/ttl_s"]);
        assert_eq!(with("/ttl_s", json!(9_000_000_001_i64)), ["/ttl_s"]);
        assert_eq!(with("/ttl_s", json!(15.5)), ["/ttl_s"]);
        assert_eq!(with("/ttl_s", json!("15")), ["/ttl_s"]);
        assert!(with("/ttl_s", Value::Null).is_empty());
        assert_eq!(with("/keep_alive", Value::Null), ["/keep_alive"]);
        assert_eq!(with("/keep_alive", json!("me")), ["/keep_alive"]);
        assert_eq!(with("/instance/name", json!(1)), ["/instance/name"]);
        assert_eq!(with("/instance/endpoints", json!(["a", 1])), ["/instance/endpoints/1"]);
        assert_eq!(
            with("/instance", json!({"name": "a", "endpoints": [], "metadata": {"a/b": 1}, "x": 1})),
            ["/instance/x", "/instance/metadata/a~1b"]
        );
    }

    #[test]
    fn a_key_that_another_source_has_is_refused() {
        let source = |layout, prefix: &str| SourceConfig { layout, prefix: prefix.parse().unwrap() };
        let sources = [source(Layout::Kratos, "/a"), source(Layout::Plain, "/a/b")];
        let request = |name: &str| RegisterRequest {
            layout: Layout::Kratos,
            instance: InstanceDraft {
                id: Some("1".into()),
                name: name.into(),
                endpoints: vec!["http://127.0.0.1:1".into()],
                ..InstanceDraft::default()
            },
            ttl_s: None,
            keep_alive: None,
        };
        assert_eq!(plan(&request("x"), &sources).unwrap().key, "/a/x/1");
        assert_eq!(plan(&request("b"), &sources).unwrap_err()[0].pointer, "/instance/name");
        assert_eq!(plan(&request("x"), &sources[1..]).unwrap_err()[0].pointer, "/layout");
    }
}
