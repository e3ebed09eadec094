//! What is answered from the mirror, and the questions to leases.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rollcall_registry::etcd::lease::time_to_live;
use rollcall_shared::{
    Layout, LeaseId, Record,
    api::{EtcdState, LeaseAnswer, RecordsAnswer, ServiceSummary, ServicesAnswer},
};

use super::{
    App,
    ask::{Query, lease_id, required_key},
};
use crate::{
    assets,
    mirror::{READY_GRACE, View, key_text},
    problem::Failure,
};

/// The description of all this.
const OPENAPI: &str = include_str!("../openapi.json");

/// From how many records on an answer is put into JSON off the threads that serve.
const RECORDS_MANY: usize = 2_000;

/// `GET /services`.
pub async fn services(State(app): State<Arc<App>>) -> Result<Json<ServicesAnswer>, Failure> {
    let View { found, cursor, revisions } = app.view(|catalog| {
        catalog.services().map(|(name, records)| summary(name, records.values())).collect::<Vec<_>>()
    })?;
    Ok(Json(ServicesAnswer { cursor, revisions, services: found, stale_for_s: app.stale_for_s() }))
}

fn summary<'a>(name: &str, records: impl Iterator<Item = &'a Arc<Record>>) -> ServiceSummary {
    let (mut instances, mut malformed) = (0, 0);
    let (mut layouts, mut versions) = (BTreeSet::new(), BTreeSet::new());
    for record in records {
        layouts.insert(record.layout);
        match record.instance() {
            Some(instance) => {
                instances += 1;
                if !instance.version.is_empty() {
                    versions.insert(instance.version.as_str());
                }
            }
            None => malformed += 1,
        }
    }
    let mut layouts: Vec<Layout> = layouts.into_iter().collect();
    layouts.sort_by_key(|layout| layout.as_str());
    let versions = versions.into_iter().map(str::to_owned).collect();
    ServiceSummary { name: name.to_owned(), instances, malformed, layouts, versions }
}

/// `GET /services/{service}`.
pub async fn service(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, Failure> {
    let view =
        app.view(|catalog| catalog.service(&name).map(|records| records.values().cloned().collect::<Vec<_>>()))?;
    let View { found, cursor, revisions } = view;
    let records = found.ok_or_else(|| Failure::not_found(format!("no service is named {name:?}")))?;
    let answer = RecordsAnswer { cursor, revisions, records, continue_token: None, stale_for_s: app.stale_for_s() };
    Ok(records_response(answer).await)
}

/// `GET /instances`.
pub async fn instances(State(app): State<Arc<App>>, query: Query, headers: HeaderMap) -> Result<Response, Failure> {
    let services: BTreeSet<&str> = query.all("service").collect();
    let layouts = query
        .all("layout")
        .map(|text| text.parse::<Layout>().map_err(|error| Failure::bad_request(format!("{text:?}: {error}"))))
        .collect::<Result<Vec<_>, _>>()?;
    let limit = query.number::<usize>("limit")?;
    if limit == Some(0) {
        return Err(Failure::bad_request("limit is 1 or more"));
    }
    let after = query.one("continue")?.map(continue_key).transpose()?.unwrap_or_default();
    let wanted = |record: &&Arc<Record>| {
        (services.is_empty() || services.contains(record.service.as_str()))
            && (layouts.is_empty() || layouts.contains(&record.layout))
    };
    // One more than asked for tells whether more follow.
    let most = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    let View { found: mut records, cursor, revisions } =
        app.view(|catalog| catalog.records_after(&after).filter(wanted).take(most).cloned().collect::<Vec<_>>())?;
    let stale_for_s = app.stale_for_s();
    let etag = HeaderValue::try_from(format!("W/\"{cursor}\"")).expect("base64url makes a header");
    if stale_for_s.is_none() && assets::matches(&headers, &etag) {
        let headers = [
            (header::ETAG, etag),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let continue_token = limit.filter(|limit| records.len() > *limit).map(|limit| {
        records.truncate(limit);
        URL_SAFE_NO_PAD.encode(records.last().map_or("", |record| record.key.as_str()))
    });
    let answer = RecordsAnswer { cursor, revisions, records, continue_token, stale_for_s };
    let mut response = records_response(answer).await;
    response.headers_mut().insert(header::ETAG, etag);
    Ok(response)
}

fn continue_key(token: &str) -> Result<String, Failure> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Failure::bad_request("continue is what an answer's continue said"))
}

async fn records_response(answer: RecordsAnswer) -> Response {
    let answer_is_large = answer.records.len() >= RECORDS_MANY;
    let encode = move || serde_json::to_vec(&answer).expect("the model has string keys only");
    let body = if answer_is_large {
        tokio::task::spawn_blocking(encode).await.expect("encoding does not panic, and the runtime outlives requests")
    } else {
        encode()
    };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from(body)).into_response()
}

/// `GET /instances/raw`.
pub async fn raw(State(app): State<Arc<App>>, query: Query) -> Result<Response, Failure> {
    let key = required_key(&query)?;
    app.source(key)?;
    app.require_ready()?;
    let value =
        app.context.mirror.value(key).ok_or_else(|| Failure::not_found(format!("nothing stands under {key:?}")))?;
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, value).into_response())
}

/// `GET /leases/{id}`.
pub async fn lease(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<LeaseAnswer>, Failure> {
    let lease = lease_id(&id)?;
    let (mut answer, inside, _) = app.lease_terms(lease).await?;
    answer.keys = Some(inside);
    Ok(Json(answer))
}

impl App {
    /// What etcd knows of `lease`, its keys inside the sources, and how many it has outside; 404 where it is gone.
    pub(super) async fn lease_terms(&self, lease: LeaseId) -> Result<(LeaseAnswer, Vec<String>, usize), Failure> {
        self.etcd().await?;
        let terms = time_to_live(&self.context.connection, lease, true).await?;
        let terms = terms.ok_or_else(|| Failure::not_found(format!("the lease {lease} is gone")))?;
        let count = terms.keys.len();
        let mut inside: Vec<String> = terms
            .keys
            .iter()
            .map(|key| key_text(key).into_owned())
            .filter(|key| self.context.mirror.source_of(key).is_some())
            .collect();
        inside.sort();
        let answer =
            LeaseAnswer { lease, granted_ttl_s: terms.granted_s, remaining_ttl_s: terms.remaining_s, keys: None };
        let outside = count - inside.len();
        Ok((answer, inside, outside))
    }
}

/// `GET /openapi.json`.
pub async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], OPENAPI).into_response()
}

/// `GET /healthz`: the process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the first snapshot stands, and etcd has not been lost for longer than [`READY_GRACE`].
pub async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Failure> {
    app.require_ready()?;
    let status = *app.context.mirror.status().borrow();
    let lost_for = status.fresh_at.unwrap_or(status.since).elapsed();
    if status.etcd != EtcdState::Live && lost_for > READY_GRACE {
        return Err(Failure::unavailable(format!("etcd has been away for {} s", lost_for.as_secs())));
    }
    Ok("ready\n")
}

/// `GET /metrics`.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.context.metrics.text(&app.context.mirror);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
