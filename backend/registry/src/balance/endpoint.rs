//! Which of an instance's endpoints a caller can call, and with which weight. Follows go-kratos: the first endpoint of the
//! wanted scheme counts, `grpcs` and `https` are what secure callers take, and an insecure one never sees them.

use std::{borrow::Cow, collections::HashSet, fmt, sync::Arc};

use foldhash::fast::RandomState;
use rollcall_shared::ServiceInstance;

/// The weight of an instance that says none, or none that reads as a number: go-kratos' own.
pub const WEIGHT: u64 = 100;

/// What is spoken at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// gRPC: `grpc://`, and `grpcs://` over TLS.
    Grpc,
    /// HTTP: `http://`, and `https://` over TLS.
    Http,
}

impl Protocol {
    /// The scheme of its endpoints.
    pub fn scheme(self, security: Security) -> &'static str {
        match (self, security) {
            (Self::Grpc, Security::Plain) => "grpc",
            (Self::Grpc, Security::Tls) => "grpcs",
            (Self::Http, Security::Plain) => "http",
            (Self::Http, Security::Tls) => "https",
        }
    }
}

/// Whether a caller speaks TLS. It calls only what agrees with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Security {
    /// Without TLS.
    #[default]
    Plain,
    /// Over TLS.
    Tls,
}

/// `host:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Arc<str>);

impl Address {
    /// The address as it stands in the endpoint, without a user, and with the scheme's port where none stands there.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, out)
    }
}

/// An instance that can be called, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where.
    pub address: Address,
    /// How many calls it is to get beside the others; 0 for none, as long as there is another.
    pub weight: u64,
    /// The instance.
    pub instance: Arc<ServiceInstance>,
}

/// Those of `instances` that a caller of this protocol can call. Of two at one address the first one counts, as in
/// go-kratos.
pub fn members(instances: &[Arc<ServiceInstance>], protocol: Protocol, security: Security) -> Vec<Member> {
    let mut seen = HashSet::with_capacity_and_hasher(instances.len(), RandomState::default());
    let callable = instances.iter().filter_map(|instance| {
        let address = instance.endpoints.iter().find_map(|endpoint| authority(endpoint, protocol, security))?;
        let address = Address(address.into());
        seen.insert(address.clone()).then(|| Member {
            address,
            weight: weight(instance),
            instance: Arc::clone(instance),
        })
    });
    callable.collect()
}

/// The `host:port` of an endpoint, if a caller can call it. An address without a scheme, as the layouts write it that know
/// none, is what the caller takes it for.
fn authority(endpoint: &str, protocol: Protocol, security: Security) -> Option<Cow<'_, str>> {
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return (!endpoint.is_empty()).then(|| with_port(endpoint, security));
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let offered = if scheme.eq_ignore_ascii_case(protocol.scheme(Security::Tls)) {
        Security::Tls
    } else if scheme.eq_ignore_ascii_case(protocol.scheme(Security::Plain)) {
        if is_marked_secure(rest) { Security::Tls } else { Security::Plain }
    } else {
        return None;
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    (offered == security && !host.is_empty()).then(|| with_port(host, security))
}

/// `host:port`, where `host` alone may stand: with the port that is called then.
fn with_port(host: &str, security: Security) -> Cow<'_, str> {
    // The colons of an IPv6 address stand within brackets.
    let after = host.rfind(']').map_or(0, |bracket| bracket + 1);
    let port = match security {
        Security::Plain => 80,
        Security::Tls => 443,
    };
    match host[after..].split_once(':') {
        Some((_, "")) => format!("{host}{port}").into(),
        Some(_) => host.into(),
        None => format!("{host}:{port}").into(),
    }
}

/// Whether the obsolete `?isSecure=true` stands there, by which early versions of go-kratos said what `grpcs` and `https`
/// say now.
fn is_marked_secure(rest: &str) -> bool {
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    query.split('&').any(|pair| {
        // What Go's `strconv.ParseBool` takes for true.
        pair.strip_prefix("isSecure=").is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    })
}

/// The weight that an instance's metadata says, as go-kratos reads it. A negative one counts as 0.
fn weight(instance: &ServiceInstance) -> u64 {
    let said = instance.metadata.get("weight").and_then(|weight| weight.parse::<i64>().ok());
    said.map_or(WEIGHT, |weight| u64::try_from(weight).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_sees_the_endpoints_of_its_own_scheme_and_no_others() {
        for (endpoint, grpc, grpcs, http, https) in [
            ("grpc://h:1", true, false, false, false),
            ("grpcs://h:1", false, true, false, false),
            ("http://h:1", false, false, true, false),
            ("https://h:1", false, false, false, true),
            ("HTTP://h:1/base?x=1", false, false, true, false),
            ("grpc://h:1?isSecure=true", false, true, false, false),
            ("grpc://h:1/?a=b&isSecure=1#c", false, true, false, false),
            ("http://h:1?isSecure=true", false, false, false, true),
            ("grpc://h:1?isSecure=false", true, false, false, false),
            ("grpc://h:1?isSecure=perhaps", true, false, false, false),
            ("h:1", true, true, true, true),
            ("ws://h:1", false, false, false, false),
            ("grpc://", false, false, false, false),
            ("", false, false, false, false),
        ] {
            for (protocol, security, seen) in [
                (Protocol::Grpc, Security::Plain, grpc),
                (Protocol::Grpc, Security::Tls, grpcs),
                (Protocol::Http, Security::Plain, http),
                (Protocol::Http, Security::Tls, https),
            ] {
                let expected = seen.then_some("h:1");
                let offered = authority(endpoint, protocol, security);
                assert_eq!(offered.as_deref(), expected, "{endpoint} {protocol:?} {security:?}");
            }
        }
        for (endpoint, plain, secure) in [
            ("http://[::1]:9000", Some("[::1]:9000"), None),
            ("http://[::1]", Some("[::1]:80"), None),
            ("http://orders.internal/x", Some("orders.internal:80"), None),
            ("http://orders.internal:/x", Some("orders.internal:80"), None),
            ("https://orders.internal", None, Some("orders.internal:443")),
            ("http://orders.internal?isSecure=true", None, Some("orders.internal:443")),
            ("orders.internal", Some("orders.internal:80"), Some("orders.internal:443")),
            ("http://user:secret@h:1", Some("h:1"), None),
            ("http://user:secret@h", Some("h:80"), None),
            ("http://user@", None, None),
        ] {
            for (security, expected) in [(Security::Plain, plain), (Security::Tls, secure)] {
                let offered = authority(endpoint, Protocol::Http, security);
                assert_eq!(offered.as_deref(), expected, "{endpoint} {security:?}");
            }
        }
    }

    #[test]
    fn a_weight_is_read_as_go_kratos_reads_it() {
        for (said, weight) in [
            (None, 100),
            (Some("10"), 10),
            (Some("0"), 0),
            (Some("-3"), 0),
            (Some("+7"), 7),
            (Some("heavy"), 100),
            (Some("0x10"), 100),
            (Some(" 5"), 100),
            (Some(""), 100),
            (Some("99999999999999999999"), 100),
        ] {
            let metadata = said.map(|said| ("weight".to_owned(), said.to_owned())).into_iter().collect();
            let instance = ServiceInstance { metadata, ..ServiceInstance::default() };
            assert_eq!(super::weight(&instance), weight, "{said:?}");
        }
    }

    #[test]
    fn the_first_instance_has_an_address_and_who_offers_none_is_left_out() {
        let instance = |id: &str, endpoints: &[&str]| {
            let endpoints = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
            Arc::new(ServiceInstance { id: id.into(), endpoints, ..ServiceInstance::default() })
        };
        let all = [
            instance("a", &["http://h:1", "grpc://h:2", "grpc://h:3"]),
            instance("b", &["grpc://h:2"]),
            instance("c", &["http://h:4"]),
            instance("d", &[]),
        ];
        let seen: Vec<_> = members(&all, Protocol::Grpc, Security::Plain)
            .into_iter()
            .map(|member| (member.address.to_string(), member.instance.id.clone()))
            .collect();
        assert_eq!(seen, [("h:2".to_owned(), "a".to_owned())]);
    }
}
