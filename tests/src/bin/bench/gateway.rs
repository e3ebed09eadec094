//! etcd's own way of pushing over plain HTTP: the JSON gateway at `/v3/watch`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rollcall_tests::Etcd;

use crate::{
    load::PREFIX,
    readers::{BASE64, Target},
};

/// A watch of all instances.
pub fn target(etcd: &Etcd) -> Target {
    let end = format!("{}0", PREFIX.trim_end_matches('/'));
    let body = format!(
        r#"{{"create_request":{{"key":"{}","range_end":"{}"}}}}"#,
        STANDARD.encode(PREFIX),
        STANDARD.encode(end)
    );
    let request = format!(
        "POST /v3/watch HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        etcd.address(),
        body.len()
    );
    Target { address: etcd.address(), request, mark: BASE64, one_of: 1 }
}
