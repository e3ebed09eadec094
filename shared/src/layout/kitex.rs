//! Kitex and Hertz: `{prefix}{service}/{address}` holds `{"network","address","weight","tags"}`.
//!
//! See <https://github.com/kitex-contrib/registry-etcd> and <https://github.com/hertz-contrib/registry/tree/main/etcd>.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    FieldError,
    check::EndpointRule,
    codec::{Codec, Place, Reading, Rules},
    edit::{Edits, string},
    go_json::{self, Write, Writer},
};
use crate::instance::ServiceInstance;

/// The weight that both frameworks take where none was set, or one of 0 or less.
const WEIGHT: i64 = 10;

/// Where the weight is shown in the metadata: beside the tags, where no tag has that name, and only where it is another
/// one than [`WEIGHT`].
const WEIGHT_NAME: &str = "weight";

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

/// The metadata without the weight, and the weight; `None` for one that both frameworks would not read as it stands.
fn part(metadata: &BTreeMap<String, String>) -> (BTreeMap<String, String>, Option<i64>) {
    let mut tags = metadata.clone();
    let weight = match tags.remove(WEIGHT_NAME) {
        None => Some(WEIGHT),
        Some(text) => text.parse::<i64>().ok().filter(|weight| *weight > 0 && weight.to_string() == text),
    };
    (tags, weight)
}

/// Whether what stands as the weight in the metadata is a tag that somebody named so.
fn is_tagged(value: &[u8]) -> bool {
    Native::read(value).is_ok_and(|native| native.tags.is_some_and(|tags| tags.contains_key(WEIGHT_NAME)))
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
        let mut metadata = native.tags.unwrap_or_default();
        if native.weight > 0 && native.weight != WEIGHT {
            metadata.entry(WEIGHT_NAME.to_owned()).or_insert_with(|| native.weight.to_string());
        }
        let instance = ServiceInstance {
            id: place.id.to_owned(),
            name: place.service.to_owned(),
            version: String::new(),
            metadata,
            endpoints: vec![native.address],
        };
        Ok(Reading { instance, warnings })
    }

    fn write(&self, instance: &ServiceInstance) -> String {
        // What is no weight, or would not be shown as one, is a tag like any other.
        let (tags, weight) = match part(&instance.metadata) {
            (tags, Some(weight)) if weight != WEIGHT => (tags, weight),
            _ => (instance.metadata.clone(), WEIGHT),
        };
        let native = Native {
            network: "tcp".to_owned(),
            address: instance.endpoints.first().cloned().unwrap_or_default(),
            weight,
            tags: (!tags.is_empty()).then_some(tags),
        };
        match self {
            Self::Kitex => Writer::go().write(&native),
            Self::Hertz => Writer::sonic().write(&native),
        }
    }

    /// A weight of 10 reads as none.
    fn settle<'a>(&self, value: &[u8], edited: &'a ServiceInstance) -> Cow<'a, ServiceInstance> {
        let weight = edited.metadata.get(WEIGHT_NAME);
        if weight.is_none_or(|weight| *weight != WEIGHT.to_string()) || is_tagged(value) {
            return Cow::Borrowed(edited);
        }
        let mut settled = edited.clone();
        settled.metadata.remove(WEIGHT_NAME);
        Cow::Owned(settled)
    }

    /// A weight of 0, which drains an instance elsewhere, does not do so here: whoever asks for it must not believe that
    /// it did.
    fn check_edit(&self, value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Option<FieldError> {
        let weight = edited.metadata.get(WEIGHT_NAME).filter(|text| before.metadata.get(WEIGHT_NAME) != Some(text))?;
        let detail = if weight.trim().parse::<f64>().is_ok_and(|weight| weight <= 0.0) {
            format!("a weight of 0 or less reads as {WEIGHT} in this layout: it takes no calls away")
        } else if part(&edited.metadata).1.is_none() && !is_tagged(value) {
            format!("a weight is a whole number of 1 or more; without one it is {WEIGHT}")
        } else {
            return None;
        };
        Some(FieldError::new("/instance/metadata/weight", detail))
    }

    fn edit(&self, value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Result<Edits, String> {
        let root = go_json::object(value)?;
        let mut edits = Edits::default();
        if let ([address], true) = (&*edited.endpoints, before.endpoints != edited.endpoints) {
            edits.set(&root, "address", address);
        }
        if is_tagged(value) {
            edits.set_map(&root, "tags", &before.metadata, &edited.metadata, string);
            return Ok(edits);
        }
        let ((tags_before, weight_before), (tags, weight)) = (part(&before.metadata), part(&edited.metadata));
        if let Some(weight) = weight.filter(|_| weight != weight_before) {
            edits.set(&root, "weight", &weight);
        }
        edits.set_map(&root, "tags", &tags_before, &tags, string);
        Ok(edits)
    }
}
