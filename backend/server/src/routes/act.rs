//! The acts that change etcd, one function each, whether a request asks for one or a batch for many. Nothing is written
//! where an error is answered, and nothing outside the sources is touched.
//!
//! Must not know: how a request says what it asks for.

use std::{collections::HashSet, sync::Arc, time::Duration};

use axum::http::StatusCode;
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use futures_util::{StreamExt as _, stream};
use rollcall_registry::etcd::{connect::REQUEST_TIMEOUT, entry::Entry, lease, ttl::LeaseSample};
use rollcall_shared::{
    Catalog, FieldError, LeaseId, Record, Revision, ServiceInstance,
    api::{
        Act, ActAnswer, ActResult, BatchAnswer, DeregisterAnswer, EditAnswer, InstanceEdit, KeepAlive, LeaseAnswer,
        RegisterAnswer, RegisterRequest, RevokeAnswer,
    },
};
use tokio::time::Instant;

use super::App;
use crate::{
    batch::{self, Asked, Lane, Touched},
    problem::Failure,
    register::{self, Registering},
    undo::Undo,
};

/// How long an answer waits until what was written is in what is read.
const SEEN_TIMEOUT: Duration = Duration::from_millis(500);

/// How many acts of one batch are under way at the same time: enough to hide the way to etcd and back, and few enough
/// to leave the connection to the watches.
const ACTS_AT_ONCE: usize = 16;

impl App {
    /// Grants the lease and puts the key; leaves neither behind where either fails.
    pub async fn register(
        &self,
        request: RegisterRequest,
        registering: Registering,
    ) -> Result<RegisterAnswer, Failure> {
        self.etcd().await?;
        let lease = match request.ttl_s {
            None => None,
            Some(ttl_s) => {
                let asked_at = Instant::now();
                let (lease, granted_s) = lease::grant(&self.context.connection, ttl_s).await?;
                let sample = LeaseSample { granted_s, remaining_s: granted_s, asked_at, answered_at: Instant::now() };
                self.context.mirror.leases(|book| book.note(lease, sample));
                Some((lease, granted_s))
            }
        };
        match self.put_new(&registering, lease.map(|(lease, _)| lease)).await {
            Ok(record) => {
                if let (Some((lease, granted_ttl_s)), Some(KeepAlive::Server)) = (lease, request.keep_alive) {
                    self.kept.keep(lease, granted_ttl_s);
                }
                self.written("register", &record.key, record.mod_revision).await;
                Ok(RegisterAnswer { lease: record.lease, record })
            }
            Err(failure) => {
                if let Some((lease, _)) = lease {
                    // Whatever became of the key goes with its lease; where this fails too, both run out.
                    let _ = lease::revoke(&self.context.connection, lease).await;
                }
                Err(failure.into())
            }
        }
    }

    /// Deletes `key` as it stood at `mod_revision`.
    pub async fn deregister(&self, key: &str, mod_revision: Revision) -> Result<DeregisterAnswer, Failure> {
        self.source(key)?;
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
            .and_then([TxnOp::delete(key, Some(DeleteOptions::new().with_prev_key()))])
            .or_else([TxnOp::get(key, None)]);
        let outcome = self.txn(txn).await?;
        let (true, Some(entry)) = (outcome.succeeded, &outcome.found) else {
            return Err(self.changed(key, outcome.found.as_ref()));
        };
        let record = self.context.mirror.decode(entry).ok_or_else(|| Failure::outside(key))?;
        let undo = self.undo.remember(Undo::Deregistered(entry.clone()));
        self.written("deregister", key, outcome.revision).await;
        Ok(DeregisterAnswer { deleted: Arc::new(record), undo })
    }

    /// Makes `key` hold what `edit` says, as long as it stands as it did at `mod_revision`. What the layout does not
    /// write for the fields that differ stays to the byte, and so does the lease.
    pub async fn edit(&self, key: &str, mod_revision: Revision, edit: &InstanceEdit) -> Result<EditAnswer, Failure> {
        let source = self.source(key)?;
        let look = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
            .and_then([TxnOp::get(key, None)])
            .or_else([TxnOp::get(key, None)]);
        let outcome = self.txn(look).await?;
        let (true, Some(before)) = (outcome.succeeded, &outcome.found) else {
            return Err(self.changed(key, outcome.found.as_ref()));
        };
        let record = self.context.mirror.decode(before).ok_or_else(|| Failure::outside(key))?;
        // A value that holds no instance is refused by its layout, which says why.
        let instance = record.instance().map_or_else(ServiceInstance::default, |instance| edit.over(instance));
        let value =
            source.layout.edit(&source.prefix, key, &before.value, &instance).map_err(Failure::unprocessable)?;
        if value == before.value {
            return Ok(EditAnswer { record: Arc::new(record), undo: None });
        }
        let record = self.replace(key, before, mod_revision, value.into()).await?;
        let undo = Undo::Edited { before: before.clone(), mod_revision: record.mod_revision };
        let undo = Some(self.undo.remember(undo));
        self.written("edit", key, record.mod_revision).await;
        Ok(EditAnswer { record, undo })
    }

    /// Undoes what gave `token`, with the status that says which it was: 201 puts back what was deregistered, 200 what
    /// was edited.
    pub async fn undo(&self, token: &str) -> Result<(StatusCode, RegisterAnswer), Failure> {
        let gone = |detail: &str| Failure::new(StatusCode::GONE, detail);
        let lease_gone = || gone("its lease has ended meanwhile: it has to register anew");
        let undo = self.undo.recall(token);
        let undo =
            undo.ok_or_else(|| gone("this can no longer be undone: it was over a minute ago, or at another server"))?;
        let before = undo.before();
        let key = String::from_utf8_lossy(&before.key).into_owned();
        let source = self.source(&key)?.clone();
        if source.layout.is_poison(&before.value) {
            return Err(gone(
                "what stood there is `null`, which crashes every running client of kratos: it is not put back",
            ));
        }
        let lease = LeaseId::from_etcd(before.lease);
        let (status, record) = match &undo {
            Undo::Deregistered(before) => {
                let registering = Registering { source, key, value: before.value.clone() };
                match self.put_new(&registering, lease).await {
                    Ok(record) => (StatusCode::CREATED, record),
                    Err(PutFailure::LeaseGone) => return Err(lease_gone()),
                    Err(PutFailure::Other(failure)) => return Err(failure),
                }
            }
            Undo::Edited { before, mod_revision } => {
                match self.replace(&key, before, *mod_revision, before.value.clone()).await {
                    Ok(record) => (StatusCode::OK, record),
                    Err(failure) if failure.status() == StatusCode::NOT_FOUND => {
                        // Gone with its lease, or, as far as can be known, by somebody's hand.
                        return Err(match lease {
                            Some(lease) if self.has_ended(lease).await => lease_gone(),
                            _ => failure,
                        });
                    }
                    Err(failure) => return Err(failure),
                }
            }
        };
        self.written("undo", &record.key, record.mod_revision).await;
        Ok((status, RegisterAnswer { lease: record.lease, record }))
    }

    /// Ends a lease, and with it all its keys, provided that they number `expected`.
    pub async fn revoke(&self, lease: LeaseId, expected: usize) -> Result<RevokeAnswer, Failure> {
        let (_, keys) = self.own_lease(lease).await?;
        if keys.len() != expected {
            return Err(Failure::conflict(
                format!("the lease {lease} holds {} keys now, not {expected}", keys.len()),
                None,
            ));
        }
        lease::revoke(&self.context.connection, lease).await?;
        self.kept.forget(lease);
        self.context.metrics.written("revoke");
        tracing::info!(target: "rollcall::audit", action = "revoke", %lease, keys = keys.len(), "written");
        self.seen(|catalog| keys.iter().all(|key| catalog.get(key).is_none())).await;
        Ok(RevokeAnswer { revoked: lease, deleted: keys })
    }

    /// Does each act, [`ACTS_AT_ONCE`] at the same time, and those that touch the same key or lease one after the other.
    pub async fn batch(self: Arc<Self>, acts: Vec<Asked>) -> BatchAnswer {
        let revoked: HashSet<LeaseId> = acts
            .iter()
            .filter_map(|act| match act {
                Ok(Act::Revoke { lease, .. }) => Some(*lease),
                _ => None,
            })
            .collect();
        let acts: Vec<_> = acts.into_iter().map(|act| (self.touched(&act, &revoked), act)).collect();
        let done = stream::iter(batch::lanes(acts)).map(|lane| Arc::clone(&self).act_in_order(lane));
        let done = done.buffer_unordered(ACTS_AT_ONCE).collect::<Vec<_>>().await;
        let mut results: Vec<(usize, ActResult)> = done.into_iter().flatten().collect();
        results.sort_by_key(|(number, _)| *number);
        BatchAnswer { results: results.into_iter().map(|(_, result)| result).collect() }
    }

    async fn act_in_order(self: Arc<Self>, lane: Lane<Asked>) -> Lane<ActResult> {
        let mut results = Vec::with_capacity(lane.len());
        for (number, act) in lane {
            let result = match act {
                Ok(act) => self.act(act).await,
                Err(failure) => Err(failure),
            };
            let result = match result {
                Ok((status, answer)) => ActResult::Done { status: status.as_u16(), answer },
                Err(failure) => {
                    let problem = failure.into_problem();
                    ActResult::Refused { status: problem.status, problem }
                }
            };
            results.push((number, result));
        }
        results
    }

    async fn act(&self, act: Act) -> Result<(StatusCode, ActAnswer), Failure> {
        Ok(match act {
            Act::Deregister { key, mod_revision } => {
                (StatusCode::OK, ActAnswer::Deregistered(self.deregister(&key, mod_revision).await?))
            }
            Act::Revoke { lease, keys } => (StatusCode::OK, ActAnswer::Revoked(self.revoke(lease, keys).await?)),
            Act::Edit { key, mod_revision, instance } => {
                (StatusCode::OK, ActAnswer::Edited(self.edit(&key, mod_revision, &instance).await?))
            }
            Act::Register(request) => {
                let sources = self.context.mirror.sources();
                let registering = register::plan(&request, sources).map_err(Failure::unprocessable)?;
                (StatusCode::CREATED, ActAnswer::Registered(self.register(request, registering).await?))
            }
            Act::Undo { token } => {
                let (status, answer) = self.undo(&token).await?;
                (status, ActAnswer::Registered(answer))
            }
        })
    }

    /// What an act of a batch touches. Of the leases of keys only those count that the batch revokes.
    fn touched(&self, act: &Asked, revoked: &HashSet<LeaseId>) -> Vec<Touched> {
        let on = |key: &str, lease: Option<LeaseId>| {
            let lease = lease.filter(|lease| revoked.contains(lease)).map(Touched::Lease);
            lease.into_iter().chain([Touched::Key(key.to_owned())]).collect()
        };
        match act {
            Ok(Act::Deregister { key, .. } | Act::Edit { key, .. }) => {
                let lease = self.context.mirror.view(|catalog| catalog.get(key).and_then(|record| record.lease)).found;
                on(key, lease)
            }
            Ok(Act::Revoke { lease, .. }) => vec![Touched::Lease(*lease)],
            Ok(Act::Register(request)) => register::plan(request, self.context.mirror.sources())
                .map_or_else(|_| Vec::new(), |registering| on(&registering.key, None)),
            Ok(Act::Undo { token }) => self.undo.recall(token).map_or_else(Vec::new, |undo| {
                let before = undo.before();
                on(&String::from_utf8_lossy(&before.key), LeaseId::from_etcd(before.lease))
            }),
            Err(_) => Vec::new(),
        }
    }
}

/// What became of a transaction.
struct Outcome {
    succeeded: bool,
    revision: i64,
    /// The key as it stood: deleted, or in the way.
    found: Option<Entry>,
}

/// Why a key was not put.
enum PutFailure {
    LeaseGone,
    Other(Failure),
}

impl From<PutFailure> for Failure {
    fn from(failure: PutFailure) -> Self {
        match failure {
            PutFailure::LeaseGone => Self::unavailable("the lease that was granted for this is gone already"),
            PutFailure::Other(failure) => failure,
        }
    }
}

impl App {
    /// Runs a transaction of one key.
    async fn txn(&self, txn: Txn) -> Result<Outcome, Failure> {
        self.txn_raw(txn).await?.map_err(Failure::from)
    }

    async fn txn_raw(&self, txn: Txn) -> Result<Result<Outcome, etcd_client::Error>, Failure> {
        let client = self.etcd().await?;
        let mut kv = client.kv();
        let response = match tokio::time::timeout(REQUEST_TIMEOUT, kv.txn(txn)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                if lease::is_member_failure(&error) {
                    self.context.connection.report_failure(&client);
                }
                return Ok(Err(error));
            }
            Err(_) => {
                self.context.connection.report_failure(&client);
                let detail = "etcd did not answer in time: look whether the write took effect before trying again";
                return Err(Failure::unavailable(detail));
            }
        };
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        let found = response.op_responses().into_iter().find_map(|answer| match answer {
            TxnOpResponse::Delete(answer) => answer.0.prev_kvs.into_iter().next(),
            TxnOpResponse::Get(answer) => answer.0.kvs.into_iter().next(),
            TxnOpResponse::Put(_) | TxnOpResponse::Txn(_) => None,
        });
        Ok(Ok(Outcome { succeeded: response.succeeded(), revision, found: found.map(Entry::from) }))
    }

    /// Puts a key that must not stand yet.
    async fn put_new(&self, registering: &Registering, lease: Option<LeaseId>) -> Result<Arc<Record>, PutFailure> {
        let Registering { key, value, .. } = registering;
        let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
        let txn = Txn::new()
            .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.as_str(), value.to_vec(), options)])
            .or_else([TxnOp::get(key.as_str(), None)]);
        let outcome = match self.txn_raw(txn).await.map_err(PutFailure::Other)? {
            Ok(outcome) => outcome,
            // `etcdserver: requested lease not found`
            Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains("lease not found") => {
                return Err(PutFailure::LeaseGone);
            }
            Err(error) => return Err(PutFailure::Other(error.into())),
        };
        let mirror = &self.context.mirror;
        if !outcome.succeeded {
            let record = outcome.found.and_then(|entry| mirror.decode(&entry)).map(Arc::new);
            return Err(PutFailure::Other(Failure::conflict(format!("{key:?} stands already"), record)));
        }
        let entry = Entry {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.clone(),
            lease: lease.map_or(0, |lease| lease.0),
            create_revision: outcome.revision,
            mod_revision: outcome.revision,
        };
        let record = mirror.decode(&entry).ok_or_else(|| PutFailure::Other(Failure::outside(key)))?;
        Ok(Arc::new(record))
    }

    /// Puts `value` where `before` stood, as long as the key stands at `mod_revision`, under the lease it is on.
    async fn replace(
        &self,
        key: &str,
        before: &Entry,
        mod_revision: Revision,
        value: Bytes,
    ) -> Result<Arc<Record>, Failure> {
        // A lease cannot change without the revision doing so, hence the key's own is the one it was on. Naming it would
        // ask for the right to write every key of the lease where etcd has users.
        let put = TxnOp::put(key, value.to_vec(), Some(PutOptions::new().with_ignore_lease()));
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
            .and_then([put])
            .or_else([TxnOp::get(key, None)]);
        let outcome = match self.txn_raw(txn).await? {
            Ok(outcome) => outcome,
            // `etcdserver: request is too large`
            Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains("too large") => {
                let detail = "with this the value would be larger than etcd takes";
                return Err(Failure::unprocessable(vec![FieldError::new("/instance", detail)]));
            }
            Err(error) => return Err(error.into()),
        };
        if !outcome.succeeded {
            return Err(self.changed(key, outcome.found.as_ref()));
        }
        let entry = Entry { value, mod_revision: outcome.revision, ..before.clone() };
        self.context.mirror.decode(&entry).map(Arc::new).ok_or_else(|| Failure::outside(key))
    }

    /// Why a key does not stand at the revision that was looked at: 409 with the record as it stands now, or 404.
    fn changed(&self, key: &str, found: Option<&Entry>) -> Failure {
        let Some(entry) = found else {
            return Failure::not_found(format!("nothing stands under {key:?}: it is gone already"));
        };
        let detail = format!("{key:?} has changed: it stands at revision {} now", entry.mod_revision);
        Failure::conflict(detail, self.context.mirror.decode(entry).map(Arc::new))
    }

    /// Whether etcd says that `lease` is no more.
    async fn has_ended(&self, lease: LeaseId) -> bool {
        matches!(lease::time_to_live(&self.context.connection, lease, false).await, Ok(None))
    }

    /// A lease all of whose keys lie inside the sources, and those keys; 404 where it is gone, 403 where it is not ours.
    pub async fn own_lease(&self, lease: LeaseId) -> Result<(LeaseAnswer, Vec<String>), Failure> {
        let (answer, inside, outside) = self.lease_terms(lease).await?;
        if outside > 0 {
            let detail = format!("the lease {lease} holds keys outside of the sources, which are not touched");
            return Err(Failure::new(StatusCode::FORBIDDEN, detail));
        }
        Ok((answer, inside))
    }

    /// Every write leaves one line in the log, with neither value nor token.
    async fn written(&self, action: &'static str, key: &str, revision: Revision) {
        self.context.metrics.written(action);
        tracing::info!(target: "rollcall::audit", action, key, revision, "written");
        let source = self.context.mirror.source_of(key).map(|source| source.prefix.as_str());
        let at = |catalog: &Catalog| source.and_then(|source| catalog.revisions().get(source)).copied();
        self.seen(|catalog| at(catalog).is_none_or(|at| at >= revision)).await;
    }

    /// Whoever wrote sees it in what is read next: an answer waits, for [`SEEN_TIMEOUT`] at the most, until the watch
    /// has told of it. One that comes a little early is no fault, since etcd has it.
    async fn seen(&self, look: impl Fn(&Catalog) -> bool) {
        let mirror = &self.context.mirror;
        let mut tail = mirror.tail();
        let seeing = async { while !mirror.view(&look).found && tail.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(SEEN_TIMEOUT, seeing).await;
    }
}
