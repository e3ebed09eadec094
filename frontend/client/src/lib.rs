//! The registry client for WebAssembly: the verbs of the API over HTTP, and the stream of events.
//!
//! Owns: addresses, requests and the stream's line. Must not know: how anything is shown, or how events fold.
//!
//! With its feature `js` it is what the npm package in `npm/` is built around, for JavaScript in browsers, workers and Node.

mod acts;
mod events;
#[cfg(feature = "js")]
mod js;
mod json;
#[cfg(any(test, feature = "js"))]
mod line;
#[cfg(any(test, feature = "js"))]
mod sse;

use gloo_net::http::{Request, RequestBuilder, Response};
use rollcall_shared::{
    LeaseId, Revision,
    api::{
        API, Act, BatchAnswer, DeregisterAnswer, EditAnswer, EditRequest, LeaseAnswer, Problem, RecordsAnswer,
        RegisterAnswer, RegisterRequest, RevokeAnswer, ServicesAnswer,
    },
};
use serde::de::DeserializeOwned;

pub use acts::batches;
pub use events::{Connection, Events, EventsHandle, Message};

/// Why a verb did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server refused, and says why.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The server could not be asked.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server answered something else than this client understands.
    #[error("the server's answer ({status}) cannot be read: {why}")]
    Unreadable {
        /// The HTTP status.
        status: u16,
        /// What is wrong with the body.
        why: String,
    },
}

impl ClientError {
    /// The problem the server answered, where it answered one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            Self::Unreachable(_) | Self::Unreadable { .. } => None,
        }
    }
}

/// What `GET /instances` asks for; `Default` asks for the first page of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstancesQuery {
    /// Only this service's.
    pub service: Option<String>,
    /// At most so many.
    pub limit: Option<u32>,
    /// The token of the page before.
    pub continue_token: Option<String>,
}

/// The registry, as one server shows it.
#[derive(Debug, Clone)]
pub struct Client {
    api: String,
}

impl Client {
    /// A client of the server whose root, or base path, is at `base`, such as `http://127.0.0.1:8420`.
    pub fn new(base: &str) -> Self {
        Self { api: [base.trim_end_matches('/'), API].concat() }
    }

    /// Every service in short.
    pub async fn services(&self) -> Result<ServicesAnswer, ClientError> {
        answer(Request::get(&self.address("/services", &[]))).await
    }

    /// Instances by key, page by page.
    pub async fn instances(&self, query: &InstancesQuery) -> Result<RecordsAnswer, ClientError> {
        let limit = query.limit.map(|limit| limit.to_string());
        let mut pairs = Vec::new();
        for (name, value) in [("service", &query.service), ("limit", &limit), ("continue", &query.continue_token)] {
            if let Some(value) = value {
                pairs.push((name, value.as_str()));
            }
        }
        answer(Request::get(&self.address("/instances", &pairs))).await
    }

    /// The records of one service.
    pub async fn service(&self, name: &str) -> Result<RecordsAnswer, ClientError> {
        answer(Request::get(&self.address(&["/services/", &encode(name)].concat(), &[]))).await
    }

    /// The bytes that stand under `key`.
    pub async fn raw(&self, key: &str) -> Result<Vec<u8>, ClientError> {
        let response = send(Request::get(&self.address("/instances/raw", &[("key", key)]))).await?;
        if !response.ok() {
            return Err(problem(response).await);
        }
        body(&response).await
    }

    /// What is left of a lease, and which keys hang on it.
    pub async fn lease(&self, lease: LeaseId) -> Result<LeaseAnswer, ClientError> {
        answer(Request::get(&self.address(&["/leases/", &lease.to_string()].concat(), &[]))).await
    }

    /// Renews a lease.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<LeaseAnswer, ClientError> {
        answer(Request::post(&self.address(&["/leases/", &lease.to_string(), "/keepalive"].concat(), &[]))).await
    }

    /// Registers an instance.
    pub async fn register(&self, request: &RegisterRequest) -> Result<RegisterAnswer, ClientError> {
        read(send_json(Request::post(&self.address("/instances", &[])), acts::register(request)).await?).await
    }

    /// Changes fields of `key` as it stood at `mod_revision`, and only that.
    pub async fn edit(
        &self,
        key: &str,
        mod_revision: Revision,
        request: &EditRequest,
    ) -> Result<EditAnswer, ClientError> {
        let pairs = [("key", key), ("mod_revision", &mod_revision.to_string())];
        read(send_json(Request::put(&self.address("/instances", &pairs)), acts::edit(request)).await?).await
    }

    /// Does several acts, each by itself: what became of one says nothing of the others. One request; what does not fit
    /// into one the server refuses as a whole, and [`batches`] parts it.
    pub async fn batch(&self, acts: &[Act]) -> Result<BatchAnswer, ClientError> {
        let response = send_json(Request::post(&self.address("/batch", &[])), acts::batch(acts)).await?;
        if !response.ok() {
            return Err(problem(response).await);
        }
        let status = response.status();
        let unreadable = |error: json::Unreadable| ClientError::Unreadable { status, why: error.to_string() };
        acts::results(&text(&response).await?, acts).map_err(unreadable)
    }

    /// Deletes `key` as it stood at `mod_revision`, and only that.
    pub async fn deregister(&self, key: &str, mod_revision: Revision) -> Result<DeregisterAnswer, ClientError> {
        let pairs = [("key", key), ("mod_revision", &mod_revision.to_string())];
        answer(Request::delete(&self.address("/instances", &pairs))).await
    }

    /// Ends a lease and with it all its keys, provided that those inside the sources number `keys`.
    pub async fn revoke(&self, lease: LeaseId, keys: usize) -> Result<RevokeAnswer, ClientError> {
        let path = ["/leases/", &lease.to_string()].concat();
        answer(Request::delete(&self.address(&path, &[("keys", &keys.to_string())]))).await
    }

    /// Puts back what was deregistered, or what stood before an edit.
    pub async fn undo(&self, token: &str) -> Result<RegisterAnswer, ClientError> {
        answer(Request::post(&self.address(&["/undo/", &encode(token)].concat(), &[]))).await
    }

    /// The stream of everything, with the leases' remaining time. It opens at once and ends when it is dropped.
    pub fn events(&self) -> Events {
        Events::open(self.address("/events", &[("ttl", "1")]), None)
    }

    /// The same stream, of which all tabs of the browser share one: `worker` is the address of `stream-worker.js`. Where
    /// the browser has no such workers, it is this tab's own.
    pub fn shared_events(&self, worker: &str) -> Events {
        Events::open(self.address("/events", &[("ttl", "1")]), Some(worker))
    }

    fn address(&self, path: &str, query: &[(&str, &str)]) -> String {
        let mut address = [&self.api, path].concat();
        let mut mark = '?';
        for (name, value) in query {
            address.push(mark);
            address.push_str(name);
            address.push('=');
            address.push_str(&encode(value));
            mark = '&';
        }
        address
    }
}

/// `text` as it may stand in a path's segment or a query's value.
fn encode(text: &str) -> String {
    js_sys::encode_uri_component(text).into()
}

async fn send(request: RequestBuilder) -> Result<Response, ClientError> {
    request.send().await.map_err(|error| ClientError::Unreachable(error.to_string()))
}

async fn send_json(request: RequestBuilder, body: String) -> Result<Response, ClientError> {
    let unreachable = |error: gloo_net::Error| ClientError::Unreachable(error.to_string());
    request
        .header("Content-Type", "application/json")
        .body(body)
        .map_err(unreachable)?
        .send()
        .await
        .map_err(unreachable)
}

async fn answer<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ClientError> {
    read(send(request).await?).await
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    if !response.ok() {
        return Err(problem(response).await);
    }
    let status = response.status();
    json::read(&text(&response).await?).map_err(|error| ClientError::Unreadable { status, why: error.to_string() })
}

async fn body(response: &Response) -> Result<Vec<u8>, ClientError> {
    response.binary().await.map_err(|error| ClientError::Unreachable(error.to_string()))
}

async fn text(response: &Response) -> Result<String, ClientError> {
    response.text().await.map_err(|error| ClientError::Unreachable(error.to_string()))
}

async fn problem(response: Response) -> ClientError {
    let status = response.status();
    match text(&response).await {
        Ok(text) => match json::read(&text) {
            Ok(problem) => ClientError::Problem(Box::new(problem)),
            Err(error) => ClientError::Unreadable { status, why: error.to_string() },
        },
        Err(error) => error,
    }
}
