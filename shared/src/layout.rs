//! The layouts: how each framework writes an instance into etcd. Dispatch only; one codec a file below `layout/`.
//!
//! Decoding is total: whatever stands under a key becomes a row. Encoding writes what the framework's own program
//! would have written, to the byte, and an edit touches the bytes of the edited fields and no others.

mod check;
mod codec;
mod edit;
mod go_json;
mod go_kit;
mod go_micro;
mod go_zero;
mod grpc;
mod kitex;
mod kratos;
mod opaque;
mod plain;

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use self::codec::Codec as _;
use crate::{
    instance::{KeyPrefix, ServiceInstance},
    record::Decoded,
};

/// How a framework writes an instance into etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// go-kratos.
    Kratos,
    /// go-micro v2 to v5.
    GoMicro,
    /// go-kit's `sd/etcdv3`.
    GoKit,
    /// etcd's own gRPC naming.
    Grpc,
    /// go-zero.
    GoZero,
    /// Kitex.
    Kitex,
    /// Hertz.
    Hertz,
    /// Hand-written clients: a bare address or a small JSON object.
    Plain,
}

/// What is wrong with one part of a request, as RFC 6901 points at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Such as `/instance/name`.
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl FieldError {
    /// An error at `pointer`.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// What a layout has a place for, beside names, ids and endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Carries {
    /// Whether it has a place for a version.
    pub version: bool,
    /// Whether it has a place for metadata.
    pub metadata: bool,
    /// Whether its id is its address, so that neither can be chosen without the other.
    pub id_is_address: bool,
    /// Whether it has a place for more than one endpoint, each a URL.
    pub urls: bool,
}

/// A key and value, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedEntry {
    /// The service the key counts for.
    pub service: String,
    /// What the value says.
    pub decoded: Decoded,
    /// What is odd about it.
    pub warning: Option<String>,
}

/// Text that names no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a layout is one of kratos, go-micro, go-kit, grpc, go-zero, kitex, hertz, plain")]
pub struct LayoutError;

impl Layout {
    /// Every layout.
    pub const ALL: [Self; 8] =
        [Self::Kratos, Self::GoMicro, Self::GoKit, Self::Grpc, Self::GoZero, Self::Kitex, Self::Hertz, Self::Plain];

    /// The layout's name in flags and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kratos => "kratos",
            Self::GoMicro => "go-micro",
            Self::GoKit => "go-kit",
            Self::Grpc => "grpc",
            Self::GoZero => "go-zero",
            Self::Kitex => "kitex",
            Self::Hertz => "hertz",
            Self::Plain => "plain",
        }
    }

    fn codec(self) -> &'static dyn codec::Codec {
        match self {
            Self::Kratos => &kratos::Kratos,
            Self::GoMicro => &go_micro::GoMicro,
            Self::GoKit => &go_kit::GoKit,
            Self::Grpc => &grpc::Grpc,
            Self::GoZero => &go_zero::GoZero,
            Self::Kitex => &kitex::Kitex::Kitex,
            Self::Hertz => &kitex::Kitex::Hertz,
            Self::Plain => &plain::Plain,
        }
    }

    /// The prefix below which every instance of `service` stands, where the registry's is `prefix`; `None` where there is
    /// none narrower than `prefix` itself, so that all of it has to be read. It may hold other services' keys too, whose
    /// names begin with this one's and a `/`.
    pub fn service_prefix(self, prefix: &KeyPrefix, service: &str) -> Option<KeyPrefix> {
        let segment: Cow<'_, str> = match self {
            // One key a service, or one an instance.
            Self::Plain => return None,
            // go-micro's own keys hold no other slash.
            Self::GoMicro => service.replace('/', "-").into(),
            _ if self.rules().prefix_names_service && service == prefix.without_slash() => return None,
            _ => service.into(),
        };
        KeyPrefix::new(&format!("{prefix}{segment}/")).ok()
    }

    /// Decodes the value under `key`, a key below `prefix`. Never fails.
    pub fn decode(self, prefix: &KeyPrefix, key: &str, value: &[u8]) -> DecodedEntry {
        codec::decode(self.codec(), prefix, key, value)
    }

    /// The key and value that register `instance` below `prefix`.
    ///
    /// # Errors
    /// All that this layout cannot carry or that would make no sound key, each with a pointer from `/instance`.
    pub fn encode(self, prefix: &KeyPrefix, instance: &ServiceInstance) -> Result<(String, Vec<u8>), Vec<FieldError>> {
        // Each by its own type: who only encodes, as the page does, carries no code that decodes.
        match self {
            Self::Kratos => codec::encode(&kratos::Kratos, prefix, instance),
            Self::GoMicro => codec::encode(&go_micro::GoMicro, prefix, instance),
            Self::GoKit => codec::encode(&go_kit::GoKit, prefix, instance),
            Self::Grpc => codec::encode(&grpc::Grpc, prefix, instance),
            Self::GoZero => codec::encode(&go_zero::GoZero, prefix, instance),
            Self::Kitex => codec::encode(&kitex::Kitex::Kitex, prefix, instance),
            Self::Hertz => codec::encode(&kitex::Kitex::Hertz, prefix, instance),
            Self::Plain => codec::encode(&plain::Plain, prefix, instance),
        }
    }

    /// As [`Layout::encode`], and names and ids may hold `/` where the framework lets them: in kratos, whose keys then have
    /// more segments, and in go-micro, whose keys have `-` instead. Callers on grpc-go reach such a service in Rust only with
    /// `grpc.WithAuthority`: they make an `:authority` with `%2F` of its name, which HTTP/2 refuses here.
    ///
    /// # Errors
    /// As [`Layout::encode`] has.
    pub fn encode_nested(
        self,
        prefix: &KeyPrefix,
        instance: &ServiceInstance,
    ) -> Result<(String, Vec<u8>), Vec<FieldError>> {
        let dashed = |text: &str| text.replace('/', "-");
        let ServiceInstance { name, id, .. } = instance;
        let key = match self {
            Self::Kratos => format!("{prefix}{name}/{id}"),
            Self::GoMicro => format!("{prefix}{}/{}", dashed(name), dashed(id)),
            _ => return self.encode(prefix, instance),
        };
        let errors = check::nested(self.rules(), prefix, instance);
        if errors.is_empty() { Ok((key, self.codec().write(instance).into_bytes())) } else { Err(errors) }
    }

    fn rules(self) -> codec::Rules {
        // Each by its own type, as in `encode`.
        match self {
            Self::Kratos => kratos::Kratos.rules(),
            Self::GoMicro => go_micro::GoMicro.rules(),
            Self::GoKit => go_kit::GoKit.rules(),
            Self::Grpc => grpc::Grpc.rules(),
            Self::GoZero => go_zero::GoZero.rules(),
            Self::Kitex => kitex::Kitex::Kitex.rules(),
            Self::Hertz => kitex::Kitex::Hertz.rules(),
            Self::Plain => plain::Plain.rules(),
        }
    }

    /// What this layout has a place for.
    pub fn carries(self) -> Carries {
        let rules = self.rules();
        Carries {
            version: rules.version,
            metadata: rules.metadata,
            id_is_address: rules.endpoints == check::EndpointRule::Address,
            urls: rules.endpoints == check::EndpointRule::Urls,
        }
    }

    /// All that keeps `instance` from being registered below `prefix`: what [`Layout::encode`] would refuse, for who does
    /// not write it.
    pub fn check(self, prefix: &KeyPrefix, instance: &ServiceInstance) -> Vec<FieldError> {
        check::instance(self.rules(), prefix, instance)
    }

    /// All that keeps `before` from becoming `edited`, as far as that can be told without the value's bytes.
    pub fn check_edit(self, before: &ServiceInstance, edited: &ServiceInstance) -> Vec<FieldError> {
        check::edit(self.rules(), before, edited)
    }

    /// `value` with the fields that differ between what it decodes to and `edited` written anew, and every other byte
    /// as it was.
    ///
    /// # Errors
    /// Where the value does not decode, or the edit changes what the key is made of or what this layout cannot carry.
    pub fn edit(
        self,
        prefix: &KeyPrefix,
        key: &str,
        value: &[u8],
        edited: &ServiceInstance,
    ) -> Result<Vec<u8>, Vec<FieldError>> {
        codec::edit(self.codec(), prefix, key, value, edited)
    }

    /// Whether `value` harms those who read it, so that nobody may write it, not even back: a `null` in kratos, which
    /// crashes every running client of a service whose name begins the key.
    pub fn is_poison(self, value: &[u8]) -> bool {
        self == Self::Kratos && value.trim_ascii() == b"null"
    }

    /// The id that an instance gets where none was given: what the framework itself would take, else `fresh`.
    pub fn default_id(self, endpoints: &[String], fresh: impl FnOnce() -> String) -> String {
        match (self, endpoints) {
            (Self::Kitex | Self::Hertz, [address]) => address.clone(),
            _ => fresh(),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Layout {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        Self::ALL.into_iter().find(|layout| layout.as_str() == text).ok_or(LayoutError)
    }
}

#[cfg(test)]
mod tests;
