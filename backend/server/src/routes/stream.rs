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
use rollcall_shared::{Cursor, api::ByeEvent};

use super::{App, ask::Query};
use crate::{
    direct::{Direct, Handover},
    mirror::frame::{Selected, named},
    sse::{Reader, Request},
};

/// When a client is to come back that found no place, in milliseconds; up to half as much again, at random.
const FULL_RETRY_MS: u64 = 10_000;

/// What a client is told that finds no place. Any other answer than 200 would end an `EventSource` for good.
fn full(app: &App) -> String {
    let reconnect_ms = FULL_RETRY_MS + fastrand::u64(..FULL_RETRY_MS / 2);
    let mut text = format!("retry: {reconnect_ms}\n\n");
    for event in
        [named("status", &app.context.mirror.status().borrow().event()), named("bye", &ByeEvent { reconnect_ms })]
    {
        text.push_str(&String::from_utf8_lossy(&event));
    }
    text
}

/// `GET /events`. Answers 200 in every passing trouble, since an `EventSource` never tries again after anything else.
pub async fn events(
    State(app): State<Arc<App>>,
    query: Query,
    direct: Option<Extension<Direct>>,
    headers: HeaderMap,
) -> Response {
    let fields = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    if app.context.metrics.streams_open() >= app.streams_max {
        app.context.metrics.turned_away.inc();
        return (fields, full(&app)).into_response();
    }
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
    if direct.is_some() {
        return (fields, Extension(Handover::new(reader))).into_response();
    }
    let bytes = stream::unfold(reader, async |mut reader| {
        let bytes = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), reader))
    });
    (fields, Body::from_stream(bytes)).into_response()
}
