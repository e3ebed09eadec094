//! Requests to the server, and answers as tests like to look at them.

use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, RequestBuilder, header::HeaderMap, redirect::Policy};
use serde_json::Value;

/// How long an ordinary answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as it came.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, where it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap_or("?"))
    }

    /// Checks the status, and gives the body as JSON.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// Checks that this is a problem of that status as RFC 9457 has it, and gives its body.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "a problem came as {kind:?}: {}", self.text());
        let body = self.json();
        assert_eq!(body["status"], status, "{body}");
        for field in ["type", "title", "detail"] {
            assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "a problem without {field}: {body}");
        }
        body
    }

    /// Checks that this is a 422 that points at `pointer` or into it.
    #[track_caller]
    pub fn points_at(&self, pointer: &str) {
        let body = self.problem(422);
        let errors = body["errors"].as_array().unwrap_or_else(|| panic!("a 422 without errors: {body}"));
        assert!(
            errors.iter().any(|error| {
                let points = error["pointer"].as_str().and_then(|at| at.strip_prefix(pointer));
                points.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && error["detail"].is_string()
            }),
            "nothing points at {pointer}: {body}"
        );
    }
}

/// A client that follows no redirect, uses no proxy and adds no header.
pub fn client() -> Client {
    crate::cryptography::choose();
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client without TLS needs nothing")
}

/// Sends a request and reads the answer to its end.
pub async fn send(request: RequestBuilder) -> Answer {
    try_send(request).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
}

/// Sends a request and reads the answer to its end, where there is one.
pub async fn try_send(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.timeout(ANSWER_MAX).send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, body: response.bytes().await? })
}

/// Text as it stands in a path segment or a query value.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// A request of a JSON body.
pub fn json(client: &Client, method: Method, url: &str, body: &Value) -> RequestBuilder {
    client.request(method, url).header("content-type", "application/json").body(body.to_string())
}
