//! What every codec says of its layout, and what all of them have in common.
//!
//! Owns: what a key says, and the order of steps around a codec. Must not know: any one layout.

use std::borrow::Cow;

use super::{
    DecodedEntry, FieldError,
    check::{self, EndpointRule},
    edit::Edits,
};
use crate::{
    instance::{KeyPrefix, ServiceInstance},
    record::{Decoded, Raw},
};

/// What a layout can carry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Whether it has a place for a version.
    pub(super) version: bool,
    /// Whether it has a place for metadata.
    pub(super) metadata: bool,
    /// What its endpoints look like.
    pub(super) endpoints: EndpointRule,
    /// Whether a key right below the prefix counts for a service named like the prefix.
    pub(super) prefix_names_service: bool,
}

/// What a key says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) prefix: &'a KeyPrefix,
    pub(super) key: &'a str,
    /// The service: what stands between the prefix and the last segment.
    pub(super) service: &'a str,
    /// The id: the last segment.
    pub(super) id: &'a str,
}

impl<'a> Place<'a> {
    fn new(rules: Rules, prefix: &'a KeyPrefix, key: &'a str) -> Self {
        let rest = key.strip_prefix(prefix.as_str()).unwrap_or(key);
        let (service, id) = rest.rsplit_once('/').unwrap_or(("", rest));
        let service = match service {
            // A key that is the prefix itself says nothing else either.
            "" if rules.prefix_names_service || rest.is_empty() => prefix.without_slash(),
            "" if id.is_empty() => rest,
            "" => id,
            service => service,
        };
        Self { prefix, key, service, id }
    }
}

/// An instance as a value gives it.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) instance: ServiceInstance,
    /// What is odd about it, a clause each.
    pub(super) warnings: Vec<String>,
}

/// How one layout is read and written.
pub(super) trait Codec {
    /// What it can carry.
    fn rules(&self) -> Rules;

    /// The instance that `value` holds, or why it holds none.
    fn read(&self, place: &Place<'_>, value: &[u8]) -> Result<Reading, String>;

    /// The value that the framework's own program writes for `instance`, which keeps the rules.
    fn write(&self, instance: &ServiceInstance) -> String;

    /// `edited` as a value will read that has been edited to hold it.
    fn settle<'a>(&self, _value: &[u8], edited: &'a ServiceInstance) -> Cow<'a, ServiceInstance> {
        Cow::Borrowed(edited)
    }

    /// What keeps `value`, which holds `before`, from holding `edited` in this layout alone, besides its rules.
    fn check_edit(&self, _value: &[u8], _before: &ServiceInstance, _edited: &ServiceInstance) -> Option<FieldError> {
        None
    }

    /// What to change in `value`, which holds `before`, so that it holds `edited`, which keeps the rules.
    fn edit(&self, value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Result<Edits, String>;
}

pub(super) fn decode(codec: &dyn Codec, prefix: &KeyPrefix, key: &str, value: &[u8]) -> DecodedEntry {
    let place = Place::new(codec.rules(), prefix, key);
    match codec.read(&place, value) {
        Ok(Reading { instance, warnings }) => DecodedEntry {
            service: instance.name.clone(),
            decoded: Decoded::Instance(instance),
            warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
        },
        Err(why) => DecodedEntry {
            service: place.service.to_owned(),
            decoded: Decoded::Malformed { why, raw: Raw::from(value) },
            warning: None,
        },
    }
}

pub(super) fn encode<C: Codec>(
    codec: &C,
    prefix: &KeyPrefix,
    instance: &ServiceInstance,
) -> Result<(String, Vec<u8>), Vec<FieldError>> {
    let key = key(codec.rules(), prefix, instance)?;
    Ok((key, codec.write(instance).into_bytes()))
}

fn key(rules: Rules, prefix: &KeyPrefix, instance: &ServiceInstance) -> Result<String, Vec<FieldError>> {
    let errors = check::instance(rules, prefix, instance);
    if !errors.is_empty() {
        return Err(errors);
    }
    let ServiceInstance { name, id, .. } = instance;
    Ok(if rules.prefix_names_service && name == prefix.without_slash() {
        format!("{prefix}{id}")
    } else {
        format!("{prefix}{name}/{id}")
    })
}

pub(super) fn edit(
    codec: &dyn Codec,
    prefix: &KeyPrefix,
    key: &str,
    value: &[u8],
    edited: &ServiceInstance,
) -> Result<Vec<u8>, Vec<FieldError>> {
    let refuse = |why: &str| vec![FieldError::new("/instance", why)];
    let before = match decode(codec, prefix, key, value).decoded {
        Decoded::Instance(before) => before,
        Decoded::Malformed { why, .. } => {
            return Err(refuse(&format!("what stands there holds no instance that could be edited: {why}")));
        }
    };
    let edited = &*codec.settle(value, edited);
    let mut errors = check::edit(codec.rules(), &before, edited);
    errors.extend(codec.check_edit(value, &before, edited));
    if !errors.is_empty() {
        return Err(errors);
    }
    let rewritten = codec.edit(value, &before, edited).map_err(|why| refuse(&why))?.apply(value);
    // A last look: what is written back must read as what was asked for, whatever oddities the value has.
    match decode(codec, prefix, key, &rewritten).decoded {
        Decoded::Instance(after) if after == *edited => Ok(rewritten),
        _ => Err(refuse("what stands there is written in a way that does not let this be edited")),
    }
}
