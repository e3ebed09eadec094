//! The codecs through the public face: tables of what each layout makes of a value, what it writes, what it refuses
//! and what an edit touches.

use rollcall_shared::{Decoded, FieldError, KeyPrefix, Layout, ServiceInstance, layout::DecodedEntry};

fn prefix(layout: Layout) -> KeyPrefix {
    KeyPrefix::new(match layout {
        Layout::Kratos => "/microservices",
        Layout::GoMicro => "/micro/registry",
        Layout::GoKit | Layout::Plain => "services",
        Layout::Grpc => "helloworld",
        Layout::GoZero => "hello.rpc",
        Layout::Kitex => "kitex/registry-etcd",
        Layout::Hertz => "hertz/registry-etcd",
    })
    .expect("a sound prefix")
}

/// Decodes `value` under `rest` below the layout's usual prefix.
fn decode(layout: Layout, rest: &str, value: &[u8]) -> DecodedEntry {
    let prefix = prefix(layout);
    layout.decode(&prefix, &format!("{prefix}{rest}"), value)
}

fn instance(entry: &DecodedEntry) -> &ServiceInstance {
    match &entry.decoded {
        Decoded::Instance(instance) => instance,
        Decoded::Malformed { why, raw } => panic!("{why}: {raw:?}"),
    }
}

fn made(name: &str, id: &str, metadata: &[(&str, &str)], endpoints: &[&str]) -> ServiceInstance {
    ServiceInstance {
        id: id.into(),
        name: name.into(),
        version: String::new(),
        metadata: metadata.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect(),
        endpoints: endpoints.iter().map(|text| (*text).into()).collect(),
    }
}

#[test]
fn a_malformed_value_says_why_and_counts_for_the_service_of_its_key() {
    use Layout::{GoKit, GoMicro, GoZero, Grpc, Hertz, Kitex, Kratos, Plain};
    let table: &[(Layout, &[u8], &str)] = &[
        (Kratos, b"null", "crashes every running kratos client"),
        (Kratos, b" null\n", "crashes every running kratos client"),
        (Kratos, b"", "no JSON"),
        (Kratos, b"{", "no JSON"),
        (Kratos, b"not json", "no JSON"),
        (Kratos, b"\xff\xfe", "no JSON"),
        (Kratos, b"[]", "is a list where an object"),
        (Kratos, b"true", "is a boolean where an object"),
        (Kratos, b"{}", "no `name`"),
        (Kratos, br#"{"id":"1"}"#, "no `name`"),
        (Kratos, br#"{"id":"1","name":""}"#, "no `name`"),
        (Kratos, br#"{"id":"1","name":null}"#, "no `name`"),
        (Kratos, br#"{"id":1,"name":"a"}"#, "`id` is a number where a string"),
        (Kratos, br#"{"id":"1","name":"a","metadata":[]}"#, "`metadata` is a list where an object"),
        (Kratos, br#"{"id":"1","name":"a","metadata":{"w":1}}"#, "`metadata.w` is a number where a string"),
        (Kratos, br#"{"id":"1","name":"a","endpoints":"http://a"}"#, "`endpoints` is a string where a list"),
        (Kratos, br#"{"id":"1","name":"a","endpoints":[1]}"#, "`endpoints` is a number where a string"),
        (Kratos, br#"{"id":"1","name":"a"} x"#, "something follows"),
        (GoMicro, b"null", "is `null` where an object"),
        (GoMicro, b"[]", "is a list where an object"),
        (GoMicro, b"{}", "no `name`"),
        (GoMicro, br#"{"name":"a"}"#, "no node"),
        (GoMicro, br#"{"name":"a","nodes":null}"#, "no node"),
        (GoMicro, br#"{"name":"a","nodes":[]}"#, "no node"),
        (GoMicro, br#"{"name":"a","nodes":[null]}"#, "`null`"),
        (GoMicro, br#"{"name":"a","nodes":[{"id":1}]}"#, "`id` is a number"),
        (GoMicro, br#"{"name":"a","endpoints":[{"request":[]}],"nodes":[{"id":"1"}]}"#, "`request` is a list"),
        (GoKit, b"", "is empty"),
        (GoKit, b"\xff", "no UTF-8"),
        (GoZero, b"", "is empty"),
        (GoZero, b"a\xff", "no UTF-8"),
        (Grpc, b"null", "is `null` where an object"),
        (Grpc, b"{}", "no `Addr`"),
        (Grpc, br#"{"Op":0,"Addr":""}"#, "no `Addr`"),
        (Grpc, br#"{"Op":"0","Addr":"a:1"}"#, "`Op` is a string"),
        (Grpc, br#"{"Op":1.5,"Addr":"a:1"}"#, "whole number"),
        (Grpc, br#"{"Op":256,"Addr":"a:1"}"#, "from 0 to 255"),
        (Kitex, b"null", "is `null` where an object"),
        (Kitex, b"{}", "no `address`"),
        (Kitex, br#"{"network":"tcp","address":"","weight":10}"#, "no `address`"),
        (Kitex, br#"{"network":"tcp","address":"a:1","weight":"10"}"#, "`weight` is a string"),
        (Hertz, br#"{"network":"tcp","address":"a:1","tags":{"a":{}}}"#, "`tags.a` is an object"),
        (Plain, b"", "is empty"),
        (Plain, b" \n", "is empty"),
        (Plain, b"null", "is `null`, where an address"),
        (Plain, b"[]", "is a list, where an address"),
        (Plain, b"17", "is a number, where an address"),
        (Plain, b"\"10.0.0.1:80\"", "is a string, where an address"),
        (Plain, b"two words", "text that is no address"),
        (Plain, b"\xff", "no UTF-8"),
        (Plain, b"{", "no JSON"),
        (Plain, b"{}", "no `IP`"),
        (Plain, br#"{"ID":{},"IP":"a:1"}"#, "`ID` is an object"),
    ];
    for (layout, value, clause) in table {
        let entry = decode(*layout, "svc/a/1", value);
        let Decoded::Malformed { why, .. } = &entry.decoded else {
            panic!("{layout} {}: {entry:?}", String::from_utf8_lossy(value));
        };
        assert!(why.contains(clause), "{layout} {}: {why}", String::from_utf8_lossy(value));
        assert_eq!((&*entry.service, entry.warning), ("svc/a", None));
    }
    assert_eq!(decode(Kratos, "alone", b"null").service, "alone");
    assert_eq!(decode(Kitex, "alone", b"null").service, "alone");
    assert_eq!(decode(Plain, "alone", b"").service, "alone");
    assert_eq!(decode(Grpc, "alone", b"null").service, "helloworld");
    assert_eq!(decode(Kratos, "", b"null").service, "/microservices");
    assert_eq!(decode(Kratos, "/", b"null").service, "/");
}

#[test]
fn what_is_odd_is_shown_with_a_warning() {
    use Layout::{GoMicro, Grpc, Kitex, Kratos, Plain};
    let table: &[(Layout, &str, &str, ServiceInstance, Option<&str>)] = &[
        (Kratos, "a/1", r#"{"ID":"1","NAME":"a","x":[{}]}"#, made("a", "1", &[], &[]), None),
        (Kratos, "a/1", r#"{"id":"1","name":"a","metadata":null,"endpoints":null}"#, made("a", "1", &[], &[]), None),
        (Kratos, "a/1", r#"{"name":"a"}"#, made("a", "1", &[], &[]), Some("no `id`")),
        (Kratos, "a/1", r#"{"name":"b","id":"1"}"#, made("b", "1", &[], &[]), Some("the value says b/1")),
        (Kratos, "a/b/1/2", r#"{"name":"a/b","id":"1/2"}"#, made("a/b", "1/2", &[], &[]), None),
        (
            Kratos,
            "a/1",
            r#"{"name":"a","id":"1","metadata":{"a":"\ud800"}}"#,
            made("a", "1", &[("a", "\u{fffd}")], &[]),
            None,
        ),
        (
            GoMicro,
            "a-b/1",
            r#"{"name":"a/b","nodes":[{"id":"1","address":"h:1"}]}"#,
            made("a/b", "1", &[], &["h:1"]),
            None,
        ),
        (
            GoMicro,
            "a/1",
            r#"{"name":"a","nodes":[{"id":"1","address":"h:1"},{"id":"2"}]}"#,
            made("a", "1", &[], &["h:1"]),
            Some("2 nodes; shown is the first"),
        ),
        (GoMicro, "a/1", r#"{"name":"a","nodes":[{"id":"1"}]}"#, made("a", "1", &[], &[]), Some("no `address`")),
        (GoMicro, "a/1", r#"{"name":"a","nodes":[{"address":"h:1"}]}"#, made("a", "1", &[], &["h:1"]), Some("no `id`")),
        (
            GoMicro,
            "a/2",
            r#"{"name":"a","nodes":[{"id":"1","address":"h:1"}]}"#,
            made("a", "1", &[], &["h:1"]),
            Some("a/1"),
        ),
        (Grpc, "n", r#"{"Addr":"h:1"}"#, made("helloworld", "n", &[], &["h:1"]), None),
        (Grpc, "a/b/n", r#"{"Addr":"h:1"}"#, made("a/b", "n", &[], &["h:1"]), None),
        (
            Grpc,
            "n",
            r#"{"Op":1,"Addr":"h:1"}"#,
            made("helloworld", "n", &[], &["h:1"]),
            Some("it is listed and called"),
        ),
        (
            Grpc,
            "n",
            r#"{"Addr":"h:1","Metadata":{"a":"b","n":1.50,"o":{"x": [1]},"z":null}}"#,
            made("helloworld", "n", &[("a", "b"), ("n", "1.50"), ("o", r#"{"x": [1]}"#), ("z", "null")], &["h:1"]),
            None,
        ),
        (
            Grpc,
            "n",
            r#"{"Addr":"h:1","Metadata":"w=3"}"#,
            made("helloworld", "n", &[("Metadata", "w=3")], &["h:1"]),
            None,
        ),
        (Grpc, "n", r#"{"Addr":"h:1","Metadata":7}"#, made("helloworld", "n", &[("Metadata", "7")], &["h:1"]), None),
        (Kitex, "a/b/h:1", r#"{"network":"tcp","address":"h:1"}"#, made("a/b", "h:1", &[], &["h:1"]), None),
        (Kitex, "a/h:1", r#"{"address":"h:1"}"#, made("a", "h:1", &[], &["h:1"]), Some("no `network`")),
        (
            Kitex,
            "a/h:1",
            r#"{"network":"tcp","address":"h:2","tags":{"a":null}}"#,
            made("a", "h:1", &[("a", "")], &["h:2"]),
            Some("the value says h:2"),
        ),
        (Plain, "a", r#"{"ID":1,"IP":"1.2.3.4:80"}"#, made("a", "1", &[], &["1.2.3.4:80"]), None),
        (Plain, "a/1", r#"{"id":"1","ip":"1.2.3.4:80"}"#, made("a", "1", &[], &["1.2.3.4:80"]), None),
        (Plain, "a/2", r#"{"ID":1,"IP":"1.2.3.4:80"}"#, made("a", "1", &[], &["1.2.3.4:80"]), Some("the id is 1")),
        (Plain, "a/b/2", r#"{"IP":"1.2.3.4:80"}"#, made("a/b", "2", &[], &["1.2.3.4:80"]), None),
        (Plain, "a", "1.2.3.4:80\n", made("a", "a", &[], &["1.2.3.4:80"]), None),
        (Plain, "a/1", "1.2.3.4", made("a", "1", &[], &["1.2.3.4"]), Some("no host:port")),
    ];
    for (layout, rest, value, expected, clause) in table {
        let entry = decode(*layout, rest, value.as_bytes());
        assert_eq!(instance(&entry), expected, "{layout} {rest} {value}");
        assert_eq!(entry.service, expected.name);
        match clause {
            Some(clause) => {
                assert!(entry.warning.as_ref().is_some_and(|text| text.contains(clause)), "{value} {entry:?}");
            }
            None => assert_eq!(entry.warning, None, "{value}"),
        }
    }
}

#[test]
fn a_registration_is_written_as_the_framework_writes_it() {
    use Layout::{GoKit, GoMicro, GoZero, Grpc, Hertz, Kitex, Kratos, Plain};
    let odd = [("b", "<&>"), ("a", "1")];
    let table: &[(Layout, ServiceInstance, &str, &str)] = &[
        (
            Kratos,
            ServiceInstance { version: "v1".into(), ..made("a", "1", &odd, &["http://h:1", "grpc://[::1]:2"]) },
            "/microservices/a/1",
            r#"{"id":"1","name":"a","version":"v1","metadata":{"a":"1","b":"\u003c\u0026\u003e"},"endpoints":["http://h:1","grpc://[::1]:2"]}"#,
        ),
        (
            Kratos,
            made("a", "1", &[], &["http://h:1"]),
            "/microservices/a/1",
            r#"{"id":"1","name":"a","version":"","metadata":{},"endpoints":["http://h:1"]}"#,
        ),
        (
            GoMicro,
            ServiceInstance { version: "latest".into(), ..made("a", "1", &[("x", "y")], &["h:1"]) },
            "/micro/registry/a/1",
            r#"{"name":"a","version":"latest","metadata":null,"endpoints":[],"nodes":[{"metadata":{"x":"y"},"id":"1","address":"h:1"}]}"#,
        ),
        (GoKit, made("a", "1", &[], &["http://h:1"]), "services/a/1", "http://h:1"),
        (GoKit, made("a", "1", &[], &["h:1"]), "services/a/1", "h:1"),
        (GoZero, made("hello.rpc", "17", &[], &["h:1"]), "hello.rpc/17", "h:1"),
        (GoZero, made("a", "17", &[], &["h:1"]), "hello.rpc/a/17", "h:1"),
        (Grpc, made("helloworld", "n", &[], &["h:1"]), "helloworld/n", r#"{"Op":0,"Addr":"h:1","Metadata":null}"#),
        (
            Grpc,
            made("helloworld", "n", &odd, &["h:1"]),
            "helloworld/n",
            r#"{"Op":0,"Addr":"h:1","Metadata":{"a":"1","b":"\u003c\u0026\u003e"}}"#,
        ),
        (
            Kitex,
            made("a", "h:1", &[], &["h:1"]),
            "kitex/registry-etcd/a/h:1",
            r#"{"network":"tcp","address":"h:1","weight":10,"tags":null}"#,
        ),
        (
            Kitex,
            made("a", "h:1", &odd, &["h:1"]),
            "kitex/registry-etcd/a/h:1",
            r#"{"network":"tcp","address":"h:1","weight":10,"tags":{"a":"1","b":"\u003c\u0026\u003e"}}"#,
        ),
        (
            Hertz,
            made("a", "h:1", &odd, &["h:1"]),
            "hertz/registry-etcd/a/h:1",
            r#"{"network":"tcp","address":"h:1","weight":10,"tags":{"a":"1","b":"<&>"}}"#,
        ),
        (Plain, made("a", "1", &[], &["1.2.3.4:80"]), "services/a/1", "1.2.3.4:80"),
    ];
    for (layout, instance, key, value) in table {
        let (written_key, written) = layout.encode(&prefix(*layout), instance).unwrap();
        assert_eq!((&*written_key, str::from_utf8(&written).unwrap()), (*key, *value), "{layout}");
    }
}

/// The pointers of what is wrong with registering `instance`.
fn refused(layout: Layout, instance: &ServiceInstance) -> Vec<String> {
    let errors = layout.encode(&prefix(layout), instance).err().unwrap_or_default();
    assert!(errors.iter().all(|error| !error.detail.is_empty()));
    errors.into_iter().map(|error| error.pointer).collect()
}

#[test]
fn a_name_or_id_that_makes_no_sound_key_is_refused() {
    let long = "é".repeat(128);
    for wrong in ["", "/", "a/b", "a\nb", "\u{7f}", "\u{85}", &long] {
        for layout in Layout::ALL {
            let endpoint = if layout == Layout::Kratos { "http://h:1" } else { "h:1" };
            let id = layout.default_id(&[endpoint.to_owned()], || "1".to_owned());
            assert_eq!(refused(layout, &made(wrong, &id, &[], &[endpoint])), ["/instance/name"], "{wrong:?}");
            assert!(refused(layout, &made("a", wrong, &[], &[endpoint])).contains(&"/instance/id".to_owned()));
        }
    }
    for fine in ["a", " a ", "订单", "a.b", "<&>", &"x".repeat(255)] {
        assert!(refused(Layout::Kratos, &made(fine, fine, &[], &["http://h:1"])).is_empty(), "{fine:?}");
    }
    let wrong = made("", "", &[], &["h:1", "http://"]);
    let all = ["/instance/name", "/instance/id", "/instance/endpoints/0", "/instance/endpoints/1"];
    assert_eq!(refused(Layout::Kratos, &wrong), all);
}

#[test]
fn endpoints_are_urls_where_the_layout_writes_urls() {
    let fine = [
        "http://10.0.0.1:8000",
        "grpc://[2001:db8::1]:9000",
        "https://api.example.com/v1",
        "ws://h",
        "http://[::1]",
        "grpc://10.0.0.1:9000?isSecure=true",
        "http://u:p@h:1/%41#x",
        "http://订单:1",
        "a+b-c.d://h:65535",
    ];
    let wrong = [
        "",
        "h:1",
        "10.0.0.1:8000",
        "http:/h",
        "http:h",
        "//h:1",
        "://h",
        "1a://h",
        "h t://h",
        "http://",
        "http:///a",
        "http://:80",
        "http://h:",
        "http://h:0",
        "http://h:65536",
        "http://h:x",
        "http://h:+1",
        "http://h:000001",
        "http://h h",
        "http://h/a b",
        "http://h/\n",
        "http://h/%zz",
        "http://h/%4",
        "http://[::1",
        "http://[x]:1",
        "http://[::1]x",
        "http://::1:80",
        "http://a@",
        "http://h?a\u{a0}b",
        "http://h\\:1",
    ];
    for layout in [Layout::Kratos, Layout::GoKit] {
        for endpoint in fine {
            assert!(refused(layout, &made("a", "1", &[], &[endpoint])).is_empty(), "{endpoint:?}");
        }
        for endpoint in wrong.iter().filter(|text| layout == Layout::Kratos || text.contains("://")) {
            assert_eq!(refused(layout, &made("a", "1", &[], &[endpoint])), ["/instance/endpoints/0"], "{endpoint:?}");
        }
    }
    assert_eq!(refused(Layout::Kratos, &made("a", "1", &[], &[])), ["/instance/endpoints"]);
    assert_eq!(
        refused(Layout::Kratos, &made("a", "1", &[], &["http://h", "x", ""])),
        ["/instance/endpoints/1", "/instance/endpoints/2"]
    );
}

#[test]
fn endpoints_are_one_host_and_port_where_the_layout_knows_no_scheme() {
    use Layout::{GoKit, GoMicro, GoZero, Grpc, Hertz, Kitex, Plain};
    let fine = ["10.0.0.1:80", "[2001:db8::1]:80", "localhost:1", "a_b-c.example:65535", "订单:1"];
    let wrong = [
        "",
        ":80",
        "h",
        "h:",
        "h:0",
        "h:65536",
        "h:-1",
        "h:8o",
        "h:1 ",
        " h:1",
        "h h:1",
        "::1:80",
        "[::1]",
        "[::1]80",
        "[h]:80",
        "http://h:1",
        "h:1/",
        "u@h:1",
        "h\n:1",
        "[::1:80",
    ];
    for layout in [GoMicro, GoZero, Grpc, Kitex, Hertz, Plain, GoKit] {
        let made = |endpoints: &[&str]| {
            let id = endpoints.first().filter(|id| !id.is_empty() && matches!(layout, Kitex | Hertz));
            made("a", id.unwrap_or(&"1"), &[], endpoints)
        };
        for endpoint in fine {
            assert!(refused(layout, &made(&[endpoint])).is_empty(), "{layout} {endpoint:?}");
        }
        for endpoint in wrong.iter().filter(|text| layout != GoKit || !text.contains("://")) {
            let pointers = refused(layout, &made(&[endpoint]));
            assert!(pointers.contains(&"/instance/endpoints/0".to_owned()), "{layout} {endpoint:?}");
        }
        assert_eq!(refused(layout, &made(&[])), ["/instance/endpoints"]);
        assert_eq!(refused(layout, &made(&["h:1", "h:2"])), ["/instance/endpoints"]);
    }
}

#[test]
fn what_a_layout_cannot_carry_is_refused_and_never_dropped() {
    use Layout::{GoKit, GoMicro, GoZero, Grpc, Hertz, Kitex, Kratos, Plain};
    for layout in Layout::ALL {
        let endpoint = if layout == Kratos { "http://h:1" } else { "h:1" };
        let id = layout.default_id(&[endpoint.to_owned()], || "1".to_owned());
        let versioned = ServiceInstance { version: "v1".into(), ..made("a", &id, &[], &[endpoint]) };
        let expected: &[&str] = if matches!(layout, Kratos | GoMicro) { &[] } else { &["/instance/version"] };
        assert_eq!(refused(layout, &versioned), expected, "{layout}");
        let expected: &[&str] = if matches!(layout, GoZero | GoKit | Plain) { &["/instance/metadata"] } else { &[] };
        assert_eq!(refused(layout, &made("a", &id, &[("a", "")], &[endpoint])), expected, "{layout}");
        let expected: &[&str] = if matches!(layout, Kitex | Hertz) { &["/instance/id"] } else { &[] };
        assert_eq!(refused(layout, &made("a", "x", &[], &[endpoint])), expected, "{layout}");
    }
    assert!(refused(Grpc, &made("a", "1", &[], &["h:1"])).is_empty());
}

/// `value` after `change` was made to what it decodes to.
fn edit(
    layout: Layout,
    rest: &str,
    value: &str,
    change: impl FnOnce(&mut ServiceInstance),
) -> Result<String, Vec<FieldError>> {
    let mut edited = instance(&decode(layout, rest, value.as_bytes())).clone();
    change(&mut edited);
    let prefix = prefix(layout);
    let written = layout.edit(&prefix, &format!("{prefix}{rest}"), value.as_bytes(), &edited)?;
    Ok(String::from_utf8(written).expect("text edited is text"))
}

#[test]
fn an_edit_touches_the_edited_bytes_and_no_others() {
    let value = r#" { "endpoints" : [ "http://h:1" ],"x":1.0e0,
        "metadata":{ "b" : "\u0062", "d":"é" } ,"id":"1","name":"a" } "#;
    let set = |name: &'static str, text: &'static str| {
        move |instance: &mut ServiceInstance| drop(instance.metadata.insert(name.into(), text.into()))
    };
    let kratos = |change: &dyn Fn(&mut ServiceInstance)| edit(Layout::Kratos, "a/1", value, change).unwrap();
    assert_eq!(kratos(&|_| ()), value);
    assert_eq!(kratos(&set("d", "<")), value.replace("\"é\"", r#""\u003c""#));
    assert_eq!(kratos(&set("a", "1")), value.replace(r#""b" :"#, r#""a":"1","b" :"#));
    assert_eq!(kratos(&set("c", "1")), value.replace(r#""\u0062","#, r#""\u0062","c":"1","#));
    assert_eq!(kratos(&set("e", "1")), value.replace("\"é\"", "\"é\",\"e\":\"1\""));
    assert_eq!(kratos(&|i| drop(i.metadata.remove("b"))), value.replace(r#""b" : "\u0062", "#, ""));
    assert_eq!(kratos(&|i| drop(i.metadata.remove("d"))), value.replace(r#", "d":"é""#, ""));
    assert_eq!(kratos(&|i| i.metadata.clear()), value.replace(r#""b" : "\u0062", "d":"é""#, ""));
    assert_eq!(kratos(&|i| i.version = "v2".into()), value.replace(r#""name":"a" "#, r#""name":"a","version":"v2" "#));
    assert_eq!(
        kratos(&|i| i.endpoints.push("grpc://h:2".into())),
        value.replace(r#"[ "http://h:1" ]"#, r#"["http://h:1","grpc://h:2"]"#)
    );

    let hertz = r#"{"network":"tcp","address":"h:1","weight":0,"tags":{"z":"<","a":"1"}}"#;
    let written = edit(Layout::Hertz, "a/h:1", hertz, set("0", "2")).unwrap();
    assert_eq!(written, hertz.replace(r#""a":"1""#, r#""a":"1","0":"2""#));
    let kitex = r#"{"network":"tcp","address":"h:1","weight":10,"tags":null}"#;
    let written = edit(Layout::Kitex, "a/h:1", kitex, set("m", "2")).unwrap();
    assert_eq!(written, kitex.replace("null", r#"{"m":"2"}"#));

    let grpc = r#"{"Op":1,"Addr":"h:1","Metadata":{"n":1.50,"s":"x"}}"#;
    assert_eq!(edit(Layout::Grpc, "n", grpc, set("n", "2")).unwrap(), grpc.replace("1.50", "2"));
    assert_eq!(edit(Layout::Grpc, "n", grpc, set("n", "two")).unwrap(), grpc.replace("1.50", "\"two\""));
    assert_eq!(edit(Layout::Grpc, "n", grpc, set("s", "3")).unwrap(), grpc.replace("\"x\"", "\"3\""));
    let text = r#"{"Op":0,"Addr":"h:1","Metadata":"w=3"}"#;
    assert_eq!(edit(Layout::Grpc, "n", text, set("Metadata", "w=4")).unwrap(), text.replace("w=3", "w=4"));
    assert_eq!(edit(Layout::Grpc, "n", text, |i| i.metadata.clear()).unwrap(), text.replace("\"w=3\"", "null"));

    let micro = r#"{"name":"a","version":"latest","endpoints":[{"name":"X","metadata":{}}],"nodes":[{"id":"1","address":"h:1","metadata":{"x":"1"}},{"id":"2","address":"h:2"}]}"#;
    let change = |instance: &mut ServiceInstance| {
        instance.version = "2".into();
        instance.endpoints = vec!["h:9".into()];
        instance.metadata.insert("y".into(), "2".into());
    };
    let expected = micro.replace("latest", "2").replace("h:1", "h:9").replace(r#"{"x":"1"}"#, r#"{"x":"1","y":"2"}"#);
    assert_eq!(edit(Layout::GoMicro, "a/1", micro, change).unwrap(), expected);
    let bare = r#"{"name":"a","nodes":[{}]}"#;
    let expected = r#"{"name":"a","nodes":[{"address":"h:9","metadata":{"y":"2"}}],"version":"2"}"#;
    assert_eq!(edit(Layout::GoMicro, "a/1", bare, change).unwrap(), expected);

    let moved = |instance: &mut ServiceInstance| instance.endpoints = vec!["h:2".into()];
    assert_eq!(edit(Layout::Plain, "a", "{\"ID\":1, \"IP\":\"h:1\"}", moved).unwrap(), "{\"ID\":1, \"IP\":\"h:2\"}");
    assert_eq!(edit(Layout::Plain, "a", " h:1\n", moved).unwrap(), " h:2\n");
    assert_eq!(edit(Layout::GoZero, "1", "h:1", moved).unwrap(), "h:2");
    assert_eq!(edit(Layout::GoKit, "a/1", "{opaque}", moved).unwrap(), "h:2");
}

#[test]
fn fields_that_stand_twice_are_edited_as_go_reads_them() {
    let value = r#"{"id":"1","name":"a","metadata":null,"metadata":{"x":"0"},"metadata":null,"Metadata":{"a":"1","b":"2"},"metadata":{"b":"3","c":"4","c":"5"},"version":"1","version":null}"#;
    let written = edit(Layout::Kratos, "a/1", value, |instance| {
        assert_eq!(instance.metadata.len(), 3);
        instance.metadata.remove("a");
        instance.metadata.insert("b".into(), "9".into());
        instance.version = "2".into();
    })
    .unwrap();
    let entry = decode(Layout::Kratos, "a/1", written.as_bytes());
    let expected = ServiceInstance { version: "2".into(), ..made("a", "1", &[("b", "9"), ("c", "5")], &[]) };
    assert_eq!(instance(&entry), &expected, "{written}");
    assert!(written.contains(r#""c":"4","c":"5"}"#) && written.contains(r#"{"x":"0"},"metadata":null"#), "{written}");
}

#[test]
fn the_weight_that_kitex_balances_by_is_shown_and_edited() {
    let value =
        |weight: &str, tags: &str| format!(r#"{{"network":"tcp","address":"h:1", "weight":{weight},"tags":{tags}}}"#);
    let weigh = |text: &str| {
        let text = text.to_owned();
        move |instance: &mut ServiceInstance| drop(instance.metadata.insert("weight".into(), text.clone()))
    };
    let unweigh = |instance: &mut ServiceInstance| drop(instance.metadata.remove("weight"));
    for layout in [Layout::Kitex, Layout::Hertz] {
        let shown = |value: &str| instance(&decode(layout, "a/h:1", value.as_bytes())).metadata.get("weight").cloned();
        let edit = |value: &str, change: &dyn Fn(&mut ServiceInstance)| edit(layout, "a/h:1", value, change).unwrap();
        for unset in ["10", "0", "-5"] {
            assert_eq!(shown(&value(unset, "null")), None, "{unset} reads as 10, which is what no weight is");
            assert_eq!(edit(&value(unset, "null"), &weigh("30")), value("30", "null"));
            assert_eq!(edit(&value(unset, "{}"), &weigh("10")), value(unset, "{}"));
        }
        assert_eq!(shown(&value("30", "null")).as_deref(), Some("30"));
        assert_eq!(edit(&value("30", "null"), &weigh("1")), value("1", "null"));
        assert_eq!(edit(&value("30", r#"{"a":"b"}"#), &weigh("10")), value("10", r#"{"a":"b"}"#));
        assert_eq!(edit(&value("30", r#"{"a":"b"}"#), &unweigh), value("10", r#"{"a":"b"}"#));
        let both = |instance: &mut ServiceInstance| {
            weigh("7")(instance);
            instance.metadata.remove("a");
        };
        assert_eq!(edit(&value("30", r#"{"a":"b"}"#), &both), value("7", "{}"));

        let tagged = value("30", r#"{"weight":"5"}"#);
        assert_eq!(shown(&tagged).as_deref(), Some("5"), "a tag of that name stands before it");
        assert_eq!(edit(&tagged, &weigh("6")), value("30", r#"{"weight":"6"}"#));

        for (text, expected) in [("30", "\"weight\":30,\"tags\":null"), ("10", r#""weight":10,"tags":{"weight":"10"}"#)]
        {
            let made = made("a", "h:1", &[("weight", text)], &["h:1"]);
            let (key, value) = layout.encode(&prefix(layout), &made).unwrap();
            assert!(str::from_utf8(&value).unwrap().contains(expected), "{text}");
            assert_eq!(layout.decode(&prefix(layout), &key, &value).decoded, Decoded::Instance(made));
        }
    }
}

#[test]
fn an_edit_that_cannot_be_is_refused() {
    let pointers = |result: Result<String, Vec<FieldError>>| -> Vec<String> {
        result.unwrap_err().into_iter().map(|error| error.pointer).collect()
    };
    let kratos = r#"{"id":"1","name":"a","version":"","metadata":{},"endpoints":[]}"#;
    let all = |instance: &mut ServiceInstance| {
        instance.id = "2".into();
        instance.name = "b".into();
        instance.endpoints = vec!["h:1".into()];
    };
    let expected = ["/instance/id", "/instance/name", "/instance/endpoints/0"];
    assert_eq!(pointers(edit(Layout::Kratos, "a/1", kratos, all)), expected);
    let kitex = r#"{"network":"tcp","address":"h:1","weight":10,"tags":null}"#;
    let change = |instance: &mut ServiceInstance| {
        instance.version = "1".into();
        instance.endpoints = vec!["h:2".into()];
    };
    assert_eq!(pointers(edit(Layout::Kitex, "a/h:1", kitex, change)), ["/instance/version", "/instance/endpoints"]);
    let change = |instance: &mut ServiceInstance| drop(instance.metadata.insert("a".into(), String::new()));
    assert_eq!(pointers(edit(Layout::GoZero, "1", "h:1", change)), ["/instance/metadata"]);
    let weigh = |weight: &str| {
        let weight = weight.to_owned();
        move |instance: &mut ServiceInstance| drop(instance.metadata.insert("weight".into(), weight))
    };
    for weight in ["0", "-1", " 0 ", "0.0"] {
        for layout in [Layout::Kitex, Layout::Hertz] {
            assert_eq!(
                pointers(edit(layout, "a/h:1", kitex, weigh(weight))),
                ["/instance/metadata/weight"],
                "{weight}"
            );
        }
        assert!(edit(Layout::Kratos, "a/1", kratos, weigh(weight)).is_ok(), "{weight} drains there");
    }
    for weight in ["0.5", "", "light", "07", " 7", "99999999999999999999"] {
        assert_eq!(
            pointers(edit(Layout::Kitex, "a/h:1", kitex, weigh(weight))),
            ["/instance/metadata/weight"],
            "{weight}"
        );
    }
    let tagged = kitex.replace("null", r#"{"weight":"0"}"#);
    let change = |instance: &mut ServiceInstance| drop(instance.metadata.insert("a".into(), "b".into()));
    assert!(edit(Layout::Kitex, "a/h:1", &tagged, change).is_ok(), "what stands already is not asked for");
    assert!(edit(Layout::Kitex, "a/h:1", &tagged, weigh("light")).is_ok(), "a tag says what it likes");
    let prefix = prefix(Layout::Kratos);
    let errors = Layout::Kratos.edit(&prefix, "/microservices/a/1", b"null", &ServiceInstance::default()).unwrap_err();
    assert_eq!(errors[0].pointer, "/instance");
}
