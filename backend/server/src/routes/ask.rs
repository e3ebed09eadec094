//! How a request's parts are read: its query, its JSON body, and whether etcd is there to answer it.

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use rollcall_registry::etcd::connect::EtcdClient;
use rollcall_shared::{
    FieldError,
    api::{BODY_BYTES_MAX, EtcdState},
};
use serde_json::Value;

use super::App;
use crate::{
    mirror::{SourceConfig, View},
    problem::Failure,
};

/// How long a body may take to arrive.
const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The query, in which a name may stand several times.
pub struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }
}

impl Query {
    /// Every value of `name` that is not empty.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The value of `name`; 400 where it stands more than once.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Failure> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Failure::bad_request(format!("{name} stands more than once in the query"))),
            (value, None) => Ok(value),
        }
    }

    /// The value of `name` as a number; 400 where it is none.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        self.one(name)?
            .map(|text| text.parse().map_err(|_| Failure::bad_request(format!("{name} is no such number: {text:?}"))))
            .transpose()
    }
}

/// A body that is well-formed JSON.
pub struct Json(pub Value);

impl<S: Sync> FromRequest<S> for Json {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        if !is_json(request.headers()) {
            let detail = "the body is wanted as application/json";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let too_large = || Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 KiB");
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > BODY_BYTES_MAX) {
            return Err(too_large());
        }
        let reading = to_bytes(request.into_body(), BODY_BYTES_MAX);
        let bytes = match tokio::time::timeout(BODY_TIMEOUT, reading).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                use std::error::Error as _;
                let limited =
                    error.source().is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
                return Err(if limited { too_large() } else { Failure::bad_request("the body broke off") });
            }
            Err(_) => {
                return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 10 s"));
            }
        };
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            // The only thing that serde_json has against well-formed JSON.
            if error.to_string().starts_with("recursion limit exceeded") {
                return Failure::unprocessable(vec![FieldError::new("", "it is nested too deeply")]);
            }
            Failure::bad_request(format!("the body is no JSON: {error}"))
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let kind = value.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

impl App {
    /// 503 until every source's first snapshot stands.
    pub fn require_ready(&self) -> Result<(), Failure> {
        if *self.context.mirror.ready().borrow() {
            return Ok(());
        }
        Err(Failure::unavailable("the first snapshot does not stand yet"))
    }

    /// A client of etcd; 503 while etcd is away.
    pub async fn etcd(&self) -> Result<EtcdClient, Failure> {
        let status = *self.context.mirror.status().borrow();
        if status.etcd == EtcdState::Unreachable {
            let seconds = status.since.elapsed().as_secs();
            return Err(Failure::unavailable(format!(
                "etcd has been away for {seconds} s: nothing can be asked or written"
            )));
        }
        Ok(self.context.connection.client().await?)
    }

    /// The source of `key`; 403 where there is none.
    pub fn source(&self, key: &str) -> Result<&SourceConfig, Failure> {
        self.context.mirror.source_of(key).ok_or_else(|| Failure::outside(key))
    }

    /// How old what is known may be, in seconds, while etcd is away.
    pub fn stale_for_s(&self) -> Option<u64> {
        self.context.mirror.status().borrow().stale_for_s()
    }

    /// Looks at the catalog; 503 until it stands.
    pub fn view<T>(&self, look: impl FnOnce(&rollcall_shared::Catalog) -> T) -> Result<View<T>, Failure> {
        self.require_ready()?;
        Ok(self.context.mirror.view(look))
    }
}

/// The parameter `key`, which must stand there.
pub fn required_key(query: &Query) -> Result<&str, Failure> {
    query.one("key")?.ok_or_else(|| Failure::bad_request("key is missing in the query"))
}

/// A lease id in a path.
pub fn lease_id(text: &str) -> Result<rollcall_shared::LeaseId, Failure> {
    text.parse().map_err(|error| Failure::bad_request(format!("{text:?}: {error}")))
}
