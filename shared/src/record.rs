//! One key of the registry, decoded or shown as it is. Knows nothing of how a layout decodes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    instance::{LeaseId, Revision, ServiceInstance},
    layout::Layout,
};

/// One key of the registry as it stands in etcd at `mod_revision`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Record {
    /// The key. Bytes that are no UTF-8 stand as `\xNN`; such a key is shown and never written.
    pub key: String,
    /// The source that watches it: its prefix.
    pub source: String,
    /// How its value is written.
    pub layout: Layout,
    /// The service it counts for: the value's name where it decodes, else what the key says.
    pub service: String,
    /// The lease it lives on; `None` for a permanent key.
    pub lease: Option<LeaseId>,
    /// The revision at which the key came to be.
    pub create_revision: Revision,
    /// The revision of its last change: what a delete or an edit compares.
    pub mod_revision: Revision,
    /// What the value says.
    pub decoded: Decoded,
    /// What is odd about a value that decodes, such as that it disagrees with its key.
    pub warning: Option<String>,
}

impl Record {
    /// The instance, where the value decodes.
    pub fn instance(&self) -> Option<&ServiceInstance> {
        match &self.decoded {
            Decoded::Instance(instance) => Some(instance),
            Decoded::Malformed { .. } => None,
        }
    }
}

/// What became of a value. Decoding never fails: what is malformed is a row that says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// The value holds an instance.
    Instance(ServiceInstance),
    /// It does not.
    Malformed {
        /// Why not, in a sentence for people.
        why: String,
        /// The value as it stands.
        raw: Raw,
    },
}

/// A value shown as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// It is UTF-8.
    Text(String),
    /// It is not.
    Bytes(Vec<u8>),
}

impl From<&[u8]> for Raw {
    fn from(value: &[u8]) -> Self {
        match str::from_utf8(value) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(value.to_vec()),
        }
    }
}

/// The record as JSON has it: `"instance":{…}`, or `"instance":null,"malformed":"why","raw":"…"`.
#[derive(Serialize, Deserialize)]
struct Wire {
    key: String,
    source: String,
    layout: Layout,
    service: String,
    lease: Option<LeaseId>,
    create_revision: Revision,
    mod_revision: Revision,
    instance: Option<ServiceInstance>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    malformed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl From<Record> for Wire {
    fn from(record: Record) -> Self {
        let (instance, malformed, raw, raw_base64) = match record.decoded {
            Decoded::Instance(instance) => (Some(instance), None, None, None),
            Decoded::Malformed { why, raw: Raw::Text(text) } => (None, Some(why), Some(text), None),
            Decoded::Malformed { why, raw: Raw::Bytes(bytes) } => (None, Some(why), None, Some(STANDARD.encode(bytes))),
        };
        Self {
            key: record.key,
            source: record.source,
            layout: record.layout,
            service: record.service,
            lease: record.lease,
            create_revision: record.create_revision,
            mod_revision: record.mod_revision,
            instance,
            malformed,
            raw,
            raw_base64,
            warning: record.warning,
        }
    }
}

impl From<Wire> for Record {
    fn from(wire: Wire) -> Self {
        let decoded = match wire.instance {
            Some(instance) => Decoded::Instance(instance),
            None => Decoded::Malformed {
                why: wire.malformed.unwrap_or_default(),
                raw: match wire.raw_base64.map(|text| STANDARD.decode(text)) {
                    Some(Ok(bytes)) => Raw::Bytes(bytes),
                    _ => Raw::Text(wire.raw.unwrap_or_default()),
                },
            },
        };
        Self {
            key: wire.key,
            source: wire.source,
            layout: wire.layout,
            service: wire.service,
            lease: wire.lease,
            create_revision: wire.create_revision,
            mod_revision: wire.mod_revision,
            decoded,
            warning: wire.warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(decoded: Decoded) -> Record {
        Record {
            key: "/microservices/helloworld/8fc08b88".into(),
            source: "/microservices/".into(),
            layout: Layout::Kratos,
            service: "helloworld".into(),
            lease: LeaseId::from_etcd(0x694d_8141_7acd_4a0e),
            create_revision: 12,
            mod_revision: 12,
            decoded,
            warning: None,
        }
    }

    #[test]
    fn an_instance_reads_as_the_contract_shows_it() {
        let instance = ServiceInstance {
            id: "8fc08b88".into(),
            name: "helloworld".into(),
            endpoints: vec!["http://192.168.56.1:8080".into()],
            ..ServiceInstance::default()
        };
        let record = record(Decoded::Instance(instance));
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"key":"/microservices/helloworld/8fc08b88","source":"/microservices/","layout":"kratos","#,
                r#""service":"helloworld","lease":"694d81417acd4a0e","create_revision":12,"mod_revision":12,"#,
                r#""instance":{"id":"8fc08b88","name":"helloworld","version":"","metadata":{},"#,
                r#""endpoints":["http://192.168.56.1:8080"]}}"#
            )
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn a_malformed_value_keeps_its_row_and_its_bytes() {
        for (value, field) in
            [(&b"{"[..], r#""malformed":"why","raw":"{""#), (b"\xff", r#""malformed":"why","raw_base64":"/w==""#)]
        {
            let record = record(Decoded::Malformed { why: "why".into(), raw: Raw::from(value) });
            let text = serde_json::to_string(&record).unwrap();
            assert!(text.contains(r#""instance":null"#) && text.contains(field), "{text}");
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }
    }
}
