//! Paths, requests and answers of `/api/v1`, as both sides of the wire have them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    instance::{LeaseId, Revision},
    layout::{FieldError, Layout},
    record::Record,
};

/// Where the API begins, below the base path.
pub const API: &str = "/api/v1";

/// The shortest TTL that can be asked for, in seconds: etcd grants no shorter one (its election timeout rounds 1 up).
pub const TTL_S_MIN: i64 = 2;

/// The longest TTL that can be asked for, in seconds: etcd's own limit.
pub const TTL_S_MAX: i64 = 9_000_000_000;

/// The longest name or id, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a deregistration can be undone, in seconds.
pub const UNDO_S: u64 = 60;

/// `GET /services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesAnswer {
    /// Where a stream goes on from what this shows.
    pub cursor: String,
    /// The revision of each source.
    pub revisions: BTreeMap<String, Revision>,
    /// The services, sorted by name.
    pub services: Vec<ServiceSummary>,
    /// How long etcd has been away, in seconds, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_for_s: Option<u64>,
}

/// One service in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSummary {
    /// Its name.
    pub name: String,
    /// How many of its values decode.
    pub instances: usize,
    /// How many do not.
    pub malformed: usize,
    /// The layouts its keys are written in, sorted.
    pub layouts: Vec<Layout>,
    /// The versions its instances run, sorted.
    pub versions: Vec<String>,
}

/// `GET /instances` and `GET /services/{service}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsAnswer {
    /// Where a stream goes on from what this shows.
    pub cursor: String,
    /// The revision of each source.
    pub revisions: BTreeMap<String, Revision>,
    /// The records, sorted by key.
    pub records: Vec<Arc<Record>>,
    /// Ask with `continue=` this for what follows; absent where nothing does.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub continue_token: Option<String>,
    /// How long etcd has been away, in seconds, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_for_s: Option<u64>,
}

/// `GET /leases/{id}` and `POST /leases/{id}/keepalive`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// The lease.
    pub lease: LeaseId,
    /// The TTL it was granted, in seconds.
    pub granted_ttl_s: i64,
    /// The seconds left unless it is renewed.
    pub remaining_ttl_s: i64,
    /// Its keys that lie inside the sources; only `GET` says them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
}

/// `POST /instances`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// How the value is written.
    pub layout: Layout,
    /// What is registered.
    pub instance: InstanceDraft,
    /// The lease's TTL in seconds; `None` for a permanent key without a lease.
    pub ttl_s: Option<i64>,
    /// Who renews the lease; must stand beside a TTL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
}

/// An instance that is to be registered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceDraft {
    /// Its id; where it is left out, the server makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its service.
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// What it says of itself.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Where it answers.
    pub endpoints: Vec<String>,
}

/// Who renews a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepAlive {
    /// Whoever registered, by `POST /leases/{id}/keepalive` or at etcd.
    Caller,
    /// The server that answered, until the instance is deregistered or the server ends.
    Server,
}

/// 201 of `POST /instances` and `POST /undo/{token}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterAnswer {
    /// The record as it stands now.
    pub record: Arc<Record>,
    /// Its lease; `None` for a permanent key.
    pub lease: Option<LeaseId>,
}

/// 200 of `DELETE /instances`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeregisterAnswer {
    /// The record that was deleted.
    pub deleted: Arc<Record>,
    /// What `POST /undo/{token}` takes, for [`UNDO_S`] seconds, at this server.
    pub undo: String,
}

/// 200 of `DELETE /leases/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeAnswer {
    /// The lease that is gone.
    pub revoked: LeaseId,
    /// The keys that went with it.
    pub deleted: Vec<String>,
}

/// Every answer that is not 2xx: `application/problem+json`, RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong here, and what to do about it.
    pub detail: String,
    /// For 422: what is wrong with which part of the body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// For 409: the record as it stands now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Arc<Record>>,
}

/// The state of the server's connection to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EtcdState {
    /// Every source hears from etcd.
    Live,
    /// etcd answers, or its connection stands, and still nothing new can be vouched for.
    Stale,
    /// etcd cannot be reached.
    Unreachable,
}

/// The named event `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusEvent {
    /// How it is with etcd.
    pub etcd: EtcdState,
    /// For how long it has been so, in seconds.
    pub for_s: u64,
}

/// The named event `ttl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtlEvent {
    /// When this was put together, in milliseconds since the epoch.
    pub at_ms: u64,
    /// The leases of what the stream selects.
    pub leases: Vec<LeaseTtl>,
}

/// What is left of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTtl {
    /// The lease.
    pub lease: LeaseId,
    /// The TTL it was granted, in seconds.
    pub granted_s: i64,
    /// The seconds left at `at_ms`, unless it is renewed; 0 where it is over.
    pub remaining_s: i64,
    /// How long before `at_ms` etcd answered for it, in milliseconds: by then it had certainly not been renewed for
    /// what is missing from the TTL.
    #[serde(default)]
    pub age_ms: u64,
}

/// The named event `bye`, before a planned close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByeEvent {
    /// After how many milliseconds to come back.
    pub reconnect_ms: u64,
}
