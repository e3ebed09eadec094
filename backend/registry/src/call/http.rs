//! Requests to a service by its name, with reqwest.
//!
//! Owns the way from `discovery:///helloworld/hello?x=1` to `http://10.0.0.7:8000/hello?x=1`: the first segment is the
//! service's name, the rest is asked of an instance. Everything else is reqwest's.

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use foldhash::fast::RandomState;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Body, Request, Response, Url};
use serde::Serialize;
use url::Position;

use super::{
    CallConfig, CallError, Repeatable, Target,
    pool::Pool,
    tries::{Failure, Tries, is_repeatable},
};
use crate::{balance::Protocol, discovery::Discovery};

/// Why a request had no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be made.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What follows the service's name is no address.
    #[error("{0:?} cannot be asked for")]
    Url(String),
    /// It failed, on the instance that was tried last.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

/// Sends requests to services by their names; cheap to clone. Each service's instances are followed from the first request
/// to it on, as long as the client lives.
///
/// ```no_run
/// # use rollcall_registry::{Registry, call::{CallConfig, http::Client}};
/// # async fn example(registry: Registry) -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(registry.discovery(), CallConfig::default())?;
/// let answer = client.get("discovery:///helloworld/hello?name=you").send().await?.error_for_status()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    http: reqwest::Client,
    discovery: Discovery,
    config: CallConfig,
    pools: Mutex<HashMap<String, Arc<Pool<()>>, RandomState>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Client {
    /// A client with reqwest's defaults.
    ///
    /// # Errors
    /// [`Error::Http`] where reqwest cannot be set up.
    pub fn new(discovery: &Discovery, config: CallConfig) -> Result<Self, Error> {
        let http = reqwest::Client::builder().connect_timeout(config.connect_timeout).build()?;
        Ok(Self::with(http, discovery, config))
    }

    /// A client that sends with `http`, whose certificates, pools and time limits are the caller's to set. What `http`
    /// itself would retry it still does.
    pub fn with(http: reqwest::Client, discovery: &Discovery, config: CallConfig) -> Self {
        let pools = Mutex::default();
        Self { shared: Arc::new(Shared { http, discovery: discovery.clone(), config, pools }) }
    }

    /// A `GET` of `url`, `discovery:///helloworld/hello` for example. What is wrong with it is told when it is sent.
    pub fn get(&self, url: &str) -> RequestBuilder {
        self.request(Method::GET, url)
    }

    /// A `POST`.
    pub fn post(&self, url: &str) -> RequestBuilder {
        self.request(Method::POST, url)
    }

    /// A `PUT`.
    pub fn put(&self, url: &str) -> RequestBuilder {
        self.request(Method::PUT, url)
    }

    /// A `DELETE`.
    pub fn delete(&self, url: &str) -> RequestBuilder {
        self.request(Method::DELETE, url)
    }

    /// A request of any method.
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        let built = Target::with_path(url).map_err(|error| Error::Call(error.into())).and_then(|(target, rest)| {
            // The authority is each try's own.
            let rest = at("http", "instance", rest)?;
            let request = reqwest::RequestBuilder::from_parts(self.shared.http.clone(), Request::new(method, rest));
            Ok((target, request))
        });
        RequestBuilder { client: self.clone(), built, extensions: Extensions::new() }
    }

    async fn send(&self, target: &Target, request: Request, extensions: &Extensions) -> Result<Response, Error> {
        let pool = self.shared.pool(target)?;
        let repeatable = is_repeatable(pool.config.retry.repeat, request.method(), extensions);
        let scheme = Protocol::Http.scheme(pool.config.security);
        let mut kept = Some(request);
        let mut tries = Tries::new(&pool, repeatable, None);
        loop {
            let one = tries.next().await?;
            let mut request = kept.take().expect("there is another try only where there is a copy");
            // A body that streams is there once.
            kept = request.try_clone();
            *request.url_mut() = at(scheme, one.call().address().as_str(), &request.url()[Position::BeforePath..])?;
            let answer = tries.in_time(&one, pin!(self.shared.http.execute(request))).await?;
            let failure = match answer {
                Ok(mut response) if response.status() != StatusCode::SERVICE_UNAVAILABLE => {
                    // What is still to come of the body is reqwest's: the call counts as in flight until here.
                    let (_, answered_by) = tries.answered(one);
                    response.extensions_mut().insert(answered_by);
                    return Ok(response);
                }
                Ok(_) => Failure::Unavailable,
                Err(ref error) => failure(error),
            };
            if !tries.again(one, failure, kept.is_some()).await {
                return Ok(answer?);
            }
        }
    }
}

/// What is asked for, of whom.
fn at(scheme: &str, authority: &str, rest: &str) -> Result<Url, Error> {
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let text = format!("{scheme}://{authority}{slash}{rest}");
    Url::parse(&text).map_err(|_| Error::Url(text))
}

/// What reqwest's error says of the instance, and of whether the request was carried out.
fn failure(error: &reqwest::Error) -> Failure {
    if error.is_connect() {
        return Failure::Refused;
    }
    if error.is_timeout() || error.is_builder() || error.is_redirect() {
        return Failure::Final;
    }
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            // The connection was closed before it took the request.
            return Failure::Unsent;
        }
        next = error.source();
    }
    Failure::Broken
}

impl Shared {
    fn pool(&self, target: &Target) -> Result<Arc<Pool<()>>, CallError> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(target.service()) {
            return Ok(Arc::clone(pool));
        }
        let service = target.service();
        let view = self.discovery.subscribe(service)?;
        let make = |_: &_| Some(());
        let pool = Pool::new(service, Protocol::Http, self.config.clone(), view, self.discovery.clone(), make);
        let pool = Arc::new(pool);
        pools.insert(service.to_owned(), Arc::clone(&pool));
        Ok(pool)
    }
}

/// A request on its way to be sent. For what is not here there is [`Self::with`].
#[must_use = "a request does nothing until it is sent"]
pub struct RequestBuilder {
    client: Client,
    built: Result<(Target, reqwest::RequestBuilder), Error>,
    extensions: Extensions,
}

impl RequestBuilder {
    /// Goes on with reqwest's own builder: all of its methods but `send`. The URL's authority is set when it is sent.
    pub fn with(mut self, with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder) -> Self {
        self.built = self.built.map(|(target, request)| (target, with(request)));
        self
    }

    /// Adds a header.
    pub fn header(self, name: HeaderName, value: HeaderValue) -> Self {
        self.with(|request| request.header(name, value))
    }

    /// Adds headers.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.with(|request| request.headers(headers))
    }

    /// Sets the body. One that streams is sent once, whatever becomes of it.
    pub fn body(self, body: impl Into<Body>) -> Self {
        self.with(|request| request.body(body))
    }

    /// Sets the body to `json`.
    pub fn json(self, json: &(impl Serialize + ?Sized)) -> Self {
        self.with(|request| request.json(json))
    }

    /// How long each try may take until its answer has come whole; the tries together have the time of
    /// [`CallConfig::timeout`] until the answer begins.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|request| request.timeout(timeout))
    }

    /// Whether this request may be carried out twice, whatever its method promises and the configuration says.
    pub fn repeatable(mut self, repeatable: bool) -> Self {
        self.extensions.insert(Repeatable(repeatable));
        self
    }

    /// Sends it. The answer says who gave it: see [`AnsweredBy`](super::AnsweredBy).
    ///
    /// # Errors
    /// [`Error::Call`] where no instance could be called, or none answered in time; [`Error::Http`] with the failure of the
    /// last try; [`Error::Url`].
    pub async fn send(self) -> Result<Response, Error> {
        let (target, request) = self.built?;
        self.client.send(&target, request.build()?, &self.extensions).await
    }
}

impl fmt::Debug for RequestBuilder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RequestBuilder").field("built", &self.built).finish_non_exhaustive()
    }
}
