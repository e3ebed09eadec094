//! What is called, by name. Pure.

use std::{borrow::Cow, fmt, str::FromStr};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What go-kratos' callers write before a service's name.
const SCHEME: &str = "discovery";

/// What a name may not hold as it is when it is one segment of a path.
const SEGMENT: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'/').add(b'<').add(b'>').add(b'?').add(b'\\').add(b'^');

/// A service, named as `discovery:///helloworld`.
///
/// All that follows the third slash is the name, as in go-kratos: `discovery:///beer.shop/order` is the service
/// `beer.shop/order`. A character that would end it (`?`, `#`, `%`) is percent-encoded, others may be. Where a path
/// follows the name, as in HTTP, the name is one segment, its slashes written `%2F`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    service: String,
}

/// Text that names no service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It begins with something else than `discovery://`.
    #[error("{0:?} is called by no name: it does not begin with discovery:///")]
    Scheme(String),
    /// Something stands between the second and the third slash.
    #[error("{0:?} names an authority, but services are looked for in one place: write discovery:///NAME")]
    Authority(String),
    /// No name stands where it should.
    #[error("{0:?} names no service: write discovery:///NAME")]
    NoName(String),
    /// The name does not decode, or a query or a fragment follows it.
    #[error("{0:?} is no name of a service: what is no plain character is percent-encoded UTF-8")]
    Encoding(String),
}

impl Target {
    /// The target of `service`.
    pub fn new(service: impl Into<String>) -> Self {
        Self { service: service.into() }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The target of an address whose first segment is the name, and all that follows that segment: a path, or nothing,
    /// and perhaps a query.
    ///
    /// # Errors
    /// As parsing has.
    pub fn with_path(text: &str) -> Result<(Self, &str), TargetError> {
        let rest = named(text)?;
        let (name, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        Ok((Self { service: decode(name, text)? }, rest))
    }
}

/// What follows `discovery:///`.
fn named(text: &str) -> Result<&str, TargetError> {
    let (scheme, rest) = text.split_once("://").ok_or_else(|| TargetError::Scheme(text.to_owned()))?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(TargetError::Scheme(text.to_owned()));
    }
    match rest.strip_prefix('/') {
        Some(named) => Ok(named),
        None if rest.is_empty() => Err(TargetError::NoName(text.to_owned())),
        None => Err(TargetError::Authority(text.to_owned())),
    }
}

fn decode(name: &str, whole: &str) -> Result<String, TargetError> {
    if name.is_empty() {
        return Err(TargetError::NoName(whole.to_owned()));
    }
    percent_decode_str(name).decode_utf8().map(Cow::into_owned).map_err(|_| TargetError::Encoding(whole.to_owned()))
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let name = named(text)?;
        if name.contains(['?', '#']) {
            return Err(TargetError::Encoding(text.to_owned()));
        }
        Ok(Self { service: decode(name, text)? })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{SCHEME}:///{}", utf8_percent_encode(&self.service, SEGMENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_a_service() {
        for (text, service) in [
            ("discovery:///helloworld", "helloworld"),
            ("DISCOVERY:///helloworld", "helloworld"),
            ("discovery:///beer.shop/order.service", "beer.shop/order.service"),
            ("discovery:///beer.shop%2Forder", "beer.shop/order"),
            ("discovery:///gr%C3%BC%C3%9Fe", "grüße"),
            ("discovery:///50%25", "50%"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.service(), service, "{text}");
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target, "{text}");
        }
    }

    #[test]
    fn what_is_no_target_says_why() {
        let parse = |text: &str| text.parse::<Target>().unwrap_err();
        for text in ["helloworld", "http://h:1", "", "://x", "direct:///127.0.0.1:1"] {
            assert!(matches!(parse(text), TargetError::Scheme(_)), "{text:?}");
        }
        assert!(matches!(parse("discovery://helloworld"), TargetError::Authority(_)));
        for text in ["discovery://", "discovery:///"] {
            assert!(matches!(parse(text), TargetError::NoName(_)), "{text:?}");
        }
        for text in ["discovery:///a?x=1", "discovery:///a#b", "discovery:///%FF"] {
            assert!(matches!(parse(text), TargetError::Encoding(_)), "{text:?}");
        }
    }

    #[test]
    fn a_path_may_follow_a_name_of_one_segment() {
        for (text, service, rest) in [
            ("discovery:///helloworld/hello?x=1", "helloworld", "/hello?x=1"),
            ("discovery:///helloworld", "helloworld", ""),
            ("discovery:///helloworld?x=1", "helloworld", "?x=1"),
            ("discovery:///beer.shop%2Forder/a/b", "beer.shop/order", "/a/b"),
        ] {
            let (target, found) = Target::with_path(text).unwrap();
            assert_eq!((target.service(), found), (service, rest), "{text}");
        }
        assert!(matches!(Target::with_path("discovery:////a"), Err(TargetError::NoName(_))));
    }
}
