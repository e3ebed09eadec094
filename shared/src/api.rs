//! Paths, requests and answers of `/api/v1`, as both sides of the wire have them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    instance::{LeaseId, Revision, ServiceInstance},
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

/// How long a deregistration or an edit can be undone, in seconds.
pub const UNDO_S: u64 = 60;

/// How many acts one batch holds at most.
pub const ACTS_MAX: usize = 256;

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

/// 201 of `POST /instances`; of `POST /undo/{token}` 201 for a deregistration and 200 for an edit.
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

/// `PUT /instances`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditRequest {
    /// What is to stand there.
    pub instance: InstanceEdit,
}

/// The fields of an instance that are to be other ones. What is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceEdit {
    /// Its id, which an edit cannot change: it may only be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its service, which an edit cannot change: it may only be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// All that it says of itself: what is not here goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Everywhere it answers: what is not here goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
}

impl InstanceEdit {
    /// `instance` with what is set here in the place of its own.
    pub fn over(&self, instance: &ServiceInstance) -> ServiceInstance {
        ServiceInstance {
            id: self.id.as_ref().unwrap_or(&instance.id).clone(),
            name: self.name.as_ref().unwrap_or(&instance.name).clone(),
            version: self.version.as_ref().unwrap_or(&instance.version).clone(),
            metadata: self.metadata.as_ref().unwrap_or(&instance.metadata).clone(),
            endpoints: self.endpoints.as_ref().unwrap_or(&instance.endpoints).clone(),
        }
    }
}

/// 200 of `PUT /instances`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditAnswer {
    /// The record as it stands now.
    pub record: Arc<Record>,
    /// What `POST /undo/{token}` takes, for [`UNDO_S`] seconds, at this server; `None` where the record was so already,
    /// and nothing was written.
    // Must stand there, as `null` too: it tells this answer from that of a registration.
    #[serde(deserialize_with = "Option::deserialize")]
    pub undo: Option<String>,
}

/// `POST /batch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRequest {
    /// From 1 to [`ACTS_MAX`].
    pub acts: Vec<Act>,
}

/// One write of a batch: what a request of its own would ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// `DELETE /instances`.
    Deregister {
        /// The key.
        key: String,
        /// The revision of it that was looked at.
        mod_revision: Revision,
    },
    /// `DELETE /leases/{id}`.
    Revoke {
        /// The lease.
        lease: LeaseId,
        /// How many keys it was seen to hold.
        keys: usize,
    },
    /// `PUT /instances`.
    Edit {
        /// The key.
        key: String,
        /// The revision of it that was looked at.
        mod_revision: Revision,
        /// What is to stand there.
        instance: InstanceEdit,
    },
    /// `POST /instances`.
    Register(RegisterRequest),
    /// `POST /undo/{token}`.
    Undo {
        /// What a deregistration or an edit gave.
        token: String,
    },
}

/// 200 of `POST /batch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// What became of each act, in the order in which they were asked for.
    pub results: Vec<ActResult>,
}

/// What became of one act of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ActResult {
    /// It was done.
    Done {
        /// The HTTP status that a request of its own would have had: 200 or 201.
        status: u16,
        /// What a request of its own would have been answered.
        answer: ActAnswer,
    },
    /// It was not, and nothing was written for it.
    Refused {
        /// The HTTP status that a request of its own would have had.
        status: u16,
        /// What a request of its own would have been answered.
        problem: Box<Problem>,
    },
}

/// What a write is answered.
// The order counts for who reads: each kind is told from those below by a field that they do not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ActAnswer {
    /// Of a revocation.
    Revoked(RevokeAnswer),
    /// Of a deregistration.
    Deregistered(DeregisterAnswer),
    /// Of an edit.
    Edited(EditAnswer),
    /// Of a registration, and of an undo.
    Registered(RegisterAnswer),
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

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;

    use super::*;

    const RECORD: &str = concat!(
        r#"{"key":"/microservices/h/8","source":"/microservices/","layout":"kratos","service":"h","#,
        r#""lease":null,"create_revision":12,"mod_revision":13,"#,
        r#""instance":{"id":"8","name":"h","version":"","metadata":{},"endpoints":["http://a:1"]}}"#
    );

    /// That `text` reads as `value`, and `value` is written as `text`.
    fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, text: &str) {
        assert_eq!(serde_json::to_string(value).unwrap(), text);
        assert_eq!(serde_json::from_str::<T>(text).unwrap(), *value);
    }

    fn record() -> Arc<Record> {
        serde_json::from_str(RECORD).unwrap()
    }

    #[test]
    fn what_an_edit_leaves_out_stays() {
        same(&EditRequest::default(), r#"{"instance":{}}"#);
        let edit = InstanceEdit {
            metadata: Some([("weight".to_owned(), "0".to_owned())].into()),
            endpoints: Some(Vec::new()),
            ..InstanceEdit::default()
        };
        same(&EditRequest { instance: edit.clone() }, r#"{"instance":{"metadata":{"weight":"0"},"endpoints":[]}}"#);
        let before = ServiceInstance {
            id: "8".into(),
            name: "h".into(),
            version: "v1".into(),
            metadata: [("zone".to_owned(), "a".to_owned())].into(),
            endpoints: vec!["http://a:1".into()],
        };
        let after = edit.over(&before);
        assert_eq!((&after.id, &after.name, &after.version), (&before.id, &before.name, &before.version));
        assert_eq!(after.metadata, [("weight".to_owned(), "0".to_owned())].into());
        assert_eq!(after.endpoints, Vec::<String>::new());
        assert_eq!(InstanceEdit::default().over(&before), before);
        let other = InstanceEdit { id: Some("9".into()), name: Some("i".into()), version: Some(String::new()), ..edit };
        let after = other.over(&before);
        assert_eq!((&*after.id, &*after.name, &*after.version), ("9", "i", ""));
    }

    #[test]
    fn each_act_is_an_object_of_its_name() {
        let acts = vec![
            Act::Deregister { key: "k".into(), mod_revision: 3 },
            Act::Revoke { lease: LeaseId(123), keys: 2 },
            Act::Edit { key: "k".into(), mod_revision: 3, instance: InstanceEdit::default() },
            Act::Register(RegisterRequest {
                layout: Layout::Plain,
                instance: InstanceDraft { name: "n".into(), endpoints: vec!["a:1".into()], ..InstanceDraft::default() },
                ttl_s: None,
                keep_alive: None,
            }),
            Act::Undo { token: "t".into() },
        ];
        same(
            &BatchRequest { acts },
            concat!(
                r#"{"acts":[{"deregister":{"key":"k","mod_revision":3}},"#,
                r#"{"revoke":{"lease":"000000000000007b","keys":2}},"#,
                r#"{"edit":{"key":"k","mod_revision":3,"instance":{}}},"#,
                r#"{"register":{"layout":"plain","instance":{"name":"n","version":"","metadata":{},"endpoints":["a:1"]},"ttl_s":null}},"#,
                r#"{"undo":{"token":"t"}}]}"#
            ),
        );
    }

    #[test]
    fn each_result_reads_as_the_kind_it_is() {
        let done = |status, answer| ActResult::Done { status, answer };
        let problem = Problem {
            kind: "about:blank".into(),
            title: "Gone".into(),
            status: 410,
            detail: "d".into(),
            errors: Vec::new(),
            record: None,
        };
        let results = vec![
            done(200, ActAnswer::Deregistered(DeregisterAnswer { deleted: record(), undo: "t".into() })),
            done(200, ActAnswer::Revoked(RevokeAnswer { revoked: LeaseId(123), deleted: vec!["k".into()] })),
            done(200, ActAnswer::Edited(EditAnswer { record: record(), undo: Some("t".into()) })),
            done(200, ActAnswer::Edited(EditAnswer { record: record(), undo: None })),
            done(201, ActAnswer::Registered(RegisterAnswer { record: record(), lease: None })),
            ActResult::Refused { status: 410, problem: Box::new(problem) },
        ];
        let text = [
            format!(r#"{{"status":200,"answer":{{"deleted":{RECORD},"undo":"t"}}}}"#),
            r#"{"status":200,"answer":{"revoked":"000000000000007b","deleted":["k"]}}"#.to_owned(),
            format!(r#"{{"status":200,"answer":{{"record":{RECORD},"undo":"t"}}}}"#),
            format!(r#"{{"status":200,"answer":{{"record":{RECORD},"undo":null}}}}"#),
            format!(r#"{{"status":201,"answer":{{"record":{RECORD},"lease":null}}}}"#),
            r#"{"status":410,"problem":{"type":"about:blank","title":"Gone","status":410,"detail":"d"}}"#.to_owned(),
        ];
        same(&BatchAnswer { results }, &format!(r#"{{"results":[{}]}}"#, text.join(",")));
    }
}
