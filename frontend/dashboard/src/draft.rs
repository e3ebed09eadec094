//! What stands in the register form, read into a request, with what is wrong at which field.
//!
//! Pure. The rules of a layout are `shared`'s own codec's; here is only how text in a form becomes fields.

use std::collections::BTreeMap;

use rollcall_shared::{
    FieldError, KeyPrefix, Layout, ServiceInstance,
    api::{InstanceDraft, KeepAlive, RegisterRequest, TTL_S_MAX, TTL_S_MIN},
};

use crate::words;

/// The form's fields, by the names they have in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `layout`
    Layout,
    /// `name`
    Name,
    /// `id`
    Id,
    /// `version`
    Version,
    /// `endpoints`
    Endpoints,
    /// `metadata`
    Metadata,
    /// `ttl_s`
    Ttl,
    /// `keep_alive`
    KeepAlive,
    /// `weight`, of the edit form: a metadata of that name.
    Weight,
    /// None of them: the form as a whole.
    Form,
}

impl Field {
    /// The field that a JSON pointer of the request means.
    pub fn of_pointer(pointer: &str) -> Self {
        let rest = pointer.strip_prefix("/instance").unwrap_or(pointer);
        if rest == "/metadata/weight" {
            return Self::Weight;
        }
        match rest.trim_start_matches('/').split('/').next() {
            Some("layout") => Self::Layout,
            Some("name") => Self::Name,
            Some("id") => Self::Id,
            Some("version") => Self::Version,
            Some("endpoints") => Self::Endpoints,
            Some("metadata") => Self::Metadata,
            Some("ttl_s") => Self::Ttl,
            Some("keep_alive") => Self::KeepAlive,
            _ => Self::Form,
        }
    }
}

/// Where a layout's keys stand unless the server is told otherwise.
pub fn default_prefix(layout: Layout) -> Option<&'static str> {
    match layout {
        Layout::Kratos => Some("/microservices/"),
        Layout::GoMicro => Some("/micro/registry/"),
        Layout::Plain => Some("services/"),
        Layout::Kitex => Some("kitex/registry-etcd/"),
        Layout::Hertz => Some("hertz/registry-etcd/"),
        Layout::Grpc | Layout::GoZero | Layout::GoKit => None,
    }
}

/// What is typed into the register form, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The layout chosen.
    pub layout: Layout,
    /// The service's name.
    pub name: String,
    /// The id; empty to have one made.
    pub id: String,
    /// The version.
    pub version: String,
    /// The endpoints, one a line or parted by commas.
    pub endpoints: String,
    /// The metadata, `key=value` a line.
    pub metadata: String,
    /// The TTL in seconds; empty, or the word, for a permanent key.
    pub ttl_s: String,
    /// Who renews.
    pub keep_alive: KeepAlive,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            layout: Layout::Kratos,
            name: String::new(),
            id: String::new(),
            version: String::new(),
            endpoints: String::new(),
            metadata: String::new(),
            ttl_s: "15".to_owned(),
            keep_alive: KeepAlive::Server,
        }
    }
}

impl Draft {
    /// The request, or everything that is wrong with it. `prefix` is where the layout's keys stand, as far as known.
    pub fn request(&self, prefix: &KeyPrefix) -> Result<RegisterRequest, Vec<FieldError>> {
        let mut errors = Vec::new();
        let carries = self.layout.carries();
        let endpoints = endpoints(&self.endpoints);
        // What the layout has no place for is not offered; what was typed before another layout was chosen is kept aside.
        let metadata = if carries.metadata { metadata(&self.metadata) } else { Ok(BTreeMap::new()) };
        let metadata = metadata.unwrap_or_else(|error| {
            errors.push(error);
            BTreeMap::new()
        });
        let ttl_s = self.ttl_s().unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        let id = typed(&self.id).filter(|_| !carries.id_is_address);
        let instance = ServiceInstance {
            id: id.clone().unwrap_or_else(|| self.layout.default_id(&endpoints, || "0".repeat(36))),
            name: self.name.trim().to_owned(),
            version: if carries.version { self.version.trim().to_owned() } else { String::new() },
            metadata: metadata.clone(),
            endpoints: endpoints.clone(),
        };
        errors.extend(self.layout.check(prefix, &instance));
        if !errors.is_empty() {
            return Err(errors);
        }
        let ServiceInstance { name, version, .. } = instance;
        Ok(RegisterRequest {
            layout: self.layout,
            instance: InstanceDraft { id, name, version, metadata, endpoints },
            ttl_s,
            keep_alive: ttl_s.map(|_| self.keep_alive),
        })
    }

    fn ttl_s(&self) -> Result<Option<i64>, FieldError> {
        match self.ttl_s.trim() {
            "" | "permanent" => Ok(None),
            text => match text.trim_end_matches('s').trim_end().parse() {
                Ok(ttl_s) if (TTL_S_MIN..=TTL_S_MAX).contains(&ttl_s) => Ok(Some(ttl_s)),
                _ => Err(FieldError::new("/ttl_s", words::TTL_RANGE.text())),
            },
        }
    }
}

/// Endpoints as they are typed: one a line, or parted by commas.
pub fn endpoints(text: &str) -> Vec<String> {
    text.split(['\n', ',']).filter_map(typed).collect()
}

/// Metadata as it is typed: `key=value`, one a line.
pub fn metadata(text: &str) -> Result<BTreeMap<String, String>, FieldError> {
    let mut metadata = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match line.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                metadata.insert(key.trim().to_owned(), value.trim().to_owned());
            }
            _ => return Err(FieldError::new("/instance/metadata", words::METADATA_LINE.text())),
        }
    }
    Ok(metadata)
}

fn typed(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix() -> KeyPrefix {
        KeyPrefix::new("/microservices/").unwrap()
    }

    fn draft() -> Draft {
        Draft {
            name: " hello ".into(),
            endpoints: "http://10.0.0.1:8000, grpc://10.0.0.1:9000\n".into(),
            ..Draft::default()
        }
    }

    fn wrong(draft: &Draft) -> Vec<Field> {
        draft.request(&prefix()).unwrap_err().iter().map(|error| Field::of_pointer(&error.pointer)).collect()
    }

    #[test]
    fn what_is_preset_needs_a_name_and_an_endpoint_and_nothing_else() {
        assert_eq!(wrong(&Draft::default()), [Field::Name, Field::Endpoints]);
        let request = draft().request(&prefix()).unwrap();
        assert_eq!((request.ttl_s, request.keep_alive), (Some(15), Some(KeepAlive::Server)));
        assert_eq!(request.instance.name, "hello");
        assert_eq!(request.instance.id, None);
        assert_eq!(request.instance.endpoints, ["http://10.0.0.1:8000", "grpc://10.0.0.1:9000"]);
    }

    #[test]
    fn what_is_wrong_stands_at_its_field() {
        let cases = [
            (Draft { metadata: "zone=a\nweight".into(), ..draft() }, Field::Metadata),
            (Draft { ttl_s: "abc".into(), ..draft() }, Field::Ttl),
            (Draft { ttl_s: "1".into(), ..draft() }, Field::Ttl),
            (Draft { name: "a/b".into(), ..draft() }, Field::Name),
            (Draft { id: "a/b".into(), ..draft() }, Field::Id),
            (Draft { endpoints: "10.0.0.1:8000".into(), ..draft() }, Field::Endpoints),
        ];
        for (draft, field) in cases {
            assert_eq!(wrong(&draft), [field], "{draft:?}");
        }
        assert_eq!(Field::of_pointer("/instance/endpoints/1"), Field::Endpoints);
        assert_eq!(Field::of_pointer("/elsewhere"), Field::Form);
    }

    #[test]
    fn what_a_layout_has_no_place_for_is_not_sent() {
        let full = Draft { id: "x".into(), version: "1".into(), metadata: "a=b".into(), ..draft() };
        let full = Draft { endpoints: "10.0.0.1:8000".into(), ..full };
        let kitex = Draft { layout: Layout::Kitex, ..full.clone() }.request(&prefix()).unwrap().instance;
        assert_eq!((kitex.id, &*kitex.version, kitex.metadata.len()), (None, "", 1));
        let zero = Draft { layout: Layout::GoZero, ..full }.request(&prefix()).unwrap().instance;
        assert_eq!((zero.id.as_deref(), &*zero.version, zero.metadata.len()), (Some("x"), "", 0));
    }

    #[test]
    fn permanent_means_no_lease_and_nobody_who_renews() {
        for text in ["", "  ", words::PERMANENT.text()] {
            let request = Draft { ttl_s: text.into(), ..draft() }.request(&prefix()).unwrap();
            assert_eq!((request.ttl_s, request.keep_alive), (None, None));
        }
        let request = Draft { metadata: "a = b=c\n\n".into(), ..draft() }.request(&prefix()).unwrap();
        assert_eq!(request.instance.metadata["a"], "b=c");
    }
}
