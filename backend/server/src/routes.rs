//! The route list, which reads as a table, and the layers around it.

mod act;
mod ask;
#[cfg(test)]
mod openapi_tests;
mod read;
mod stream;
mod write;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, Uri, header},
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse as _, Redirect, Response},
    routing::{delete, get, post},
};
use rollcall_shared::api::API;
use tower::ServiceExt as _;
use tower_http::{
    compression::CompressionLayer,
    cors::{AllowOrigin, CorsLayer},
    csrf::CsrfLayer,
    set_header::SetResponseHeaderLayer,
};

use crate::{
    assets::Assets,
    guard::{Guard, guard},
    kept::KeptLeases,
    problem::{Failure, problems_only},
    sse::Context,
    undo::UndoBook,
};

/// What the page may load: its own files, and nothing that stands in the page itself.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; \
    frame-ancestors 'none'";

/// What handlers share.
pub struct App {
    /// The mirror, the connection, the counts and the end.
    pub context: Context,
    /// What can be undone.
    pub undo: UndoBook,
    /// The leases that this server renews.
    pub kept: KeptLeases,
    /// The page.
    pub assets: Assets,
    /// How many streams are served at the same time.
    pub streams_max: usize,
}

/// What stands around the routes.
pub struct Edge {
    /// Who may ask.
    pub guard: Guard,
    /// Which other pages may read.
    pub allow_origins: Vec<HeaderValue>,
    /// Below which path everything stands; empty for none.
    pub base_path: String,
}

/// Every route.
pub fn router(app: Arc<App>, edge: Edge) -> Router {
    let api = Router::new()
        .route("/services", get(read::services))
        .route("/services/{service}", get(read::service))
        .route("/instances", get(read::instances).post(write::register).put(write::edit).delete(write::deregister))
        .route("/instances/raw", get(read::raw))
        .route("/leases/{id}", get(read::lease).merge(delete(write::revoke)))
        .route("/leases/{id}/keepalive", post(write::keep_alive))
        .route("/undo/{token}", post(write::undo))
        .route("/batch", post(write::batch))
        .route("/events", get(stream::events))
        .route("/openapi.json", get(read::openapi));
    let guarded = Router::new()
        .nest(API, api)
        .route("/metrics", get(read::metrics))
        .fallback(page)
        .layer(CsrfLayer::new())
        .layer(from_fn_with_state(Arc::new(edge.guard), guard))
        // Outside of the guard: a preflight comes without credentials, and a page may read why it was turned away.
        .layer(
            CorsLayer::new()
                .allow_methods([Method::GET, Method::HEAD])
                .allow_headers([header::AUTHORIZATION])
                .expose_headers([header::ETAG, header::RETRY_AFTER])
                .allow_origin(AllowOrigin::list(edge.allow_origins)),
        );
    let open = Router::new().route("/healthz", get(read::healthz)).route("/readyz", get(read::readyz));
    below(&edge.base_path, guarded.merge(open).with_state(app))
        .layer(from_fn(problems_only))
        .layer(CompressionLayer::new().gzip(true).br(true).quality(tower_http::CompressionLevel::Fastest))
        .layer(header_always(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .layer(header_always(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header_always(header::REFERRER_POLICY, "no-referrer"))
}

/// The request was for the base path without its closing `/`: this is the page's address.
#[derive(Clone)]
struct Unclosed(String);

/// Serves `all` below `base_path`, and nothing beside it. Axum's own nesting leaves the path with its closing `/` out.
fn below(base_path: &str, all: Router) -> Router {
    if base_path.is_empty() {
        return all;
    }
    let base_path: Arc<str> = base_path.into();
    Router::new().fallback(async move |mut request: Request| {
        let inside = request.uri().path().strip_prefix(&*base_path).map(str::to_owned);
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let inside = match inside.as_deref() {
            Some("") => {
                request.extensions_mut().insert(Unclosed(format!("{base_path}/{query}")));
                Some("/".to_owned())
            }
            _ => inside,
        };
        match inside.as_deref() {
            Some(path) if path.starts_with('/') => {
                let mut parts = request.uri().clone().into_parts();
                let Ok(path) = format!("{path}{query}").parse() else {
                    return Failure::bad_request("this is no path").into_response();
                };
                parts.path_and_query = Some(path);
                let Ok(uri) = Uri::from_parts(parts) else {
                    return Failure::bad_request("this is no path").into_response();
                };
                *request.uri_mut() = uri;
                all.oneshot(request).await.into_response()
            }
            _ => Failure::not_found(format!("everything stands below {base_path}/")).into_response(),
        }
    })
}

fn header_always(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

async fn page(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Some(Unclosed(address)) = request.extensions().get()
        && request.method().is_safe()
    {
        return Redirect::permanent(address).into_response();
    }
    app.assets.serve(request.method(), request.uri(), request.headers())
}
