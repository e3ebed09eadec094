//! The dashboard's files, which are part of the program.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::problem::Failure;

/// One file of `dist/`.
pub struct File {
    name: &'static str,
    bytes: &'static [u8],
    brotli: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// The page where the dashboard was not built into the program.
const UNBUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Rollcall</title>\
<h1>Rollcall</h1><p>This program was built without its dashboard: <code>cargo xtask build</code> builds both. \
The API is there all the same, at <a href=\"api/v1/services\">api/v1</a>.</p></html>";

/// Where the page takes the cluster's name from.
const CLUSTER_META: &str = "<meta name=\"rollcall-cluster\" content=\"\"";

/// The page and the files it needs, below a base path.
pub struct Assets {
    index: Bytes,
    index_etag: HeaderValue,
}

impl Assets {
    /// The files as they are served below `base_path`, which is empty or begins with `/` and does not end in one. The
    /// page shows `cluster_name`.
    pub fn new(base_path: &str, cluster_name: &str) -> Self {
        let index = FILES
            .iter()
            .find(|file| file.name == "index.html")
            .map_or(UNBUILT, |file| str::from_utf8(file.bytes).expect("the page is UTF-8"));
        // Every address in the page stands relative to its base.
        let index = index.replacen("<base href=\"/\"", &format!("<base href=\"{}/\"", escape(base_path)), 1).replacen(
            CLUSTER_META,
            &format!("<meta name=\"rollcall-cluster\" content=\"{}\"", escape(cluster_name)),
            1,
        );
        let index_etag = etag(index.as_bytes());
        Self { index: index.into(), index_etag }
    }

    /// The answer to a request that no route takes: a file, or the page, or 404.
    pub fn serve(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response {
        let path = uri.path().trim_start_matches('/');
        if path == "api" || path.starts_with("api/") {
            return Failure::not_found("the API has nothing at this path: /api/v1/openapi.json lists it")
                .into_response();
        }
        if method != Method::GET && method != Method::HEAD {
            let mut response =
                Failure::new(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here").into_response();
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        if let Some(file) = FILES.iter().find(|file| file.name == path && path != "index.html") {
            return file.serve(headers);
        }
        // A name may hold dots, so below /services/ every address is the page's. Elsewhere a dot names a file.
        let is_page = path.starts_with("services/") || path == "index.html" || !path.contains('.');
        if !is_page {
            return Failure::not_found("there is no such file").into_response();
        }
        if matches(headers, &self.index_etag) {
            return (StatusCode::NOT_MODIFIED, [(header::ETAG, self.index_etag.clone())]).into_response();
        }
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::ETAG, self.index_etag.clone()),
        ];
        (headers, Body::from(self.index.clone())).into_response()
    }
}

impl File {
    fn serve(&self, headers: &HeaderMap) -> Response {
        let etag = etag(self.bytes);
        let cache = if self.is_hashed() { "public, max-age=31536000, immutable" } else { "no-cache" };
        let cache = HeaderValue::from_static(cache);
        if matches(headers, &etag) {
            return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag), (header::CACHE_CONTROL, cache)]).into_response();
        }
        let common = [
            (header::CONTENT_TYPE, HeaderValue::from_static(self.content_type())),
            (header::CACHE_CONTROL, cache),
            (header::ETAG, etag),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        match self.brotli {
            Some(packed) if accepts_brotli(headers) => {
                (common, [(header::CONTENT_ENCODING, "br")], Bytes::from_static(packed)).into_response()
            }
            _ => (common, Bytes::from_static(self.bytes)).into_response(),
        }
    }

    /// Whether its name holds a hash of its content, as Trunk names files: `name-0123456789abcdef.js`.
    fn is_hashed(&self) -> bool {
        let stem = self.name.split('.').next().unwrap_or_default();
        let stem = stem.strip_suffix("_bg").unwrap_or(stem);
        stem.rsplit_once('-')
            .is_some_and(|(_, hash)| hash.len() >= 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    fn content_type(&self) -> &'static str {
        match self.name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("html") => "text/html; charset=utf-8",
            Some("js" | "mjs") => "text/javascript; charset=utf-8",
            Some("wasm") => "application/wasm",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some("png") => "image/png",
            Some("ico") => "image/x-icon",
            Some("json" | "webmanifest") => "application/json",
            Some("txt") => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

fn etag(bytes: &[u8]) -> HeaderValue {
    HeaderValue::try_from(format!("W/\"{:016x}\"", xxh3_64(bytes))).expect("hexadecimal digits make a header")
}

/// Whether `If-None-Match` names `etag`.
pub fn matches(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let Ok(etag) = etag.to_str() else { return false };
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|candidate| candidate.trim() == "*" || strong(candidate) == strong(etag))
}

fn accepts_brotli(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next().is_some_and(|name| name.eq_ignore_ascii_case("br"))
                && parts.all(|part| !matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_hash_are_kept_for_ever() {
        let file = |name| File { name, bytes: b"", brotli: None };
        for hashed in
            ["rollcall-0123456789abcdef.js", "rollcall-0123456789abcdef_bg.wasm", "a/boot-89abcdef01234567.js"]
        {
            assert!(file(hashed).is_hashed(), "{hashed}");
        }
        for plain in ["index.html", "favicon.svg", "rollcall-dashboard.js"] {
            assert!(!file(plain).is_hashed(), "{plain}");
        }
    }

    #[test]
    fn brotli_is_sent_to_those_who_take_it() {
        let headers =
            |value: &'static str| HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
        assert!(accepts_brotli(&headers("gzip, deflate, br")));
        assert!(accepts_brotli(&headers("br;q=1.0, gzip")));
        assert!(!accepts_brotli(&headers("gzip, br;q=0")));
        assert!(!accepts_brotli(&headers("gzip")));
    }

    #[test]
    fn a_weak_etag_matches_whatever_strength_it_is_asked_with() {
        let tag = HeaderValue::from_static("W/\"abc\"");
        let headers =
            |value: &'static str| HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(value))]);
        assert!(matches(&headers("\"abc\""), &tag));
        assert!(matches(&headers("W/\"x\", W/\"abc\""), &tag));
        assert!(!matches(&headers("W/\"abcd\""), &tag));
    }
}
