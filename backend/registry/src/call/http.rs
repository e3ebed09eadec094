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
use reqwest::{Body, Request, Response, Url, redirect};
use serde::Serialize;
use tokio::time::Instant;
use tracing::warn;
use url::Position;

use super::{
    CallConfig, CallError, Repeatable, Target,
    pool::Pool,
    tries::{Failure, Tries, is_repeatable},
};
use crate::{
    balance::{Address, Protocol, Security},
    discovery::{Discovery, IDLE},
};

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
    /// TLS is to be spoken by a client that is made here, and was not built in.
    #[error("HTTPS takes the feature `http-tls` of rollcall-registry, or a client given to `Client::with`")]
    TlsNotBuiltIn,
    /// TLS is to be spoken, and nobody's certificates are trusted.
    #[cfg(feature = "http-tls")]
    #[error(transparent)]
    Roots(#[from] super::RootsError),
}

/// Sends requests to services by their names; cheap to clone. Each service's instances are followed from the first request
/// to it on, until nobody has asked it for [`IDLE`] or twice as long.
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
    pools: Mutex<Pools>,
}

/// The services that were asked.
struct Pools {
    all: HashMap<String, Entry, RandomState>,
    /// When it was last looked who has not been asked since the time before.
    swept: Instant,
}

struct Entry {
    pool: Arc<Pool<()>>,
    /// Whether it was asked since it was last looked.
    asked: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Client {
    /// A client with reqwest's defaults but for three: it uses no proxy, whatever the environment says, for an instance's
    /// failures would be the proxy's answers; it follows no redirect, since where an instance sends its caller is the
    /// caller's to see; and it connects as `config` says. With [`Security::Tls`] certificates are checked against the
    /// system's, which takes the feature `http-tls`.
    ///
    /// # Errors
    /// [`Error::TlsNotBuiltIn`] without that feature; `Error::Roots` where the system's certificates cannot be read;
    /// [`Error::Http`] where reqwest cannot be set up.
    pub fn new(discovery: &Discovery, config: CallConfig) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .no_proxy()
            .redirect(redirect::Policy::none());
        let http = secured(http, config.security)?.build()?;
        Ok(Self::with(http, discovery, config))
    }

    /// A client that sends with `http`, whose certificates, pools and time limits are the caller's to set. What `http`
    /// itself would retry it still does. It had better follow no redirects: where the connection to what a redirect names
    /// is refused, the instance that named it counts as the one that refused, and the request is tried on another instance
    /// though this one may have carried it out. Nor use a proxy: that would answer for instances that are gone.
    pub fn with(http: reqwest::Client, discovery: &Discovery, config: CallConfig) -> Self {
        let pools = Mutex::new(Pools { all: HashMap::default(), swept: Instant::now() });
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
            let mut answer = tries.in_time(&one, pin!(self.shared.http.execute(request))).await?;
            let failure = match answer {
                Ok(mut response) if response.status() != StatusCode::SERVICE_UNAVAILABLE => {
                    // What is still to come of the body is reqwest's: the call counts as in flight until here.
                    response.extensions_mut().insert(one.answered_by());
                    drop(one.answered());
                    return Ok(response);
                }
                Ok(ref mut response) => {
                    response.extensions_mut().insert(one.answered_by());
                    Failure::Unavailable
                }
                Err(ref error) => failure(error),
            };
            if !tries.again(one, failure, kept.is_some()).await {
                return Ok(answer?);
            }
        }
    }
}

/// How the connections of a client that is made here are secured.
#[cfg(feature = "http-tls")]
fn secured(http: reqwest::ClientBuilder, security: Security) -> Result<reqwest::ClientBuilder, Error> {
    use rustls::{ClientConfig, RootCertStore, crypto::ring};

    let roots = match security {
        Security::Plain => RootCertStore::empty(),
        Security::Tls => super::roots::read()?,
    };
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks what rustls speaks by default")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec!["http/1.1".into()];
    // Also where none is spoken: without it reqwest would look for a provider of cryptography.
    Ok(http.tls_backend_preconfigured(config))
}

#[cfg(not(feature = "http-tls"))]
fn secured(http: reqwest::ClientBuilder, security: Security) -> Result<reqwest::ClientBuilder, Error> {
    match security {
        Security::Plain => Ok(http),
        Security::Tls => Err(Error::TlsNotBuiltIn),
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
        let service = target.service();
        if let Some(entry) = pools.all.get_mut(service)
            && entry.pool.is_followed()
        {
            entry.asked = true;
            return Ok(Arc::clone(&entry.pool));
        }
        pools.let_go();
        let view = self.discovery.subscribe(service)?;
        let scheme = Protocol::Http.scheme(self.config.security);
        let name = service.to_owned();
        let make = move |address: &Address| match at(scheme, address.as_str(), "/") {
            Ok(_) => Some(()),
            Err(error) => {
                warn!(service = name, %address, %error, "an address that cannot be called");
                None
            }
        };
        let pool = Pool::new(service, Protocol::Http, self.config.clone(), view, self.discovery.clone(), make);
        let pool = Arc::new(pool);
        pools.all.insert(service.to_owned(), Entry { pool: Arc::clone(&pool), asked: true });
        Ok(pool)
    }
}

impl Pools {
    /// Lets those go that nobody has asked since the last time, unless that was a moment ago.
    fn let_go(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.swept) < IDLE {
            return;
        }
        self.swept = now;
        // A request that is on its way has its pool in its hands.
        self.all.retain(|_, entry| std::mem::take(&mut entry.asked) || Arc::strong_count(&entry.pool) > 1);
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

#[cfg(test)]
mod tests {
    use rollcall_shared::{KeyPrefix, Layout};

    use super::*;
    use crate::{
        discovery::DiscoveryConfig,
        etcd::connect::{ConnectConfig, Connection},
    };

    /// A discovery whose etcd is nowhere.
    fn discovery() -> Discovery {
        let config = ConnectConfig { endpoints: vec!["127.0.0.1:1".into()], ..ConnectConfig::default() };
        let prefix = KeyPrefix::new("/microservices").unwrap();
        Discovery::new(Connection::new(config).unwrap(), DiscoveryConfig::new(Layout::Kratos, prefix))
    }

    /// With the whole workspace it is built in, with this crate alone it is not.
    #[tokio::test]
    async fn https_is_there_where_it_was_built_in_and_refused_where_it_was_not() {
        let config = CallConfig { security: Security::Tls, ..CallConfig::default() };
        let made = Client::new(&discovery(), config);
        assert_eq!(made.is_ok(), cfg!(feature = "http-tls"), "{made:?}");
        assert!(made.is_ok() || matches!(made, Err(Error::TlsNotBuiltIn)), "{made:?}");
        assert!(Client::new(&discovery(), CallConfig::default()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_nobody_asks_any_more_is_let_go() {
        let client = Client::new(&discovery(), CallConfig::default()).unwrap();
        let ask = |name: &str| client.shared.pool(&format!("discovery:///{name}").parse().unwrap()).unwrap();
        let known = || {
            let pools = client.shared.pools.lock().unwrap();
            let mut names: Vec<_> = pools.all.keys().cloned().collect();
            names.sort();
            names
        };
        drop(ask("once"));
        let held = ask("held");
        tokio::time::sleep(IDLE).await;
        drop(ask("often"));
        assert_eq!(known(), ["held", "often", "once"], "both were asked within the last minutes");
        tokio::time::sleep(IDLE).await;
        drop(ask("often"));
        drop(ask("new"));
        assert_eq!(known(), ["held", "new", "often"]);
        drop(held);
        tokio::time::sleep(IDLE).await;
        drop(ask("newer"));
        assert_eq!(known(), ["new", "newer"]);
    }

    #[tokio::test]
    async fn a_service_whose_list_nobody_follows_any_more_is_followed_anew() {
        let client = Client::new(&discovery(), CallConfig::default()).unwrap();
        let target: Target = "discovery:///orders".parse().unwrap();
        let asking = (client.clone(), target.clone());
        let first = std::thread::spawn(move || {
            let short_lived = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            short_lived.block_on(async { asking.0.shared.pool(&asking.1).unwrap() })
        });
        let first = first.join().unwrap();
        assert!(!first.is_followed());
        let second = client.shared.pool(&target).unwrap();
        assert!(second.is_followed() && !Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &client.shared.pool(&target).unwrap()));
    }
}
