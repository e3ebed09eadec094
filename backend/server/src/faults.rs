//! Reads bodies field by field, and finds every fault at once, each with a pointer to where it is.
//!
//! Owns: which fields there are, and of which kind. Must not know: what a layout can carry, or what stands in etcd.

use std::collections::BTreeMap;

use rollcall_shared::{
    FieldError, Layout,
    api::{InstanceDraft, InstanceEdit, KeepAlive, TTL_S_MAX, TTL_S_MIN},
};
use serde_json::{Map, Value};

/// What was found wrong so far.
#[derive(Default)]
pub struct Faults(Vec<FieldError>);

impl Faults {
    /// `value` as an object.
    ///
    /// # Errors
    /// Where it is none, with nothing else to say.
    pub fn object<'a>(at: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Vec<FieldError>> {
        value.as_object().ok_or_else(|| vec![FieldError::new(at, "an object is wanted")])
    }

    /// `read`, unless something was wrong.
    ///
    /// # Errors
    /// All that was.
    pub fn unless<T>(self, read: T) -> Result<T, Vec<FieldError>> {
        if self.0.is_empty() { Ok(read) } else { Err(self.0) }
    }

    /// All that was wrong.
    pub fn found(self) -> Vec<FieldError> {
        self.0
    }

    /// Something is wrong at `pointer`.
    pub fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError::new(pointer, detail));
    }

    /// The fields of `object` that are not known: what they say would be dropped in silence.
    pub fn unknown(&mut self, at: &str, object: &Map<String, Value>, known: &[&str]) {
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            self.add(format!("{at}/{}", escape(name)), format!("unknown: known are {}", known.join(", ")));
        }
    }

    /// The field `layout`.
    pub fn layout(&mut self, value: Option<&Value>) -> Option<Layout> {
        let layout = match value {
            None => Err("missing".to_owned()),
            Some(Value::String(text)) => text.parse().map_err(|error| format!("{error}")),
            Some(_) => Err("a string is wanted".to_owned()),
        };
        layout.map_err(|detail| self.add("/layout", detail)).ok()
    }

    /// The field `instance`, with fields that an instance has.
    fn fields<'a>(&mut self, value: Option<&'a Value>) -> Option<&'a Map<String, Value>> {
        let Some(value) = value else {
            self.add("/instance", "missing");
            return None;
        };
        let Some(object) = value.as_object() else {
            self.add("/instance", "an object is wanted");
            return None;
        };
        self.unknown("/instance", object, &["id", "name", "version", "metadata", "endpoints"]);
        Some(object)
    }

    /// The field `instance` of an edit: what is left out stays as it is, and `null` would not say what is to become.
    pub fn edit(&mut self, value: Option<&Value>) -> InstanceEdit {
        let Some(object) = self.fields(value) else { return InstanceEdit::default() };
        for name in ["metadata", "endpoints"] {
            if object.get(name).is_some_and(Value::is_null) {
                self.add(format!("/instance/{name}"), "null says nothing here: leave it out to keep what stands");
            }
        }
        let mut text = |name: &str| {
            let given = object.get(name);
            given.map(|value| self.text(&format!("/instance/{name}"), Some(value)))
        };
        let (id, name, version) = (text("id"), text("name"), text("version"));
        let given = |name: &str| object.get(name).filter(|value| !value.is_null());
        let metadata = given("metadata").map(|value| self.metadata(Some(value)));
        let endpoints = given("endpoints").map(|value| self.endpoints(Some(value)));
        InstanceEdit { id, name, version, metadata, endpoints }
    }

    /// The field `instance` of a registration.
    pub fn instance(&mut self, value: Option<&Value>) -> Option<InstanceDraft> {
        let object = self.fields(value)?;
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

    /// A string at `pointer`.
    pub fn text(&mut self, pointer: &str, value: Option<&Value>) -> String {
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

    /// The field `ttl_s`; `Some(None)` for `null`: a permanent key.
    #[expect(clippy::option_option, reason = "null is an answer of its own here")]
    pub fn ttl_s(&mut self, value: Option<&Value>) -> Option<Option<i64>> {
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

    /// The field `keep_alive`, which must stand beside a TTL.
    #[expect(clippy::option_option, reason = "null is an answer of its own here")]
    pub fn keep_alive(&mut self, value: Option<&Value>, ttl_s: Option<Option<i64>>) -> Option<KeepAlive> {
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
