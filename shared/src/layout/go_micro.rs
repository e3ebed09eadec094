//! go-micro v2 to v5: `{prefix}{service}/{node}`, `/` made `-` in both, holds the service with its one node.
//!
//! See <https://github.com/micro/go-micro/tree/master/registry>.

use std::collections::BTreeMap;

use super::{
    check::EndpointRule,
    codec::{Codec, Place, Reading, Rules},
    edit::{Edits, string},
    go_json::{self, Write, Writer},
};
use crate::{
    instance::ServiceInstance,
    json::{Node as JsonNode, Value as Json},
};

pub(super) struct GoMicro;

/// The order of a node's and an endpoint's fields, which v4.10.2 changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Up to v4.10.1: `id,address,metadata` and `name,request,response,metadata`.
    NameFirst,
    /// From v4.10.2: `metadata,id,address` and `request,response,metadata,name`.
    NameLast,
}

/// go-micro's `registry.Service`.
#[derive(Debug, PartialEq)]
pub(super) struct Service {
    name: String,
    version: String,
    metadata: Option<BTreeMap<String, String>>,
    endpoints: Option<Vec<Option<Endpoint>>>,
    nodes: Option<Vec<Option<Node>>>,
}

/// go-micro's `registry.Endpoint`: a method of the service, not an address.
#[derive(Debug, PartialEq)]
struct Endpoint {
    order: Order,
    name: String,
    request: Option<Value>,
    response: Option<Value>,
    metadata: Option<BTreeMap<String, String>>,
}

/// go-micro's `registry.Value`: a message, or a field of one.
#[derive(Debug, PartialEq)]
struct Value {
    name: String,
    kind: String,
    values: Option<Vec<Option<Value>>>,
}

/// go-micro's `registry.Node`.
#[derive(Debug, PartialEq)]
struct Node {
    order: Order,
    id: String,
    address: String,
    metadata: Option<BTreeMap<String, String>>,
}

/// The order of the fields of `object`: whether `first` comes before `other`.
fn order(object: &JsonNode<'_>, name: &str, other: &str) -> Order {
    let start = |field| go_json::fields(object, field).next().map_or(usize::MAX, |member| member.start);
    if start(name) < start(other) { Order::NameFirst } else { Order::NameLast }
}

impl Service {
    pub(super) fn read(value: &[u8]) -> Result<Self, String> {
        let root = go_json::object(value)?;
        Ok(Self {
            name: go_json::text(&root, "name")?,
            version: go_json::text(&root, "version")?,
            metadata: go_json::text_map(&root, "metadata")?,
            endpoints: go_json::list(&root, "endpoints", |node| go_json::pointer("endpoints", node, Endpoint::read))?,
            nodes: go_json::list(&root, "nodes", |node| go_json::pointer("nodes", node, Node::read))?,
        })
    }
}

impl Endpoint {
    fn read(object: &JsonNode<'_>) -> Result<Self, String> {
        let value = |name| match go_json::fields(object, name).next_back() {
            Some(member) => go_json::pointer(name, &member.node, Value::read),
            None => Ok(None),
        };
        Ok(Self {
            order: order(object, "name", "request"),
            name: go_json::text(object, "name")?,
            request: value("request")?,
            response: value("response")?,
            metadata: go_json::text_map(object, "metadata")?,
        })
    }
}

impl Value {
    fn read(object: &JsonNode<'_>) -> Result<Self, String> {
        Ok(Self {
            name: go_json::text(object, "name")?,
            kind: go_json::text(object, "type")?,
            values: go_json::list(object, "values", |node| go_json::pointer("values", node, Self::read))?,
        })
    }
}

impl Node {
    fn read(object: &JsonNode<'_>) -> Result<Self, String> {
        Ok(Self {
            order: order(object, "id", "metadata"),
            id: go_json::text(object, "id")?,
            address: go_json::text(object, "address")?,
            metadata: go_json::text_map(object, "metadata")?,
        })
    }
}

impl Write for Service {
    fn write(&self, writer: &mut Writer) {
        writer.object(&[
            ("name", &self.name),
            ("version", &self.version),
            ("metadata", &self.metadata),
            ("endpoints", &self.endpoints),
            ("nodes", &self.nodes),
        ]);
    }
}

impl Write for Endpoint {
    fn write(&self, writer: &mut Writer) {
        let name: (&str, &dyn Write) = ("name", &self.name);
        let rest: [(&str, &dyn Write); 3] =
            [("request", &self.request), ("response", &self.response), ("metadata", &self.metadata)];
        match self.order {
            Order::NameFirst => writer.object(&[name, rest[0], rest[1], rest[2]]),
            Order::NameLast => writer.object(&[rest[0], rest[1], rest[2], name]),
        }
    }
}

impl Write for Value {
    fn write(&self, writer: &mut Writer) {
        writer.object(&[("name", &self.name), ("type", &self.kind), ("values", &self.values)]);
    }
}

impl Write for Node {
    fn write(&self, writer: &mut Writer) {
        let (id, address): ((&str, &dyn Write), (&str, &dyn Write)) = (("id", &self.id), ("address", &self.address));
        let metadata: (&str, &dyn Write) = ("metadata", &self.metadata);
        match self.order {
            Order::NameFirst => writer.object(&[id, address, metadata]),
            Order::NameLast => writer.object(&[metadata, id, address]),
        }
    }
}

impl Codec for GoMicro {
    fn rules(&self) -> Rules {
        Rules { version: true, metadata: true, endpoints: EndpointRule::HostPort, prefix_names_service: false }
    }

    fn read(&self, place: &Place<'_>, value: &[u8]) -> Result<Reading, String> {
        let service = Service::read(value)?;
        if service.name.is_empty() {
            return Err("the value has no `name`, so it belongs to no service".to_owned());
        }
        let nodes = service.nodes.unwrap_or_default();
        let count = nodes.len();
        let Some(node) = nodes.into_iter().next() else {
            return Err("the service has no node, so there is no instance".to_owned());
        };
        let Some(node) = node else { return Err("the service's node is `null`".to_owned()) };
        let mut warnings = Vec::new();
        if count > 1 {
            warnings.push(format!("the value holds {count} nodes; shown is the first"));
        }
        let id = if node.id.is_empty() {
            warnings.push("the node has no `id`; shown is the key's last segment".to_owned());
            place.id.to_owned()
        } else {
            node.id
        };
        if node.address.is_empty() {
            warnings.push("the node has no `address`".to_owned());
        }
        let dashed = |text: &str| text.replace('/', "-");
        if place.key != format!("{}{}/{}", place.prefix, dashed(&service.name), dashed(&id)) {
            warnings.push(format!("the value says {}/{id}, which is not what the key says", service.name));
        }
        let instance = ServiceInstance {
            id,
            name: service.name,
            version: service.version,
            metadata: node.metadata.unwrap_or_default(),
            endpoints: if node.address.is_empty() { Vec::new() } else { vec![node.address] },
        };
        Ok(Reading { instance, warnings })
    }

    fn write(&self, instance: &ServiceInstance) -> String {
        let ServiceInstance { id, name, version, metadata, endpoints } = instance.clone();
        let address = endpoints.into_iter().next().unwrap_or_default();
        let node = Node { order: Order::NameLast, id, address, metadata: Some(metadata) };
        Writer::go().write(&Service {
            name,
            version,
            metadata: None,
            endpoints: Some(Vec::new()),
            nodes: Some(vec![Some(node)]),
        })
    }

    fn edit(&self, value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Result<Edits, String> {
        let root = go_json::object(value)?;
        let mut edits = Edits::default();
        if before.version != edited.version {
            edits.set(&root, "version", &edited.version);
        }
        let node = go_json::fields(&root, "nodes").next_back().and_then(|member| match &member.node.value {
            Json::List(nodes) => nodes.first(),
            _ => None,
        });
        let node = node.ok_or("the service has no node")?;
        if let ([address], true) = (&*edited.endpoints, before.endpoints != edited.endpoints) {
            edits.set(node, "address", address);
        }
        edits.set_map(node, "metadata", &before.metadata, &edited.metadata, string);
        Ok(edits)
    }
}
