//! Kitex and Hertz: `{prefix}{service}/{address}` holds `{"network","address","weight","tags"}`.
//!
//! See <https://github.com/kitex-contrib/registry-etcd> and <https://github.com/hertz-contrib/registry/tree/main/etcd>.

use std::collections::BTreeMap;

use super::{
    FieldError,
    check::EndpointRule,
    codec::{Codec, Place, Reading, Rules},
    edit::{Edits, string},
    go_json::{self, Write, Writer},
};
use crate::instance::ServiceInstance;

/// The weight that both frameworks take where none was set.
const WEIGHT: i64 = 10;

/// Who writes: the same fields, by another encoder.
pub(super) enum Kitex {
    /// Kitex, with `encoding/json`.
    Kitex,
    /// Hertz, with sonic.
    Hertz,
}

/// Their `instanceInfo` and `registryInfo`.
#[derive(Debug, PartialEq)]
pub(super) struct Native {
    network: String,
    address: String,
    weight: i64,
    tags: Option<BTreeMap<String, String>>,
}

impl Native {
    pub(super) fn read(value: &[u8]) -> Result<Self, String> {
        let root = go_json::object(value)?;
        Ok(Self {
            network: go_json::text(&root, "network")?,
            address: go_json::text(&root, "address")?,
            weight: go_json::integer(&root, "weight")?,
            tags: go_json::text_map(&root, "tags")?,
        })
    }
}

impl Write for Native {
    fn write(&self, writer: &mut Writer) {
        writer.object(&[
            ("network", &self.network),
            ("address", &self.address),
            ("weight", &self.weight),
            ("tags", &self.tags),
        ]);
    }
}

impl Codec for Kitex {
    fn rules(&self) -> Rules {
        Rules { version: false, metadata: true, endpoints: EndpointRule::Address, prefix_names_service: false }
    }

    fn read(&self, place: &Place<'_>, value: &[u8]) -> Result<Reading, String> {
        let native = Native::read(value)?;
        if native.address.is_empty() {
            return Err("the value has no `address`, and clients would take it for an instance without one".to_owned());
        }
        let mut warnings = Vec::new();
        if native.network.is_empty() {
            warnings.push("the value has no `network`: calls to it fail".to_owned());
        }
        if native.address != place.id {
            warnings.push(format!("the value says {}, which is not what the key says", native.address));
        }
        let instance = ServiceInstance {
            id: place.id.to_owned(),
            name: place.service.to_owned(),
            version: String::new(),
            metadata: native.tags.unwrap_or_default(),
            endpoints: vec![native.address],
        };
        Ok(Reading { instance, warnings })
    }

    fn write(&self, instance: &ServiceInstance) -> String {
        let native = Native {
            network: "tcp".to_owned(),
            address: instance.endpoints.first().cloned().unwrap_or_default(),
            weight: WEIGHT,
            tags: (!instance.metadata.is_empty()).then(|| instance.metadata.clone()),
        };
        match self {
            Self::Kitex => Writer::go().write(&native),
            Self::Hertz => Writer::sonic().write(&native),
        }
    }

    /// A weight of 0, which drains an instance elsewhere, does not do so here: whoever asks for it must not believe that
    /// it did.
    fn check_edit(&self, before: &ServiceInstance, edited: &ServiceInstance) -> Option<FieldError> {
        let weight = edited.metadata.get("weight").filter(|weight| before.metadata.get("weight") != Some(weight))?;
        let drains = weight.trim().parse::<f64>().is_ok_and(|weight| weight <= 0.0);
        drains.then(|| {
            let detail = format!("a weight of 0 or less reads as {WEIGHT} in this layout: it takes no calls away");
            FieldError::new("/instance/metadata/weight", detail)
        })
    }

    fn edit(&self, value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Result<Edits, String> {
        let root = go_json::object(value)?;
        let mut edits = Edits::default();
        if let ([address], true) = (&*edited.endpoints, before.endpoints != edited.endpoints) {
            edits.set(&root, "address", address);
        }
        edits.set_map(&root, "tags", &before.metadata, &edited.metadata, string);
        Ok(edits)
    }
}
