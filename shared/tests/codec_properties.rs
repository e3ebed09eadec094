//! The codecs over generated instances, values and edits.

use std::collections::BTreeMap;

use proptest::{
    char, collection, option,
    prelude::*,
    sample::{select, subsequence},
};
use rollcall_shared::{Decoded, KeyPrefix, Layout, ServiceInstance};
use serde_json::value::RawValue;

fn any_layout() -> impl Strategy<Value = Layout> {
    select(Layout::ALL.to_vec())
}

/// What may stand in a key: anything but `/` and control characters, up to 255 bytes.
fn segment() -> impl Strategy<Value = String> {
    let allowed = prop_oneof![char::range('a', 'z'), char::any()]
        .prop_map(|char| if char == '/' || char.is_control() { '-' } else { char });
    collection::vec(allowed, 1..60).prop_map(String::from_iter)
}

/// Text with what is hard in it: what is escaped, what is not, what is more than one byte.
fn text() -> impl Strategy<Value = String> {
    let hard =
        select("ab<>&\"\\/\u{8}\u{c}\n\r\t\0\u{1f}\u{7f}\u{2028}\u{2029}\u{fffd}é区😀".chars().collect::<Vec<_>>());
    collection::vec(prop_oneof![3 => hard, 1 => char::any()], 0..8).prop_map(String::from_iter)
}

fn address() -> impl Strategy<Value = String> {
    ("[a-z0-9.-]{1,12}|\\[2001:db8::[0-9]{1,3}\\]", 1u16..).prop_map(|(host, port)| format!("{host}:{port}"))
}

fn url() -> impl Strategy<Value = String> {
    (select(vec!["http", "grpc", "https"]), address(), "(/[a-z<&\"]{0,5}(\\?isSecure=true)?)?")
        .prop_map(|(scheme, address, path)| format!("{scheme}://{address}{path}"))
}

/// A layout and an instance that it can carry.
fn registration() -> impl Strategy<Value = (Layout, ServiceInstance)> {
    let metadata = collection::btree_map(text(), text(), 0..5);
    let endpoints = (collection::vec(url(), 1..4), address());
    (any_layout(), segment(), segment(), text(), metadata, endpoints).prop_map(
        |(layout, id, name, version, metadata, (urls, address))| {
            let endpoints = if layout == Layout::Kratos { urls } else { vec![address] };
            let instance = ServiceInstance {
                id: if matches!(layout, Layout::Kitex | Layout::Hertz) { endpoints[0].clone() } else { id },
                name,
                version: if matches!(layout, Layout::Kratos | Layout::GoMicro) { version } else { String::new() },
                metadata: match layout {
                    Layout::GoZero | Layout::GoKit | Layout::Plain => BTreeMap::new(),
                    _ => metadata,
                },
                endpoints,
            };
            (layout, instance)
        },
    )
}

/// Bytes that are nearly what a layout holds.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    let tokens = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        " ",
        "null",
        "true",
        "0",
        "-1.5e3",
        "1e999",
        "\"",
        "\\ud800",
        "\"id\"",
        "\"name\"",
        "\"nodes\"",
        "\"metadata\"",
        "\"endpoints\"",
        "\"Addr\"",
        "\"Metadata\"",
        "\"address\"",
        "\"tags\"",
        "\"IP\"",
        "\"ID\"",
        "\"a\"",
        "\"name\":\"a\"",
        "\"nodes\":[{\"id\":\"1\"}]",
        "\"Addr\":\"a:1\"",
        "\u{e9}",
    ];
    prop_oneof![
        collection::vec(any::<u8>(), 0..64),
        collection::vec(select(tokens.to_vec()), 0..24).prop_map(|tokens| tokens.concat().into_bytes()),
        collection::vec(select(tokens[20..].to_vec()), 0..6)
            .prop_map(|members| format!("{{{}}}", members.join(",")).into_bytes()),
    ]
}

/// `text` as a JSON string, every other character needlessly escaped where `escaped`.
fn quoted(text: &str, escaped: bool) -> String {
    if !escaped {
        return serde_json::to_string(text).expect("any text is JSON");
    }
    let units = text.encode_utf16().fold(String::new(), |out, unit| format!("{out}\\u{unit:04X}"));
    format!("\"{units}\"")
}

/// An object of these members with whitespace that no program writes.
fn object(members: &[(String, String)]) -> String {
    let members: Vec<_> =
        members.iter().map(|(name, value)| format!("\n{}\t: {value} ", quoted(name, false))).collect();
    format!("{{ {}}}", members.join(","))
}

/// A value as somebody else's program may write it, and what it may become.
#[derive(Debug, Clone)]
struct Edit {
    layout: Layout,
    key: String,
    value: String,
    edited: ServiceInstance,
}

impl Edit {
    fn prefix() -> KeyPrefix {
        KeyPrefix::new("/p").expect("a sound prefix")
    }

    fn before(&self) -> ServiceInstance {
        decoded(self.layout, &Self::prefix(), &self.key, self.value.as_bytes()).expect("the value was made to decode")
    }
}

fn decoded(layout: Layout, prefix: &KeyPrefix, key: &str, value: &[u8]) -> Option<ServiceInstance> {
    match layout.decode(prefix, key, value).decoded {
        Decoded::Instance(instance) => Some(instance),
        Decoded::Malformed { .. } => None,
    }
}

fn edits() -> impl Strategy<Value = Edit> {
    let layouts = vec![Layout::Kratos, Layout::GoMicro, Layout::Grpc, Layout::Kitex, Layout::Hertz];
    // Few names, so that edits meet what stands there.
    let name = || select(vec!["a", "b", "c", "<é>", ""]).prop_map(str::to_owned);
    let old = subsequence(vec!["a", "b", "c", "<é>", "", "zz"], 0..=6).prop_shuffle().prop_flat_map(|names| {
        collection::vec((text(), any::<bool>()), names.len())
            .prop_map(move |texts| names.iter().map(|name| (*name).to_owned()).zip(texts).collect::<Vec<_>>())
    });
    let new = (
        option::of(text()),
        option::of(collection::btree_map(name(), text(), 0..5)),
        collection::btree_map(name(), option::of(text()), 0..3),
        option::of((address(), url())),
    );
    (select(layouts), option::weighted(0.8, old), any::<[bool; 4]>(), any::<u8>(), new).prop_map(
        |(layout, old, present, order, (version, all, some, endpoint))| {
            let metadata = old.map_or("null".to_owned(), |members| {
                let members: Vec<_> =
                    members.iter().map(|(name, (text, odd))| (name.clone(), quoted(text, *odd))).collect();
                object(&members)
            });
            let member = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let shuffle = |mut members: Vec<(String, String)>| {
                let turns = usize::from(order % 7) % members.len();
                members.rotate_left(turns);
                if order % 2 == 0 {
                    members.reverse();
                }
                members
            };
            let odd = member("odd", r#"{"x" :[1.0e+00, "\u0061"]}"#);
            let mut members = vec![odd.clone()];
            let mut put = |name: &str, value: &str, there: bool| {
                if there {
                    members.push(member(name, value));
                }
            };
            let (key, metadata_name) = match layout {
                Layout::Kratos => {
                    put("id", "\"1\"", true);
                    put("name", "\"s\"", true);
                    put("version", "\"v\"", present[0]);
                    put("endpoints", "[ \"http://h:1\"]", present[1]);
                    ("/p/s/1", "metadata")
                }
                Layout::GoMicro => {
                    let mut node = vec![odd, member("id", "\"1\""), member("address", "\"h:1\"")];
                    if present[3] {
                        node.push(member("metadata", &metadata));
                    }
                    put("name", "\"s\"", true);
                    put("version", "\"v\"", present[0]);
                    put("nodes", &format!("[ {} ]", object(&shuffle(node))), true);
                    ("/p/s/1", "")
                }
                Layout::Grpc => {
                    put("Addr", "\"h:1\"", true);
                    ("/p/s/1", "Metadata")
                }
                _ => {
                    put("network", "\"tcp\"", present[0]);
                    put("address", "\"h:1\"", true);
                    put("weight", "-3", present[1]);
                    ("/p/s/1", "tags")
                }
            };
            put(metadata_name, &metadata, present[3] && !metadata_name.is_empty());
            let mut edit = Edit {
                layout,
                key: key.to_owned(),
                value: object(&shuffle(members)),
                edited: ServiceInstance::default(),
            };
            let mut edited = edit.before();
            if let Some(version) = version
                && matches!(layout, Layout::Kratos | Layout::GoMicro)
            {
                edited.version = version;
            }
            if let Some(all) = all {
                edited.metadata = all;
            }
            for (name, text) in some {
                match text {
                    Some(text) => edited.metadata.insert(name, text),
                    None => edited.metadata.remove(&name),
                };
            }
            if let Some((address, url)) = endpoint {
                edited.endpoints = vec![if layout == Layout::Kratos { url } else { address }];
            }
            edit.edited = edited;
            edit
        },
    )
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

fn members(json: &str) -> Members<'_> {
    serde_json::from_str(json).expect("an object")
}

fn nodes(root: &Members<'_>) -> Option<String> {
    let nodes: Vec<&RawValue> = serde_json::from_str(root.get("nodes")?.get()).expect("a list");
    Some(nodes[0].get().to_owned())
}

/// That both objects have the same text in all members but `edited`.
fn same_but(edited: &[(&str, bool)], before: &str, after: &str) -> Result<(), TestCaseError> {
    let keep = |members: Members<'_>| -> BTreeMap<String, String> {
        let touched = |name: &str| edited.iter().any(|(field, changed)| *changed && *field == name);
        members.into_iter().filter(|(name, _)| !touched(name)).map(|(name, raw)| (name, raw.get().to_owned())).collect()
    };
    prop_assert_eq!(keep(members(before)), keep(members(after)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_decodes_to_the_same((layout, instance) in registration(), prefix in "/?[a-z]{1,5}(/[a-z]{1,5})?") {
        let prefix = KeyPrefix::new(&prefix).unwrap();
        let (key, value) = layout.encode(&prefix, &instance).unwrap();
        prop_assert!(prefix.holds(&key));
        let entry = layout.decode(&prefix, &key, &value);
        prop_assert_eq!(&entry.service, &instance.name);
        prop_assert_eq!(entry.decoded, Decoded::Instance(instance.clone()));
        prop_assert_eq!(entry.warning, None);
        prop_assert_eq!(layout.edit(&prefix, &key, &value, &instance), Ok(value));
    }

    #[test]
    fn what_is_edited_is_what_would_be_encoded(
        (layout, one) in registration(),
        (before, after) in (collection::btree_map(text(), text(), 1..5), collection::btree_map(text(), text(), 1..5)),
    ) {
        // Sorted, escaped and in its place: an edit of a program's own value is what the program would write. Hertz
        // escapes nothing and sorts nothing, and three layouts have no metadata.
        let layout = match layout {
            Layout::Kratos | Layout::Grpc | Layout::GoMicro => layout,
            _ => Layout::Kitex,
        };
        let endpoints = vec![if layout == Layout::Kratos { "http://h:1" } else { "h:1" }.to_owned()];
        let one = ServiceInstance { id: "h:1".to_owned(), version: String::new(), endpoints, metadata: before, ..one };
        let edited = ServiceInstance { metadata: after, ..one.clone() };
        let prefix = KeyPrefix::new("/p").unwrap();
        let (key, value) = layout.encode(&prefix, &one).unwrap();
        let encoded = layout.encode(&prefix, &edited).unwrap();
        prop_assert_eq!((key.clone(), layout.edit(&prefix, &key, &value, &edited).unwrap()), encoded);
    }

    #[test]
    fn no_bytes_make_decoding_or_editing_panic(layout in any_layout(), key in "/p/?[a/é]{0,6}|[a/]{0,4}", value in junk()) {
        let prefix = KeyPrefix::new("/p").unwrap();
        let entry = layout.decode(&prefix, &key, &value);
        match entry.decoded {
            Decoded::Instance(mut instance) => {
                prop_assert_eq!(&instance.name, &entry.service);
                prop_assert_eq!(layout.edit(&prefix, &key, &value, &instance), Ok(value.clone()));
                instance.metadata.insert("b".to_owned(), "1".to_owned());
                instance.endpoints = vec!["h:1".to_owned()];
                if let Ok(written) = layout.edit(&prefix, &key, &value, &instance) {
                    prop_assert_eq!(decoded(layout, &prefix, &key, &written), Some(instance));
                }
            }
            Decoded::Malformed { why, .. } => {
                prop_assert!(!why.is_empty());
                prop_assert!(layout.edit(&prefix, &key, &value, &ServiceInstance::default()).is_err());
            }
        }
    }

    #[test]
    fn an_edit_changes_the_edited_fields_and_no_others(edit in edits()) {
        let before = edit.before();
        let Edit { layout, key, value, edited } = edit;
        let written = layout.edit(&Edit::prefix(), &key, value.as_bytes(), &edited).unwrap();
        prop_assert_eq!(decoded(layout, &Edit::prefix(), &key, &written), Some(edited.clone()));
        let written = String::from_utf8(written).unwrap();
        let version = before.version != edited.version;
        let metadata = before.metadata != edited.metadata;
        let endpoints = before.endpoints != edited.endpoints;
        prop_assert_eq!(written == value, !(version || metadata || endpoints));
        let (old, new) = (members(&value), members(&written));
        let (metadata_name, endpoints_name) = match layout {
            Layout::Kratos => ("metadata", "endpoints"),
            Layout::Grpc => ("Metadata", "Addr"),
            Layout::GoMicro => ("metadata", "address"),
            _ => ("tags", "address"),
        };
        let (old_holder, new_holder) = if let (Some(old), Some(new)) = (nodes(&old), nodes(&new)) {
            same_but(&[("version", version), ("nodes", metadata || endpoints)], &value, &written)?;
            same_but(&[("metadata", metadata), ("address", endpoints)], &old, &new)?;
            (old, new)
        } else {
            let edited = [("version", version), (metadata_name, metadata), (endpoints_name, endpoints)];
            same_but(&edited, &value, &written)?;
            (value, written)
        };
        let map = |holder: &str| members(holder).get(metadata_name).map(|raw| raw.get().to_owned());
        if let (Some(old), Some(new)) = (map(&old_holder), map(&new_holder)) && old != "null" {
            let changed: Vec<_> = before.metadata.keys().chain(edited.metadata.keys())
                .map(|name| (name.as_str(), before.metadata.get(name) != edited.metadata.get(name)))
                .collect();
            same_but(&changed, &old, &new)?;
        }
    }
}
