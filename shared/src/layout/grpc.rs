//! etcd's own gRPC naming: `{target}/{anything}` holds `{"Op","Addr","Metadata"}`.
//!
//! See <https://github.com/etcd-io/etcd/tree/main/client/v3/naming>.

use std::collections::BTreeMap;

use super::{
    check::EndpointRule,
    codec::{Codec, Place, Reading, Rules},
    edit::Edits,
    go_json::{self, Verbatim, Write, Writer},
};
use crate::{
    instance::ServiceInstance,
    json::{self, Node, Value},
};

pub(super) struct Grpc;

/// The name under which metadata is shown that has no names of its own.
const METADATA: &str = "Metadata";

/// etcd's `internal.Update`, whose metadata is any JSON there is.
pub(super) struct Native {
    op: i64,
    addr: String,
    metadata: String,
}

impl Native {
    pub(super) fn read(value: &[u8]) -> Result<Self, String> {
        let root = go_json::object(value)?;
        let op = go_json::integer(&root, "Op")?;
        if !(0..=255).contains(&op) {
            return Err(format!("`Op` is {op}, where a number from 0 to 255 belongs"));
        }
        Ok(Self {
            op,
            addr: go_json::text(&root, "Addr")?,
            metadata: metadata(&root).map_or_else(|| "null".to_owned(), |node| json_text(value, node)),
        })
    }
}

impl Write for Native {
    fn write(&self, writer: &mut Writer) {
        writer.object(&[("Op", &self.op), ("Addr", &self.addr), (METADATA, &Verbatim(&self.metadata))]);
    }
}

fn metadata<'n, 'a>(root: &'n Node<'a>) -> Option<&'n Node<'a>> {
    go_json::fields(root, METADATA).next_back().map(|member| &member.node)
}

/// The text of a part as it stands.
fn json_text(value: &[u8], node: &Node<'_>) -> String {
    String::from_utf8_lossy(&value[node.span.clone()]).into_owned()
}

/// A part as it is shown: a string as it is, anything else as its JSON.
fn shown(value: &[u8], node: &Node<'_>) -> String {
    match &node.value {
        Value::Text(text) => text.clone().into_owned(),
        _ => json_text(value, node),
    }
}

/// Writes `text` over `old`: what was no string stays none, where the text allows it.
fn rewrite(old: &Value<'_>, text: &str) -> String {
    let same_kind = !matches!(old, Value::Text(_))
        && json::parse(text.as_bytes())
            .is_ok_and(|node| node.value.kind() == old.kind() && node.span == (0..text.len()));
    if same_kind { text.to_owned() } else { Writer::go().write(&text.to_owned()) }
}

impl Codec for Grpc {
    fn rules(&self) -> Rules {
        Rules { version: false, metadata: true, endpoints: EndpointRule::HostPort, prefix_names_service: true }
    }

    fn read(&self, place: &Place<'_>, value: &[u8]) -> Result<Reading, String> {
        let root = go_json::object(value)?;
        let native = Native::read(value)?;
        if native.addr.is_empty() {
            return Err("the value has no `Addr`, so there is nothing to call".to_owned());
        }
        let mut warnings = Vec::new();
        if native.op != 0 {
            warnings.push(format!("`Op` is {}; etcd's naming reader ignores Op: it is listed and called", native.op));
        }
        let metadata = match metadata(&root) {
            None => BTreeMap::new(),
            Some(node) => match &node.value {
                Value::Null => BTreeMap::new(),
                Value::Object(members) => members
                    .iter()
                    .map(|member| (member.name.clone().into_owned(), shown(value, &member.node)))
                    .collect(),
                _ => BTreeMap::from([(METADATA.to_owned(), shown(value, node))]),
            },
        };
        let instance = ServiceInstance {
            id: place.id.to_owned(),
            name: place.service.to_owned(),
            version: String::new(),
            metadata,
            endpoints: vec![native.addr],
        };
        Ok(Reading { instance, warnings })
    }

    fn write(&self, instance: &ServiceInstance) -> String {
        let metadata = (!instance.metadata.is_empty()).then(|| instance.metadata.clone());
        Writer::go().write(&Native {
            op: 0,
            addr: instance.endpoints.first().cloned().unwrap_or_default(),
            metadata: Writer::go().write(&metadata),
        })
    }

    fn edit(&self, value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Result<Edits, String> {
        let root = go_json::object(value)?;
        let mut edits = Edits::default();
        if let ([address], true) = (&*edited.endpoints, before.endpoints != edited.endpoints) {
            edits.set(&root, "Addr", address);
        }
        match metadata(&root) {
            Some(node) if !matches!(node.value, Value::Null | Value::Object(_)) => {
                if before.metadata != edited.metadata {
                    let text = match edited.metadata.get(METADATA) {
                        Some(text) if edited.metadata.len() == 1 => rewrite(&node.value, text),
                        None if edited.metadata.is_empty() => "null".to_owned(),
                        _ => Writer::go().write(&edited.metadata),
                    };
                    edits.replace(node.span.clone(), text);
                }
            }
            _ => edits.set_map(&root, METADATA, &before.metadata, &edited.metadata, rewrite),
        }
        Ok(edits)
    }
}
