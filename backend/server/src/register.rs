//! Reads what `POST /instances` asks for, and plans the key and value: every fault is found before etcd is asked.

use bytes::Bytes;
use rollcall_shared::{FieldError, ServiceInstance, api::RegisterRequest};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    faults::Faults,
    mirror::{SourceConfig, source_of},
};

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
    let body = Faults::object("", body)?;
    faults.unknown("", body, &["layout", "instance", "ttl_s", "keep_alive"]);
    let layout = faults.layout(body.get("layout"));
    let instance = faults.instance(body.get("instance"));
    let ttl_s = faults.ttl_s(body.get("ttl_s"));
    let keep_alive = faults.keep_alive(body.get("keep_alive"), ttl_s);
    match (layout, instance, ttl_s) {
        (Some(layout), Some(instance), Some(ttl_s)) => {
            faults.unless(RegisterRequest { layout, instance, ttl_s, keep_alive })
        }
        _ => Err(faults.found()),
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

#[cfg(test)]
mod tests {
    use rollcall_shared::{Layout, api::InstanceDraft};
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
