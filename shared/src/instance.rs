//! The nouns: an instance, its lease, a revision, a prefix. Knows nothing of layouts, events or HTTP.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A revision of etcd's key space: one number for the whole store, raised by every write.
///
/// See <https://etcd.io/docs/v3.6/learning/data_model/>.
pub type Revision = i64;

/// One running copy of a service, as go-kratos' `registry.ServiceInstance` names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInstance {
    /// Tells this copy from the others of its service.
    pub id: String,
    /// The service's name, which callers look up.
    pub name: String,
    /// The version of the program; empty where none was set.
    #[serde(default)]
    pub version: String,
    /// What the program said of itself, sorted by key.
    #[serde(default, deserialize_with = "null_as_default")]
    pub metadata: BTreeMap<String, String>,
    /// Where it answers, as its layout writes it: a URL, or `host:port` where the layout knows no scheme.
    #[serde(default, deserialize_with = "null_as_default")]
    pub endpoints: Vec<String>,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(input: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// The id of an etcd lease. Written as `etcdctl` prints it: sixteen hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// The lease of a key as etcd's `KeyValue.lease` gives it, where 0 means that the key is permanent.
    pub fn from_etcd(id: i64) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0.cast_unsigned())
    }
}

/// Text that is no lease id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lease id is 1 to 16 hexadecimal digits and not 0")]
pub struct LeaseIdError;

impl FromStr for LeaseId {
    type Err = LeaseIdError;

    fn from_str(text: &str) -> Result<Self, LeaseIdError> {
        if text.is_empty() || text.len() > 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(LeaseIdError);
        }
        let id = u64::from_str_radix(text, 16).map_err(|_| LeaseIdError)?;
        Self::from_etcd(id.cast_signed()).ok_or(LeaseIdError)
    }
}

impl Serialize for LeaseId {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(input)?.parse().map_err(D::Error::custom)
    }
}

/// The prefix of a source: what is watched, and the source's name. Always ends in `/`, so that `hello` never reads
/// the keys of `helloworld`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct KeyPrefix(String);

/// Text that cannot be a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// An empty prefix, or `/` alone, would watch everything that anybody keeps in this etcd.
    #[error("a prefix names at least one segment: an empty one would take in every key of the cluster")]
    Empty,
    /// Control characters are in no framework's keys and would not survive a log line.
    #[error("a prefix holds no control characters")]
    Control,
}

impl KeyPrefix {
    /// Makes a prefix of `text`, adding the closing `/` where it has none.
    pub fn new(text: &str) -> Result<Self, PrefixError> {
        if text.trim_matches('/').is_empty() {
            return Err(PrefixError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(PrefixError::Control);
        }
        Ok(Self(if text.ends_with('/') { text.to_owned() } else { format!("{text}/") }))
    }

    /// The prefix as text, with its closing `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix without its closing `/`: a service's name in the layouts whose target may be the prefix itself.
    pub fn without_slash(&self) -> &str {
        self.0.strip_suffix('/').unwrap_or(&self.0)
    }

    /// Whether `key` lies below this prefix.
    pub fn holds(&self, key: &str) -> bool {
        key.len() > self.0.len() && key.starts_with(&self.0)
    }

    /// The end of the range that holds every key below this prefix: etcd ranges are half open, and `/` + 1 is `0`.
    pub fn range_end(&self) -> String {
        format!("{}0", self.without_slash())
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for KeyPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for KeyPrefix {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::new(&<std::borrow::Cow<'de, str>>::deserialize(input)?).map_err(D::Error::custom)
    }
}

impl std::borrow::Borrow<str> for KeyPrefix {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_reads_as_etcdctl_prints_it() {
        let lease: LeaseId = "694d81417acd4a0e".parse().unwrap();
        assert_eq!(lease.to_string(), "694d81417acd4a0e");
        assert_eq!("7b".parse::<LeaseId>().unwrap().to_string(), "000000000000007b");
        assert_eq!("ffffffffffffffff".parse::<LeaseId>().unwrap(), LeaseId(-1));
        for wrong in ["", "0", "0000", "xyz", "+1", "694d81417acd4a0e0"] {
            assert!(wrong.parse::<LeaseId>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_prefix_always_closes_its_last_segment() {
        let prefix = KeyPrefix::new("/microservices/hello").unwrap();
        assert_eq!(prefix.as_str(), "/microservices/hello/");
        assert!(!prefix.holds("/microservices/helloworld/1"));
        assert!(prefix.holds("/microservices/hello/1"));
        assert!(!prefix.holds("/microservices/hello/"));
        assert_eq!(prefix.range_end(), "/microservices/hello0");
        for wrong in ["", "/", "//", "a\n/"] {
            assert!(KeyPrefix::new(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn null_reads_as_nothing() {
        let instance: ServiceInstance =
            serde_json::from_str(r#"{"id":"1","name":"a","metadata":null,"endpoints":null}"#).unwrap();
        assert_eq!(instance, ServiceInstance { id: "1".into(), name: "a".into(), ..ServiceInstance::default() });
    }
}
