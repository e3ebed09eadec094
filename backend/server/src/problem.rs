//! Errors as HTTP tells them: the one place that maps what went wrong to a status and an RFC 9457 problem.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use rollcall_registry::etcd::{connect::ConnectError, lease::LeaseError};
use rollcall_shared::{FieldError, Record, api::Problem};

/// After how many seconds to ask again while etcd is away.
const RETRY_AFTER_S: &str = "1";

/// An answer that is not 2xx.
#[derive(Debug)]
pub struct Failure(Box<Problem>);

impl Failure {
    /// An answer with this status, and a sentence that says what is wrong here.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            record: None,
        }))
    }

    /// 400: the request cannot be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 403 for a key that no source holds.
    pub fn outside(key: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("no source holds the key {key:?}: only watched prefixes are touched"))
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 409 with the record as it stands now.
    pub fn conflict(detail: impl Into<String>, record: Option<Arc<Record>>) -> Self {
        let mut failure = Self::new(StatusCode::CONFLICT, detail);
        failure.0.record = record;
        failure
    }

    /// 422 with what is wrong where.
    pub fn unprocessable(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] => format!("{}: {}", only.pointer, only.detail),
            _ => format!("{} fields are wrong; errors names each", errors.len()),
        };
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        failure.0.errors = errors;
        failure
    }

    /// 428 where nobody says which revision of a key was looked at.
    pub fn no_revision() -> Self {
        let detail = "mod_revision is missing: it says which revision of the key was looked at";
        Self::new(StatusCode::PRECONDITION_REQUIRED, detail)
    }

    /// 428 where nobody says how many keys of a lease were seen.
    pub fn no_keys() -> Self {
        let detail = "keys is missing: it says how many keys the lease was seen to hold";
        Self::new(StatusCode::PRECONDITION_REQUIRED, detail)
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What the body of the answer says.
    pub fn into_problem(self) -> Box<Problem> {
        self.0
    }

    /// 503: etcd is away, or what is asked for is not known yet.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = serde_json::to_vec(&self.0).expect("a problem has string keys only");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<LeaseError> for Failure {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Gone(lease) => Self::not_found(format!("the lease {lease} is gone")),
            LeaseError::Request(error) => Self::from(*error),
            LeaseError::Connect(_) | LeaseError::Timeout(_) | LeaseError::Unsettled(_) => {
                Self::unavailable(error.to_string())
            }
        }
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        let etcd_client::Error::GRpcStatus(status) = &error else { return Self::unavailable(error.to_string()) };
        let detail = format!("etcd: {}", status.message());
        match status.code() as i32 {
            // PERMISSION_DENIED: the user that this server has at etcd may not do this.
            7 => Self::new(StatusCode::FORBIDDEN, detail),
            _ => Self::unavailable(detail),
        }
    }
}

/// Gives every answer that is not 2xx the form of a problem, also those that the framework makes.
pub async fn problems_only(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let content_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if content_type == Some(b"application/problem+json") {
        return response;
    }
    let detail = match status {
        StatusCode::METHOD_NOT_ALLOWED => "this path does not take that method",
        StatusCode::NOT_FOUND => "nothing is at this path",
        StatusCode::BAD_REQUEST => "the path or the query cannot be read: it is no UTF-8, percent-encoded",
        StatusCode::FORBIDDEN => "another site's page asked for a write, which no other page may",
        StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than 64 KiB",
        _ => "the request was refused",
    };
    let mut problem = Failure::new(status, detail).into_response();
    for name in [header::ALLOW, header::WWW_AUTHENTICATE] {
        if let Some(value) = response.headers().get(&name) {
            problem.headers_mut().insert(name, value.clone());
        }
    }
    problem
}
