//! The face for JavaScript: everything that decides, without a line of transport.
//!
//! Owns: what the scripts of the npm package, in `npm/`, call. They own `fetch`, timers, promises and iterators, each as
//! the place they run in has it. Must not know: whether that is a page, a worker or Node.
//!
//! What fails is thrown as text, which the scripts make an error of.
#![expect(clippy::needless_pass_by_value, reason = "JavaScript hands lists over, and lends none")]

use std::collections::BTreeMap;

use js_sys::Array;
use rollcall_shared::{
    KeyPrefix, Layout, LeaseId, ServiceInstance,
    api::{BODY_BYTES_MAX, InstanceDraft, KeepAlive, RegisterRequest, TTL_S_MAX, TTL_S_MIN},
    layout::{FieldError, LayoutError},
};
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};

use crate::{
    Client, acts, encode,
    line::{Line, Names, SILENCE_MS_MAX, Told},
};

/// Where everything is asked for.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Addresses(Client);

#[wasm_bindgen]
impl Addresses {
    /// The addresses of the server whose root, or base path, is at `base`.
    #[wasm_bindgen(constructor)]
    pub fn new(base: &str) -> Self {
        Self(Client::new(base))
    }

    /// Of `GET /services`.
    pub fn services(&self) -> String {
        self.0.address("/services", &[])
    }

    /// Of `GET /services/{service}`.
    pub fn service(&self, name: &str) -> String {
        self.0.address(&["/services/", &encode(name)].concat(), &[])
    }

    /// Of `/instances`, with a query of names and values in turn.
    pub fn instances(&self, query: Vec<String>) -> String {
        self.0.address("/instances", &pairs(&query))
    }

    /// Of `GET /instances/raw`.
    pub fn raw(&self, key: &str) -> String {
        self.0.address("/instances/raw", &[("key", key)])
    }

    /// Of `/leases/{id}`, with a query of names and values in turn. Throws where `lease` is none.
    pub fn lease(&self, lease: &str, query: Vec<String>) -> Result<String, JsValue> {
        Ok(self.0.address(&["/leases/", &id(lease)?].concat(), &pairs(&query)))
    }

    /// Of `POST /leases/{id}/keepalive`. Throws where `lease` is none.
    #[wasm_bindgen(js_name = keepAlive)]
    pub fn keep_alive(&self, lease: &str) -> Result<String, JsValue> {
        Ok(self.0.address(&["/leases/", &id(lease)?, "/keepalive"].concat(), &[]))
    }

    /// Of `POST /undo/{token}`.
    pub fn undo(&self, token: &str) -> String {
        self.0.address(&["/undo/", &encode(token)].concat(), &[])
    }

    /// The line that tells the events of some services, or of all, from a cursor on where one is given.
    pub fn events(&self, services: Vec<String>, since: Option<String>, ttl: bool) -> EventLine {
        let mut query: Vec<_> = services.iter().map(|service| ("service", service.as_str())).collect();
        query.push(("ttl", if ttl { "1" } else { "0" }));
        EventLine(Line::events(self.0.address("/events", &query), since.filter(|since| !since.is_empty())))
    }

    /// The line that tells all instances of some services at every change: by name, or of one as a list.
    pub fn watch(&self, names: Vec<String>, as_list: bool) -> EventLine {
        let query: Vec<_> = names.iter().map(|name| ("service", name.as_str())).collect();
        let address = self.0.address("/events", &query);
        let names = match names.first() {
            Some(name) if as_list => Names::One(name.clone()),
            _ => Names::Each(names),
        };
        EventLine(Line::services(address, names))
    }
}

/// A line to the stream, through all its connections.
#[wasm_bindgen]
#[derive(Debug)]
pub struct EventLine(Line);

#[wasm_bindgen]
impl EventLine {
    /// Begins a connection, and says where it goes.
    pub fn connect(&mut self) -> String {
        self.0.connect(encode)
    }

    /// Takes what came. Throws where the connection is to be given up.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), JsValue> {
        self.0.push(bytes).map_err(|why| JsValue::from_str(&why.to_string()))
    }

    /// What is to be told next: `[name, JSON, cursor]` of an event, or the JSON of what is watched.
    #[wasm_bindgen(js_name = next)]
    pub fn tell(&mut self) -> JsValue {
        match self.0.next() {
            None => JsValue::UNDEFINED,
            Some(Told::List(list)) => JsValue::from_str(&list),
            Some(Told::Event { kind, data, cursor }) => {
                Array::of3(&kind.into(), &data.into(), &cursor.map_or(JsValue::UNDEFINED, JsValue::from)).into()
            }
        }
    }

    /// How long to wait before the next connection, in milliseconds.
    #[wasm_bindgen(js_name = waitMs)]
    pub fn wait_ms(&mut self) -> f64 {
        self.0.wait_ms(js_sys::Math::random())
    }
}

/// After how long without a byte a line counts as broken, in milliseconds.
#[wasm_bindgen(js_name = silenceMs)]
pub fn silence_ms() -> u32 {
    SILENCE_MS_MAX
}

/// A registration that is being put together. What it takes is of the right type already.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Draft(RegisterRequest);

#[wasm_bindgen]
impl Draft {
    /// One without metadata. `id` may be empty, `ttl_s` is NaN for a permanent key, `keep_alive` is `caller`, `server` or
    /// empty. Throws where there is no such layout.
    #[wasm_bindgen(constructor)]
    pub fn new(
        layout: &str,
        id: String,
        name: String,
        version: String,
        endpoints: Vec<String>,
        ttl_s: f64,
        keep_alive: &str,
    ) -> Result<Self, JsValue> {
        let layout: Layout = layout.parse().map_err(|error: LayoutError| JsValue::from_str(&error.to_string()))?;
        let keep_alive = match keep_alive {
            "caller" => Some(KeepAlive::Caller),
            "server" => Some(KeepAlive::Server),
            _ => None,
        };
        #[expect(clippy::cast_possible_truncation, reason = "what is no whole number is refused before, or clipped")]
        let ttl_s = (!ttl_s.is_nan()).then_some(ttl_s as i64);
        let id = (!id.is_empty()).then_some(id);
        let instance = InstanceDraft { id, name, version, metadata: BTreeMap::new(), endpoints };
        Ok(Self(RegisterRequest { layout, instance, ttl_s, keep_alive }))
    }

    /// What it says of itself.
    pub fn say(&mut self, name: String, value: String) {
        self.0.instance.metadata.insert(name, value);
    }

    /// All that is wrong with it, as a JSON list of what a server would say; empty text where nothing is. Where it has no
    /// id it gets the one that its layout wants, else `fresh`.
    pub fn check(&mut self, fresh: String) -> String {
        let errors = self.errors(fresh);
        if errors.is_empty() { String::new() } else { acts::errors(&errors) }
    }

    /// The body of the request.
    pub fn body(&self) -> String {
        acts::register(&self.0)
    }
}

impl Draft {
    fn errors(&mut self, fresh: String) -> Vec<FieldError> {
        let RegisterRequest { layout, instance: draft, ttl_s, keep_alive } = &mut self.0;
        let id = draft.id.take().unwrap_or_else(|| layout.default_id(&draft.endpoints, || fresh));
        draft.id = Some(id.clone());
        let instance = ServiceInstance {
            id,
            name: draft.name.clone(),
            version: draft.version.clone(),
            metadata: draft.metadata.clone(),
            endpoints: draft.endpoints.clone(),
        };
        // Below which prefix it goes the server knows. Some layouts let that name the service by itself: with this one
        // nothing is refused here that could be taken there.
        let prefix = KeyPrefix::new(&instance.name).or_else(|_| KeyPrefix::new("-")).expect("it names a segment");
        let mut errors = layout.check(&prefix, &instance);
        match (*ttl_s, *keep_alive) {
            (Some(ttl_s), _) if !(TTL_S_MIN..=TTL_S_MAX).contains(&ttl_s) => {
                let detail = "a TTL is from 2 to 9000000000 seconds, or null for a permanent key";
                errors.push(FieldError::new("/ttl_s", detail));
            }
            (None, Some(_)) => {
                errors.push(FieldError::new("/keep_alive", "a permanent key has no lease to renew: leave it out"));
            }
            _ => {}
        }
        if errors.is_empty() && self.body().len() > BODY_BYTES_MAX {
            errors.push(FieldError::new("/instance", "it takes more than the 64 KiB that a request holds"));
        }
        errors
    }
}

fn id(lease: &str) -> Result<String, JsValue> {
    match lease.parse::<LeaseId>() {
        Ok(lease) => Ok(lease.to_string()),
        Err(error) => Err(JsValue::from_str(&error.to_string())),
    }
}

fn pairs(query: &[String]) -> Vec<(&str, &str)> {
    query.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect()
}
