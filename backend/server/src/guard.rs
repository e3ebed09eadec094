//! Who may ask: the allow-list of hosts against DNS rebinding, and the token where one is configured. Which pages may
//! write is tower-http's `CsrfLayer`'s to say. Must not know what is asked for.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::problem::Failure;

/// What every route but `/healthz` and `/readyz` asks for first.
pub struct Guard {
    hosts: HashSet<String>,
    token: Option<String>,
}

impl Guard {
    /// Lets in requests for `hosts` and for loopback names, with `token` where one is configured.
    pub fn new(hosts: impl IntoIterator<Item = String>, token: Option<String>) -> Self {
        Self { hosts: hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect(), token }
    }

    fn knows_host(&self, authority: &str) -> bool {
        let host = without_port(authority).to_ascii_lowercase();
        is_loopback(&host) || self.hosts.contains(&host)
    }

    fn knows_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        match value.split_once(' ') {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") => same(given.trim(), token),
            // What a browser asks its user for: any name, and the token as the password.
            Some((scheme, given)) if scheme.eq_ignore_ascii_case("basic") => STANDARD
                .decode(given.trim())
                .ok()
                .and_then(|pair| String::from_utf8(pair).ok())
                .is_some_and(|pair| pair.split_once(':').is_some_and(|(_, password)| same(password, token))),
            _ => false,
        }
    }
}

/// Compares without saying by its time where the first difference is.
fn same(given: &str, token: &str) -> bool {
    given.len() == token.len() && given.bytes().zip(token.bytes()).fold(0, |sum, (one, other)| sum | (one ^ other)) == 0
}

fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(address, _)| address);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host that a request is for: of its target where that names one, else of its header.
fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = (hosts.next(), hosts.next());
    match (uri.authority(), named) {
        (Some(authority), _) => Some(authority.as_str()),
        (None, (Some(host), None)) => host.to_str().ok(),
        _ => None,
    }
}

/// Turns away requests for hosts that are not ours, and those without the token.
pub async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let known = authority(request.uri(), request.headers()).is_some_and(|authority| guard.knows_host(authority));
    if !known {
        let detail = "this server does not answer for that host: --allow-host names further ones";
        return Failure::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response();
    }
    if !guard.knows_token(request.headers()) {
        let mut response =
            Failure::new(StatusCode::UNAUTHORIZED, "the token is wanted, as Bearer or as Basic's password")
                .into_response();
        let challenge = HeaderValue::from_static("Basic realm=\"Rollcall\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        return response;
    }
    if !request.method().is_safe() && !is_from_own_page(request.uri(), request.headers()) {
        return Failure::new(StatusCode::FORBIDDEN, "another site's page asked for a write").into_response();
    }
    next.run(request).await
}

/// Whether the page that asks, where one does, is this host's own. `CsrfLayer` takes `Sec-Fetch-Site` for an answer;
/// here `Origin` has to agree too.
fn is_from_own_page(uri: &Uri, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Some((_, origin_host)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else { return false };
    authority(uri, headers).is_some_and(|host| host.eq_ignore_ascii_case(origin_host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_and_allowed_hosts_are_let_in() {
        let guard = Guard::new(["registry.example".to_owned()], None);
        for known in [
            "localhost",
            "localhost:8420",
            "127.0.0.1:8420",
            "127.8.8.8",
            "[::1]:8420",
            "[::1]",
            "Registry.Example:80",
            "app.localhost:1",
        ] {
            assert!(guard.knows_host(known), "{known}");
        }
        for other in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
            "[::2]:80",
            "evil:1@localhost",
        ] {
            assert!(!guard.knows_host(other), "{other}");
        }
    }

    #[test]
    fn only_a_page_of_the_same_host_writes() {
        let headers = |origin: &'static str| {
            HeaderMap::from_iter([
                (header::HOST, HeaderValue::from_static("localhost:8420")),
                (header::ORIGIN, HeaderValue::from_static(origin)),
            ])
        };
        let uri = Uri::from_static("/api/v1/instances");
        assert!(is_from_own_page(&uri, &headers("http://localhost:8420")));
        for other in ["http://localhost:8421", "http://evil.example", "null", "", "https://localhost:8420.evil.example"]
        {
            assert!(!is_from_own_page(&uri, &headers(other)), "{other}");
        }
        assert!(is_from_own_page(&uri, &HeaderMap::new()));
    }

    #[test]
    fn the_token_is_taken_as_bearer_or_as_a_password() {
        let guard = Guard::new([], Some("secret-secret-secret".to_owned()));
        let headers =
            |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::try_from(value).unwrap())]);
        assert!(guard.knows_token(&headers("Bearer secret-secret-secret")));
        assert!(guard.knows_token(&headers(&format!("Basic {}", STANDARD.encode("me:secret-secret-secret")))));
        for wrong in ["Bearer secret", "Bearer secret-secret-secreT", "secret-secret-secret", "Basic !!", "Digest x"] {
            assert!(!guard.knows_token(&headers(wrong)), "{wrong}");
        }
        assert!(!guard.knows_token(&HeaderMap::new()));
    }
}
