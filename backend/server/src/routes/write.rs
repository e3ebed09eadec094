//! How requests ask for what changes etcd: reads them, and answers what became of it.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
};
use rollcall_registry::etcd::lease;
use rollcall_shared::{
    Revision,
    api::{BatchAnswer, DeregisterAnswer, EditAnswer, LeaseAnswer, RegisterAnswer, RevokeAnswer},
};

use super::{
    App,
    ask::{Json, Query, lease_id, required_key},
};
use crate::{batch, edit, problem::Failure, register};

type Created<T> = (StatusCode, Answer<T>);

/// `POST /instances`.
pub async fn register(State(app): State<Arc<App>>, Json(body): Json) -> Result<Created<RegisterAnswer>, Failure> {
    let request = register::read(&body).map_err(Failure::unprocessable)?;
    let registering = register::plan(&request, app.context.mirror.sources()).map_err(Failure::unprocessable)?;
    // On a task of its own: a client that goes away in the middle must not leave a lease without a key behind.
    let answer = to_the_end(async move { app.register(request, registering).await }).await??;
    Ok((StatusCode::CREATED, Answer(answer)))
}

/// `PUT /instances`.
pub async fn edit(State(app): State<Arc<App>>, query: Query, Json(body): Json) -> Result<Answer<EditAnswer>, Failure> {
    let (key, mod_revision) = looked_at(&app, &query)?;
    let request = edit::read(&body).map_err(Failure::unprocessable)?;
    app.edit(key, mod_revision, &request.instance).await.map(Answer)
}

/// `DELETE /instances`.
pub async fn deregister(State(app): State<Arc<App>>, query: Query) -> Result<Answer<DeregisterAnswer>, Failure> {
    let (key, mod_revision) = looked_at(&app, &query)?;
    app.deregister(key, mod_revision).await.map(Answer)
}

/// `POST /undo/{token}`.
pub async fn undo(State(app): State<Arc<App>>, Path(token): Path<String>) -> Result<Created<RegisterAnswer>, Failure> {
    app.undo(&token).await.map(|(status, answer)| (status, Answer(answer)))
}

/// `POST /batch`.
pub async fn batch(State(app): State<Arc<App>>, Json(body): Json) -> Result<Answer<BatchAnswer>, Failure> {
    let acts = batch::read(&body).map_err(Failure::unprocessable)?;
    app.etcd().await?;
    // On a task of its own: whoever goes away in the middle has asked for all of it.
    to_the_end(app.batch(acts)).await.map(Answer)
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
    let keys = query.number::<usize>("keys")?.ok_or_else(Failure::no_keys)?;
    app.revoke(lease, keys).await.map(Answer)
}

/// The key, inside the sources, and the revision of it that was looked at.
fn looked_at<'a>(app: &App, query: &'a Query) -> Result<(&'a str, Revision), Failure> {
    let key = required_key(query)?;
    app.source(key)?;
    let mod_revision = query.number::<Revision>("mod_revision")?.ok_or_else(Failure::no_revision)?;
    if mod_revision < 1 {
        return Err(Failure::bad_request("mod_revision is 1 or more"));
    }
    Ok((key, mod_revision))
}

/// Runs `writing` to its end, also where the client goes away meanwhile.
async fn to_the_end<T: Send + 'static>(writing: impl Future<Output = T> + Send + 'static) -> Result<T, Failure> {
    tokio::spawn(writing).await.map_err(|_| Failure::unavailable("the server is ending"))
}
