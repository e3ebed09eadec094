//! What changes etcd. Nothing is written where an error is answered, and nothing outside the sources is touched.

use std::{sync::Arc, time::Duration};

use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
};
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use rollcall_registry::etcd::{connect::REQUEST_TIMEOUT, entry::Entry, lease, ttl::LeaseSample};
use rollcall_shared::{
    Catalog, LeaseId, Record, Revision,
    api::{DeregisterAnswer, KeepAlive, LeaseAnswer, RegisterAnswer, RegisterRequest, RevokeAnswer},
};

use tokio::time::Instant;

use super::{
    App,
    ask::{Json, Query, lease_id, required_key},
};
use crate::{
    problem::Failure,
    register::{self, Registering},
};

/// How long an answer waits until what was written is in what is read.
const SEEN_TIMEOUT: Duration = Duration::from_millis(500);

type Created<T> = (StatusCode, Answer<T>);

/// `POST /instances`.
pub async fn register(State(app): State<Arc<App>>, Json(body): Json) -> Result<Created<RegisterAnswer>, Failure> {
    let request = register::read(&body).map_err(Failure::unprocessable)?;
    let registering = register::plan(&request, app.context.mirror.sources()).map_err(Failure::unprocessable)?;
    // On a task of its own: a client that goes away in the middle must not leave a lease without a key behind.
    let writing = tokio::spawn(async move { app.register(request, registering).await });
    writing.await.unwrap_or_else(|_| Err(Failure::unavailable("the server is ending")))
}

impl App {
    /// Grants the lease and puts the key; leaves neither behind where either fails.
    async fn register(
        &self,
        request: RegisterRequest,
        registering: Registering,
    ) -> Result<Created<RegisterAnswer>, Failure> {
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
                let answer = RegisterAnswer { lease: record.lease, record };
                Ok((StatusCode::CREATED, Answer(answer)))
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
}

/// `DELETE /instances`.
pub async fn deregister(State(app): State<Arc<App>>, query: Query) -> Result<Answer<DeregisterAnswer>, Failure> {
    let key = required_key(&query)?;
    app.source(key)?;
    let Some(mod_revision) = query.number::<i64>("mod_revision")? else {
        let detail = "mod_revision is missing: it says which revision of the key was looked at";
        return Err(Failure::new(StatusCode::PRECONDITION_REQUIRED, detail));
    };
    if mod_revision < 1 {
        return Err(Failure::bad_request("mod_revision is 1 or more"));
    }
    let txn = Txn::new()
        .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
        .and_then([TxnOp::delete(key, Some(DeleteOptions::new().with_prev_key()))])
        .or_else([TxnOp::get(key, None)]);
    let outcome = app.txn(txn).await?;
    let found = outcome.found.map(|entry| (app.context.mirror.decode(&entry), entry));
    match (outcome.succeeded, found) {
        (true, Some((Some(record), entry))) => {
            let undo = app.undo.remember(entry);
            app.written("deregister", key, outcome.revision).await;
            Ok(Answer(DeregisterAnswer { deleted: Arc::new(record), undo }))
        }
        (false, Some((record, entry))) => {
            let detail = format!("{key:?} has changed: it stands at revision {} now", entry.mod_revision);
            Err(Failure::conflict(detail, record.map(Arc::new)))
        }
        _ => Err(Failure::not_found(format!("nothing stands under {key:?}: it is gone already"))),
    }
}

/// `POST /undo/{token}`.
pub async fn undo(State(app): State<Arc<App>>, Path(token): Path<String>) -> Result<Created<RegisterAnswer>, Failure> {
    let gone = |detail: &str| Failure::new(StatusCode::GONE, detail);
    let entry = app.undo.recall(&token);
    let entry =
        entry.ok_or_else(|| gone("this can no longer be undone: it was over a minute ago, or at another server"))?;
    let key = String::from_utf8_lossy(&entry.key).into_owned();
    let source = app.source(&key)?.clone();
    let lease = LeaseId::from_etcd(entry.lease);
    let registering = Registering { source, key, value: entry.value };
    match app.put_new(&registering, lease).await {
        Ok(record) => {
            app.written("undo", &record.key, record.mod_revision).await;
            Ok((StatusCode::CREATED, Answer(RegisterAnswer { lease: record.lease, record })))
        }
        Err(PutFailure::LeaseGone) => Err(gone("its lease has ended meanwhile: it has to register anew")),
        Err(PutFailure::Other(failure)) => Err(failure),
    }
}

/// `POST /leases/{id}/keepalive`.
pub async fn keep_alive(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Answer<LeaseAnswer>, Failure> {
    let lease = lease_id(&id)?;
    let (answer, _) = app.own_lease(lease).await?;
    let remaining_ttl_s = lease::keep_alive_once(&app.context.connection, lease).await?;
    Ok(Answer(LeaseAnswer { remaining_ttl_s, ..answer }))
}

/// `DELETE /leases/{id}`.
pub async fn revoke(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Answer<RevokeAnswer>, Failure> {
    let lease = lease_id(&id)?;
    let Some(expected) = query.number::<usize>("keys")? else {
        let detail = "keys is missing: it says how many keys the lease was seen to hold";
        return Err(Failure::new(StatusCode::PRECONDITION_REQUIRED, detail));
    };
    let (_, keys) = app.own_lease(lease).await?;
    if keys.len() != expected {
        return Err(Failure::conflict(
            format!("the lease {lease} holds {} keys now, not {expected}", keys.len()),
            None,
        ));
    }
    lease::revoke(&app.context.connection, lease).await?;
    app.kept.forget(lease);
    app.context.metrics.written("revoke");
    tracing::info!(target: "rollcall::audit", action = "revoke", %lease, keys = keys.len(), "written");
    app.seen(|catalog| keys.iter().all(|key| catalog.get(key).is_none())).await;
    Ok(Answer(RevokeAnswer { revoked: lease, deleted: keys }))
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

    /// A lease all of whose keys lie inside the sources, and those keys; 404 where it is gone, 403 where it is not ours.
    async fn own_lease(&self, lease: LeaseId) -> Result<(LeaseAnswer, Vec<String>), Failure> {
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
