//! `GET /events`: reads what is asked for and hands a [`Reader`] to the connection.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use rollcall_shared::Cursor;

use super::{App, ask::Query};
use crate::{
    direct::{Direct, Handover},
    mirror::frame::Selected,
    sse::{Reader, Request},
};

/// `GET /events`. Answers 200 in every passing trouble, since an `EventSource` never tries again after anything else.
pub async fn events(
    State(app): State<Arc<App>>,
    query: Query,
    direct: Option<Extension<Direct>>,
    headers: HeaderMap,
) -> Response {
    let last_event_id = headers.get("last-event-id").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let cursor = match last_event_id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(Cursor::decode(id)),
        None => query.all("since").next().map(Cursor::decode),
    };
    let request = Request {
        selected: Arc::new(Selected(query.all("service").map(str::to_owned).collect())),
        cursor,
        ttl: query.all("ttl").any(|value| value == "1" || value == "true"),
    };
    let reader = Reader::new(app.context.clone(), request);
    let fields = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    if direct.is_some() {
        return (fields, Extension(Handover::new(reader))).into_response();
    }
    let bytes = stream::unfold(reader, async |mut reader| {
        let bytes = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), reader))
    });
    (fields, Body::from_stream(bytes)).into_response()
}
