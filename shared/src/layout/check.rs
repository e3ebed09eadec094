//! What may be registered: names, ids, endpoints, and what a layout has no place for.
//!
//! Owns: the rules and their words. Must not know: how anything is written.

use std::net::Ipv6Addr;

use super::{FieldError, codec::Rules};
use crate::{
    api::NAME_BYTES_MAX,
    instance::{KeyPrefix, ServiceInstance},
};

/// What a layout's endpoints look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointRule {
    /// One or more absolute URLs with a host.
    Urls,
    /// Exactly one `host:port`.
    HostPort,
    /// Exactly one `host:port`, which is the id as well.
    Address,
    /// Exactly one, an absolute URL with a host or a `host:port`.
    UrlOrHostPort,
}

/// Everything that keeps `instance` from being registered below `prefix`.
pub(super) fn instance(rules: Rules, prefix: &KeyPrefix, instance: &ServiceInstance) -> Vec<FieldError> {
    with(rules, prefix, instance, segment)
}

/// As [`instance`], but names and ids may be made of several segments.
pub(super) fn nested(rules: Rules, prefix: &KeyPrefix, instance: &ServiceInstance) -> Vec<FieldError> {
    with(rules, prefix, instance, segments)
}

fn with(
    rules: Rules,
    prefix: &KeyPrefix,
    instance: &ServiceInstance,
    segment: fn(&str, &str) -> Option<FieldError>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !(rules.prefix_names_service && instance.name == prefix.without_slash()) {
        errors.extend(segment("name", &instance.name));
    }
    errors.extend(segment("id", &instance.id));
    if let [address] = &*instance.endpoints
        && rules.endpoints == EndpointRule::Address
        && !instance.id.is_empty()
        && instance.id != *address
    {
        errors.push(FieldError::new("/instance/id", "in this layout the id is the address: leave it out"));
    }
    errors.extend(version(rules, &instance.version));
    if !rules.metadata && !instance.metadata.is_empty() {
        errors.push(no_metadata());
    }
    errors.extend(endpoints(rules, &instance.endpoints));
    errors
}

/// Everything that keeps `before` from becoming `edited`. What stays as it is may be as odd as it is.
pub(super) fn edit(rules: Rules, before: &ServiceInstance, edited: &ServiceInstance) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, before, edited) in [("id", &before.id, &edited.id), ("name", &before.name, &edited.name)] {
        if before != edited {
            let detail = format!("the key is made of the {field}, which an edit cannot change: register anew instead");
            errors.push(FieldError::new(format!("/instance/{field}"), detail));
        }
    }
    if before.version != edited.version {
        errors.extend(version(rules, &edited.version));
    }
    if before.metadata != edited.metadata && !rules.metadata {
        errors.push(no_metadata());
    }
    if before.endpoints != edited.endpoints {
        if rules.endpoints == EndpointRule::Address
            && before.endpoints.first().is_some_and(|address| *address == before.id)
        {
            let detail = "the key is made of the address, which an edit cannot change: register anew instead";
            errors.push(FieldError::new("/instance/endpoints", detail));
        } else {
            errors.extend(endpoints(rules, &edited.endpoints));
        }
    }
    errors
}

fn version(rules: Rules, version: &str) -> Option<FieldError> {
    (!rules.version && !version.is_empty())
        .then(|| FieldError::new("/instance/version", "this layout has no place for a version: leave it out"))
}

fn no_metadata() -> FieldError {
    FieldError::new("/instance/metadata", "this layout has no place for metadata: leave it out")
}

/// What keeps `text` from being a segment of a key.
fn segment(field: &str, text: &str) -> Option<FieldError> {
    let detail = if text.is_empty() {
        format!("the {field} must not be empty")
    } else if text.contains('/') {
        format!("the {field} must not contain `/`, which parts the segments of a key")
    } else if text.chars().any(char::is_control) {
        format!("the {field} must not contain control characters")
    } else if text.len() > NAME_BYTES_MAX {
        format!("the {field} must not be longer than {NAME_BYTES_MAX} bytes; it has {}", text.len())
    } else {
        return None;
    };
    Some(FieldError::new(format!("/instance/{field}"), detail))
}

/// What keeps `text` from being segments of a key.
fn segments(field: &str, text: &str) -> Option<FieldError> {
    if text.len() > NAME_BYTES_MAX {
        return segment(field, text);
    }
    text.split('/').find_map(|part| segment(field, part))
}

fn endpoints(rules: Rules, endpoints: &[String]) -> Vec<FieldError> {
    let pointer = "/instance/endpoints";
    let check = |text: &str| match rules.endpoints {
        EndpointRule::Urls => url(text),
        EndpointRule::UrlOrHostPort if scheme(text).is_some() => url(text),
        EndpointRule::HostPort | EndpointRule::Address | EndpointRule::UrlOrHostPort => host_and_port(text),
    };
    let count = endpoints.len();
    match rules.endpoints {
        EndpointRule::Urls if count == 0 => {
            return vec![FieldError::new(pointer, "at least one endpoint is needed, such as http://10.0.0.1:8000")];
        }
        EndpointRule::HostPort | EndpointRule::Address | EndpointRule::UrlOrHostPort if count != 1 => {
            let detail = format!("this layout takes exactly one endpoint, such as 10.0.0.1:8000; here are {count}");
            return vec![FieldError::new(pointer, detail)];
        }
        _ => {}
    }
    endpoints
        .iter()
        .enumerate()
        .filter_map(|(index, text)| check(text).err().map(|why| FieldError::new(format!("{pointer}/{index}"), why)))
        .collect()
}

/// Whether `text` is `host:port`.
pub(super) fn is_host_and_port(text: &str) -> bool {
    host_and_port(text).is_ok()
}

fn host_and_port(text: &str) -> Result<(), String> {
    if authority(text)? {
        Ok(())
    } else {
        Err("the port is missing: this layout wants host:port, such as 10.0.0.1:8000".to_owned())
    }
}

/// What stands before a `://` and after it. The standard library's search for a text weighs, in a page, more than all of
/// these rules.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let at = text.as_bytes().windows(3).position(|three| three == b"://")?;
    Some((text.get(..at)?, text.get(at + 3..)?))
}

/// Whether `text` is an absolute URL with a host, as Go's `url.Parse` takes it.
fn url(text: &str) -> Result<(), String> {
    let Some((scheme, rest)) = scheme(text) else {
        return Err("an absolute URL is needed, such as http://10.0.0.1:8000 or grpc://10.0.0.1:9000".to_owned());
    };
    if !scheme.starts_with(|char: char| char.is_ascii_alphabetic())
        || !scheme.chars().all(|char| char.is_ascii_alphanumeric() || "+-.".contains(char))
    {
        return Err("the scheme before :// is letters, digits, +, - and ., and begins with a letter".to_owned());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if tail.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return Err("an endpoint holds neither whitespace nor control characters".to_owned());
    }
    let escaped = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !tail.split('%').skip(1).all(escaped) {
        return Err("a % is followed by two hexadecimal digits".to_owned());
    }
    authority(host.rsplit_once('@').map_or(host, |(_, host)| host)).map(drop)
}

/// Checks a host with or without a port, and says whether there is one.
fn authority(text: &str) -> Result<bool, String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else { return Err("the closing ] is missing".to_owned()) };
        if host.parse::<Ipv6Addr>().is_err() {
            return Err("what stands in [ ] is no IPv6 address".to_owned());
        }
        match port.strip_prefix(':') {
            None if !port.is_empty() => return Err("only a port may follow the closing ]".to_owned()),
            port => (host, port),
        }
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if !text.starts_with('[') && !host.chars().all(|char| char.is_alphanumeric() || "-._".contains(char)) {
        return Err(if scheme(host).is_some() {
            "this layout knows no schemes: it wants host:port, such as 10.0.0.1:8000".to_owned()
        } else if host.contains(':') {
            "an IPv6 address stands in brackets, such as [2001:db8::1]:8000".to_owned()
        } else {
            "a host is letters, digits, -, . and _".to_owned()
        });
    }
    let Some(port) = port else { return Ok(false) };
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if digits => Ok(true),
        _ => Err("a port is a number from 1 to 65535".to_owned()),
    }
}
