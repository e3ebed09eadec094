//! The codecs against what the real frameworks wrote, byte for byte.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{Layout, go_json::Writer, go_micro, grpc, kitex, kratos};
use crate::{
    instance::{KeyPrefix, ServiceInstance},
    record::Decoded,
};

#[derive(Deserialize)]
struct Entry {
    note: String,
    key: String,
    value_base64: String,
}

/// The fixtures of `$file` with the prefix that a user would watch each by.
macro_rules! fixtures {
    ($file:literal, $prefix:expr) => {{
        let entries: Vec<Entry> =
            serde_json::from_str(include_str!(concat!("../../../tests/fixtures/", $file, ".json"))).unwrap();
        assert!(!entries.is_empty());
        entries.into_iter().map(|entry| {
            let prefix: &str = $prefix(&*entry.key);
            let prefix = KeyPrefix::new(prefix).unwrap();
            assert!(prefix.holds(&entry.key), "{}", entry.key);
            (prefix, entry.key, STANDARD.decode(entry.value_base64).unwrap(), entry.note)
        })
    }};
}

/// That the value decodes without a word, and that an edit of nothing gives it back.
fn holds(layout: Layout, prefix: &KeyPrefix, key: &str, value: &[u8], note: &str) {
    let entry = layout.decode(prefix, key, value);
    let Decoded::Instance(instance) = entry.decoded else { panic!("{layout} {key} ({note}): {entry:?}") };
    assert_eq!(entry.warning, None, "{key} ({note})");
    assert_eq!(entry.service, instance.name);
    assert!(key.contains(&entry.service.replace('/', "-")) || key.contains(&entry.service), "{key}");
    assert!(layout.service_prefix(prefix, &entry.service).is_none_or(|narrow| narrow.holds(key)), "{key} ({note})");
    assert_eq!(layout.edit(prefix, key, value, &instance).unwrap(), value, "{key} ({note})");
}

/// That the codec's own view of the value writes the very bytes it was read from.
fn same_bytes(written: &str, value: &[u8]) {
    assert_eq!(written, str::from_utf8(value).unwrap());
}

#[test]
fn kratos_gives_back_every_recorded_byte() {
    let prefix = |key: &str| if key.starts_with("/prod/") { "/prod/services" } else { "/microservices" };
    for (prefix, key, value, note) in fixtures!("kratos", prefix) {
        holds(Layout::Kratos, &prefix, &key, &value, &note);
        same_bytes(&Writer::go().write(&kratos::Native::read(&value).unwrap()), &value);
    }
}

#[test]
fn go_micro_gives_back_every_recorded_byte_in_both_orders() {
    let prefix = |_: &str| "/micro/registry";
    for (prefix, key, value, note) in fixtures!("go-micro-v2", prefix).chain(fixtures!("go-micro-v5", prefix)) {
        holds(Layout::GoMicro, &prefix, &key, &value, &note);
        same_bytes(&Writer::go().write(&go_micro::Service::read(&value).unwrap()), &value);
    }
}

#[test]
fn grpc_gives_back_every_recorded_byte() {
    let prefix = |key: &str| if key.starts_with("services/") { "services" } else { "helloworld" };
    for (prefix, key, value, note) in fixtures!("grpc-naming", prefix) {
        holds(Layout::Grpc, &prefix, &key, &value, &note);
        same_bytes(&Writer::go().write(&grpc::Native::read(&value).unwrap()), &value);
    }
}

#[test]
fn kitex_gives_back_every_recorded_byte() {
    for (prefix, key, value, note) in fixtures!("kitex", |_: &str| "kitex/registry-etcd") {
        holds(Layout::Kitex, &prefix, &key, &value, &note);
        same_bytes(&Writer::go().write(&kitex::Native::read(&value).unwrap()), &value);
    }
}

#[test]
fn hertz_keeps_its_unsorted_bytes() {
    for (prefix, key, value, note) in fixtures!("hertz", |_: &str| "hertz/registry-etcd") {
        holds(Layout::Hertz, &prefix, &key, &value, &note);
    }
}

#[test]
fn opaque_values_are_the_endpoint() {
    let go_kit = |key: &str| if key.starts_with("/services") { "/services" } else { "strings.v1" };
    let go_zero = |key: &str| match key {
        key if key.starts_with("hello") => "hello.rpc",
        key if key.starts_with("shop") => "shop",
        _ => "订单.rpc",
    };
    for (prefix, key, value, note) in fixtures!("go-kit", go_kit) {
        holds(Layout::GoKit, &prefix, &key, &value, &note);
    }
    for (prefix, key, value, note) in fixtures!("go-zero", go_zero) {
        holds(Layout::GoZero, &prefix, &key, &value, &note);
    }
}

#[test]
fn a_services_keys_stand_below_a_prefix_that_closes_its_last_segment() {
    let prefix = KeyPrefix::new("/registry").unwrap();
    let of = |layout: Layout, service| layout.service_prefix(&prefix, service).map(|narrow| narrow.to_string());
    assert_eq!(of(Layout::Kratos, "hello").as_deref(), Some("/registry/hello/"));
    assert_eq!(of(Layout::Kratos, "shop/orders").as_deref(), Some("/registry/shop/orders/"));
    assert_eq!(of(Layout::GoMicro, "shop/orders").as_deref(), Some("/registry/shop-orders/"));
    assert_eq!(of(Layout::GoZero, "orders.rpc").as_deref(), Some("/registry/orders.rpc/"));
    assert_eq!(of(Layout::GoZero, "/registry"), None);
    assert_eq!(of(Layout::Plain, "hello"), None);
}

#[test]
fn names_and_ids_of_several_segments_are_written_as_the_framework_writes_them() {
    let prefix = KeyPrefix::new("/registry").unwrap();
    let instance = ServiceInstance {
        id: "node/1:9000".into(),
        name: "beer.shop/order.service".into(),
        endpoints: vec!["grpc://127.0.0.1:9000".into()],
        ..ServiceInstance::default()
    };
    let (key, value) = Layout::Kratos.encode_nested(&prefix, &instance).unwrap();
    assert_eq!(key, "/registry/beer.shop/order.service/node/1:9000");
    assert_eq!(Layout::Kratos.decode(&prefix, &key, &value).decoded, Decoded::Instance(instance.clone()));
    assert_eq!(Layout::Kratos.decode(&prefix, &key, &value).warning, None);
    let micro = ServiceInstance { endpoints: vec!["127.0.0.1:9000".into()], ..instance.clone() };
    let (key, value) = Layout::GoMicro.encode_nested(&prefix, &micro).unwrap();
    assert_eq!(key, "/registry/beer.shop-order.service/node-1:9000");
    let decoded = Layout::GoMicro.decode(&prefix, &key, &value);
    assert_eq!((decoded.decoded, decoded.warning), (Decoded::Instance(micro.clone()), None));
    for wrong in ["", "/a", "a/", "a//b", "a/\n"] {
        let wrong = ServiceInstance { name: wrong.into(), ..instance.clone() };
        assert!(Layout::Kratos.encode_nested(&prefix, &wrong).is_err(), "{wrong:?}");
    }
    let kitex = ServiceInstance { id: "127.0.0.1:9000".into(), ..micro };
    assert!(Layout::Kitex.encode_nested(&prefix, &kitex).is_err(), "kitex parts its keys at the slashes");
    assert!(Layout::Kratos.encode(&prefix, &instance).is_err());
}
