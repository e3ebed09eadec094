//! go-kratos: `{prefix}{name}/{id}` holds `{"id","name","version","metadata","endpoints"}`.
//!
//! See <https://github.com/go-kratos/kratos/tree/main/contrib/registry/etcd>.

use std::collections::BTreeMap;

use super::{
    Layout,
    check::EndpointRule,
    codec::{Codec, Place, Reading, Rules},
    edit::{Edits, string},
    go_json::{self, Write, Writer},
};
use crate::{instance::ServiceInstance, json::Node};

pub(super) struct Kratos;

/// kratos' `registry.ServiceInstance`, in which Go tells nil from empty.
#[derive(Debug, PartialEq)]
pub(super) struct Native {
    id: String,
    name: String,
    version: String,
    metadata: Option<BTreeMap<String, String>>,
    endpoints: Option<Vec<String>>,
}

impl Native {
    pub(super) fn read(value: &[u8]) -> Result<Self, String> {
        Self::from_node(&go_json::object(value)?)
    }

    fn from_node(node: &Node<'_>) -> Result<Self, String> {
        Ok(Self {
            id: go_json::text(node, "id")?,
            name: go_json::text(node, "name")?,
            version: go_json::text(node, "version")?,
            metadata: go_json::text_map(node, "metadata")?,
            endpoints: go_json::text_list(node, "endpoints")?,
        })
    }
}

impl Write for Native {
    fn write(&self, writer: &mut Writer) {
        writer.object(&[
            ("id", &self.id),
            ("name", &self.name),
            ("version", &self.version),
            ("metadata", &self.metadata),
            ("endpoints", &self.endpoints),
        ]);
    }
}

impl Codec for Kratos {
    fn rules(&self) -> Rules {
        Rules { version: true, metadata: true, endpoints: EndpointRule::Urls, prefix_names_service: false }
    }

    fn read(&self, place: &Place<'_>, value: &[u8]) -> Result<Reading, String> {
        if Layout::Kratos.is_poison(value) {
            return Err("`null` crashes every running kratos client of a service whose name begins this key: \
                        delete it"
                .to_owned());
        }
        let native = Native::read(value)?;
        if native.name.is_empty() {
            return Err("the value has no `name`, so it belongs to no service".to_owned());
        }
        let mut warnings = Vec::new();
        let id = if native.id.is_empty() {
            warnings.push("the value has no `id`; shown is the key's last segment".to_owned());
            place.id.to_owned()
        } else {
            native.id
        };
        if place.key != format!("{}{}/{id}", place.prefix, native.name) {
            warnings.push(format!("the value says {}/{id}, which is not what the key says", native.name));
        }
        let instance = ServiceInstance {
            id,
            name: native.name,
            version: native.version,
            metadata: native.metadata.unwrap_or_default(),
            endpoints: native.endpoints.unwrap_or_default(),
        };
        Ok(Reading { instance, warnings })
    }

    fn write(&self, instance: &ServiceInstance) -> String {
        let ServiceInstance { id, name, version, metadata, endpoints } = instance.clone();
        Writer::go().write(&Native { id, name, version, metadata: Some(metadata), endpoints: Some(endpoints) })
    }

    fn edit(&self, value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Result<Edits, String> {
        let root = go_json::object(value)?;
        let mut edits = Edits::default();
        if before.version != edited.version {
            edits.set(&root, "version", &edited.version);
        }
        edits.set_map(&root, "metadata", &before.metadata, &edited.metadata, string);
        if before.endpoints != edited.endpoints {
            edits.set(&root, "endpoints", &edited.endpoints);
        }
        Ok(edits)
    }
}
