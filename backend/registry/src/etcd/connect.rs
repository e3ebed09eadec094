//! The connection to etcd: which endpoint, with which credentials, and when to try another one.
//!
//! Owns the one [`etcd_client::Client`] in use. Must not know what is asked through it. One endpoint is used at a time,
//! since a balanced channel keeps sending requests to a member that is frozen or cut off; whoever sees a request fail
//! reports it, and the next client is made for the next endpoint.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, KvClient, LeaseClient, TlsOptions, WatchClient,
};

/// How long making a connection may take, authentication included, unless configured otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long one request may take, except those that stream, unless configured otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a connection without traffic is probed. etcd closes connections that are probed more often than every
/// 5 s (`--grpc-keepalive-min-time`).
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(6);

/// How long the answer to a probe may take.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest message read from etcd, in bytes. tonic's own limit of 4 MiB is smaller than what one revision or one
/// page of a list can be, and a watch that fails at it would resume into the same message for ever.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Where etcd is and who asks, with the names that etcdctl gives its flags.
#[derive(Clone, Default)]
pub struct ConnectConfig {
    /// URLs or `host:port` of the members.
    pub endpoints: Vec<String>,
    /// `--cacert`: PEM of the authority that signed the members' certificates; the system's roots where there is none.
    pub ca_pem: Option<Vec<u8>>,
    /// `--cert` and `--key`: PEM of the client's own certificate and its key.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// `--user` and `--password`.
    pub user: Option<(String, String)>,
    /// How long making a connection, and one request, may take; [`CONNECT_TIMEOUT`] and [`REQUEST_TIMEOUT`] where it is
    /// not said.
    pub timeout: Option<Duration>,
}

impl fmt::Debug for ConnectConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and passwords stay out of logs.
        out.debug_struct("ConnectConfig").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// Why there is no connection. One try is made for all who wait for it, so that many are told of one failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// No endpoint was given.
    #[error("no endpoint of etcd is given")]
    NoEndpoint,
    /// An endpoint is no address.
    #[error("{endpoint:?} is no address of etcd: {source}")]
    BadEndpoint {
        /// The endpoint as given.
        endpoint: String,
        /// What is wrong with it.
        source: Arc<etcd_client::Error>,
    },
    /// What is given as a certificate or a key is none: another file, or a path in the place of its content.
    #[error("{what} is given, and holds no PEM of {wanted}")]
    BadPem {
        /// What was given, by the name that etcdctl gives its flag.
        what: &'static str,
        /// What was looked for in it.
        wanted: &'static str,
    },
    /// The endpoint cannot be reached, or refuses the credentials.
    #[error("etcd at {endpoint} cannot be used: {}", describe(source))]
    Refused {
        /// The endpoint that was tried.
        endpoint: String,
        /// What it answered.
        source: Arc<etcd_client::Error>,
    },
    /// The endpoint did not answer in time.
    #[error("etcd at {endpoint} did not answer within {} s", after.as_secs_f64())]
    Timeout {
        /// The endpoint that was tried.
        endpoint: String,
        /// How long it was waited for.
        after: Duration,
    },
}

/// What went wrong, in one sentence for people: etcd's own words, or what the connection's innermost error says.
pub fn describe(error: &etcd_client::Error) -> String {
    let innermost = |error: &dyn std::error::Error| {
        let mut source = error.source();
        let mut last = None;
        while let Some(error) = source {
            last = Some(error.to_string());
            source = error.source();
        }
        last
    };
    match error {
        etcd_client::Error::GRpcStatus(status) => match innermost(status) {
            Some(why) => format!("{} ({why})", status.message()),
            None => status.message().to_owned(),
        },
        etcd_client::Error::TransportError(error) => innermost(error).unwrap_or_else(|| error.to_string()),
        other => other.to_string(),
    }
}

/// Why no member gave an answer.
#[derive(Debug)]
pub(crate) enum AskError {
    Connect(ConnectError),
    Request(Box<etcd_client::Error>),
    Timeout(Duration),
}

/// Whether another member might have answered: a refusal for cause is the same everywhere.
pub fn is_member_failure(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled
        ),
        _ => true,
    }
}

/// Whether who asks has to authenticate anew, as etcd's own client does then: its token has run out, or users or roles
/// have changed since (`auth: revision of auth store is old`), or none was needed when the connection was made.
pub(crate) fn is_token_failure(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.code() == tonic::Code::Unauthenticated
        || is_about_token(status.message()))
}

/// Whether etcd's words speak of a token that is no good any more.
pub(crate) fn is_about_token(message: &str) -> bool {
    ["invalid auth token", "revision of auth store is old", "user name is empty"]
        .iter()
        .any(|words| message.contains(words))
}

/// Whether etcd knows who asks, and does not let them.
pub(crate) fn is_permission_denied(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.code() == tonic::Code::PermissionDenied)
}

/// etcd's answer to who authenticates where nobody has to.
fn is_without_authentication(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message().contains("authentication is not enabled"))
}

/// A connection to etcd that many share; cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    config: ConnectConfig,
    current: Mutex<Current>,
    /// Held by the one who connects. With a user, connecting authenticates, which costs etcd a slow hash each time.
    connecting: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(out)
    }
}

struct Current {
    /// Raised whenever a client is given up, so that a failure is counted once however many saw it.
    generation: u64,
    endpoint_index: usize,
    /// Shared rather than cloned for each request: a clone of it is one of each of its eight clients.
    client: Option<Arc<Client>>,
    /// The last try that failed, with the generation that it was of.
    failure: Option<(u64, ConnectError)>,
}

/// A client in use, with what it takes to report that it failed.
#[derive(Clone)]
pub struct EtcdClient {
    inner: Arc<Client>,
    generation: u64,
}

impl EtcdClient {
    /// Reads and writes keys. Decodes messages of up to [`MESSAGE_BYTES_MAX`].
    pub fn kv(&self) -> KvClient {
        self.inner.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Watches keys. Decodes messages of up to [`MESSAGE_BYTES_MAX`].
    pub fn watch(&self) -> WatchClient {
        self.inner.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Grants, renews, revokes and asks leases.
    pub fn lease(&self) -> LeaseClient {
        self.inner.lease_client()
    }

    /// Asks a member about itself.
    pub fn maintenance(&self) -> etcd_client::MaintenanceClient {
        self.inner.maintenance_client()
    }
}

impl Connection {
    /// A connection that is made at the first use.
    ///
    /// # Errors
    /// Where no endpoint is given, or one is no address, or TLS material is given for an `http://` endpoint, or holds nothing
    /// of the kind.
    pub fn new(config: ConnectConfig) -> Result<Self, ConnectError> {
        if config.endpoints.is_empty() {
            return Err(ConnectError::NoEndpoint);
        }
        for endpoint in &config.endpoints {
            check_endpoint(endpoint)?;
            if endpoint.starts_with("http://") && (config.ca_pem.is_some() || config.identity_pem.is_some()) {
                let detail = "a certificate is given, and http:// does without: say https://".to_owned();
                return Err(bad_endpoint(endpoint, detail));
            }
        }
        let (cert, key) = config.identity_pem.as_ref().map(|(cert, key)| (cert, key)).unzip();
        for (what, pem, wanted) in [
            ("cacert", config.ca_pem.as_ref(), "CERTIFICATE"),
            ("cert", cert, "CERTIFICATE"),
            ("key", key, "PRIVATE KEY"),
        ] {
            if pem.is_some_and(|pem| !holds_pem(pem, wanted)) {
                return Err(ConnectError::BadPem { what, wanted });
            }
        }
        let current = Mutex::new(Current { generation: 0, endpoint_index: 0, client: None, failure: None });
        Ok(Self { shared: Arc::new(Shared { config, current, connecting: tokio::sync::Mutex::default() }) })
    }

    /// The endpoints as configured.
    pub fn endpoints(&self) -> &[String] {
        &self.shared.config.endpoints
    }

    /// How long connecting, and one request, may take, where that was said.
    pub fn timeout(&self) -> Option<Duration> {
        self.shared.config.timeout
    }

    /// How long one request may take, except those that stream.
    pub fn request_timeout(&self) -> Duration {
        self.shared.config.timeout.unwrap_or(REQUEST_TIMEOUT)
    }

    /// The client in use, connecting where there is none.
    ///
    /// # Errors
    /// Where the endpoint whose turn it is cannot be reached or refuses; the next call tries the next one.
    pub async fn client(&self) -> Result<EtcdClient, ConnectError> {
        let asked_in = match self.in_use() {
            Ok(client) => return Ok(client),
            Err(generation) => generation,
        };
        let _connecting = self.shared.connecting.lock().await;
        let generation = match self.in_use() {
            Ok(client) => return Ok(client),
            Err(generation) => generation,
        };
        let endpoint = {
            let current = self.current();
            // Somebody else's try has failed since this one was waited for: it is the answer.
            if let Some((failed_in, error)) = &current.failure
                && *failed_in >= asked_in
            {
                return Err(error.clone());
            }
            let endpoints = &self.shared.config.endpoints;
            endpoints[current.endpoint_index % endpoints.len()].clone()
        };
        let after = self.shared.config.timeout.unwrap_or(CONNECT_TIMEOUT);
        // Boxed: it is rare, and as large as all else that a request is.
        let connecting = Box::pin(async {
            match Client::connect([&endpoint], Some(self.options(&endpoint, true))).await {
                // As etcd's own client: who knows a password may go without one, too.
                Err(error) if is_without_authentication(&error) => {
                    Client::connect([&endpoint], Some(self.options(&endpoint, false))).await
                }
                connected => connected,
            }
        });
        let error = match tokio::time::timeout(after, connecting).await {
            Ok(Ok(client)) => {
                let mut current = self.current();
                let client = Arc::new(client);
                current.client = Some(Arc::clone(&client));
                return Ok(EtcdClient { inner: client, generation: current.generation });
            }
            Ok(Err(source)) => ConnectError::Refused { endpoint, source: Arc::new(source) },
            Err(_) => ConnectError::Timeout { endpoint, after },
        };
        self.current().failure = Some((generation, error.clone()));
        self.give_up(generation);
        Err(error)
    }

    /// The client in use, or the generation that the next one will be of.
    fn in_use(&self) -> Result<EtcdClient, u64> {
        let current = self.current();
        let generation = current.generation;
        current.client.clone().map(|inner| EtcdClient { inner, generation }).ok_or(generation)
    }

    /// Whether etcd can be asked with these credentials now: one read, which needs a quorum and no permission.
    ///
    /// # Errors
    /// [`ConnectError`], one clear reason: at once, or as soon as each member was asked.
    pub async fn check(&self) -> Result<(), ConnectError> {
        let asked = self
            .ask(usize::MAX, async |client: EtcdClient| {
                let count = GetOptions::new().with_count_only();
                client.kv().get("rollcall", Some(count)).await
            })
            .await;
        let endpoint = || self.endpoints().join(",");
        match asked {
            Ok(_) => Ok(()),
            // It knows who asks, and that is all that was to be known.
            Err(AskError::Request(error)) if is_permission_denied(&error) => Ok(()),
            Err(AskError::Request(error)) => {
                Err(ConnectError::Refused { endpoint: endpoint(), source: Arc::new(*error) })
            }
            Err(AskError::Connect(error)) => Err(error),
            Err(AskError::Timeout(after)) => Err(ConnectError::Timeout { endpoint: endpoint(), after }),
        }
    }

    /// Asks one member after the other until one answers, up to so many: each once, and once more where only the token was old. What is
    /// asked may be carried out though its answer was lost, so that it must bear to be asked twice.
    pub(crate) async fn ask<T, F>(&self, members_max: usize, request: impl Fn(EtcdClient) -> F) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let after = self.request_timeout();
        let mut members = self.endpoints().len().min(members_max);
        let mut has_new_token = false;
        loop {
            let error = match self.client().await {
                Err(error) => AskError::Connect(error),
                Ok(client) => match tokio::time::timeout(after, request(client.clone())).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) if is_token_failure(&error) && !has_new_token => {
                        self.report_failure(&client);
                        has_new_token = true;
                        continue;
                    }
                    Ok(Err(error)) if !is_member_failure(&error) => return Err(AskError::Request(Box::new(error))),
                    Ok(Err(error)) => {
                        self.report_failure(&client);
                        AskError::Request(Box::new(error))
                    }
                    Err(_) => {
                        self.report_failure(&client);
                        AskError::Timeout(after)
                    }
                },
            };
            members -= 1;
            if members == 0 {
                return Err(error);
            }
        }
    }

    /// Says that requests through `client` fail, so that the next client is made anew, for the next endpoint.
    pub fn report_failure(&self, client: &EtcdClient) {
        self.give_up(client.generation);
    }

    fn give_up(&self, generation: u64) {
        let mut current = self.current();
        if current.generation == generation {
            current.generation += 1;
            current.endpoint_index = (current.endpoint_index + 1) % self.shared.config.endpoints.len();
            current.client = None;
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn options(&self, endpoint: &str, authenticates: bool) -> ConnectOptions {
        let config = &self.shared.config;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.timeout.unwrap_or(CONNECT_TIMEOUT))
            .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if endpoint.starts_with("https://") || config.ca_pem.is_some() || config.identity_pem.is_some() {
            let mut tls = TlsOptions::new();
            tls = match &config.ca_pem {
                Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                None => tls.with_native_roots(),
            };
            if let Some((cert, key)) = &config.identity_pem {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            options = options.with_tls(tls);
        }
        if let Some((name, password)) = config.user.as_ref().filter(|_| authenticates) {
            // Tokens run out (etcd's simple ones after five minutes). A watch learns of it in another way: `source`.
            options = options.with_user(name, password).with_auto_token_refresh(true);
        }
        options
    }
}

/// Whether a block of that kind begins in it; keys name their own kind before the words, `EC PRIVATE KEY` for example.
fn holds_pem(pem: &[u8], wanted: &str) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.lines().any(|line| {
        let label = line.trim().strip_prefix("-----BEGIN ").and_then(|label| label.strip_suffix("-----"));
        label.is_some_and(|label| label.ends_with(wanted))
    })
}

fn bad_endpoint(endpoint: &str, detail: String) -> ConnectError {
    let source = Arc::new(etcd_client::Error::InvalidArgs(detail));
    ConnectError::BadEndpoint { endpoint: endpoint.to_owned(), source }
}

/// An endpoint is `http://host:port`, `https://host:port` or, as etcdctl takes it, `host:port`.
fn check_endpoint(endpoint: &str) -> Result<(), ConnectError> {
    let address = match endpoint.split_once("://") {
        Some(("http" | "https", address)) => address.trim_end_matches('/'),
        Some((scheme, _)) => {
            return Err(bad_endpoint(endpoint, format!("{scheme}:// is neither http:// nor https://")));
        }
        None => endpoint,
    };
    let uri: tonic::transport::Uri =
        format!("http://{address}").parse().map_err(|_| bad_endpoint(endpoint, "host:port is wanted".to_owned()))?;
    if uri.host().is_none_or(str::is_empty) || uri.path() != "/" {
        return Err(bad_endpoint(endpoint, "host:port is wanted".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoints: &[&str]) -> ConnectConfig {
        ConnectConfig { endpoints: endpoints.iter().map(ToString::to_string).collect(), ..ConnectConfig::default() }
    }

    #[test]
    fn what_is_no_address_is_refused_before_anything_is_asked() {
        for wrong in ["", "ftp://127.0.0.1:2379", "http://", "http://127.0.0.1:2379/path", "http://a b:1"] {
            assert!(matches!(Connection::new(config(&[wrong])), Err(ConnectError::BadEndpoint { .. })), "{wrong:?}");
        }
        assert!(matches!(Connection::new(config(&[])), Err(ConnectError::NoEndpoint)));
        for right in ["127.0.0.1:2379", "http://[::1]:2379", "https://etcd-0.etcd:2379/", "localhost:2379"] {
            assert!(Connection::new(config(&[right])).is_ok(), "{right:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_before_anything_is_asked() {
        let secure = || config(&["https://127.0.0.1:1"]);
        let cert = b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n".to_vec();
        let key = b"-----BEGIN EC PRIVATE KEY-----\nMA==\n-----END EC PRIVATE KEY-----\n".to_vec();
        let refused = |config| Connection::new(config).map(drop).unwrap_err().to_string();
        for wrong in [b"/etc/ssl/ca.pem".to_vec(), Vec::new(), key.clone()] {
            let said = refused(ConnectConfig { ca_pem: Some(wrong), ..secure() });
            assert!(said.contains("cacert"), "{said}");
        }
        let said = refused(ConnectConfig { identity_pem: Some((cert.clone(), cert.clone())), ..secure() });
        assert!(said.starts_with("key is given"), "{said}");
        let sound = ConnectConfig { ca_pem: Some(cert.clone()), identity_pem: Some((cert, key)), ..secure() };
        assert!(Connection::new(sound).is_ok());
    }

    #[tokio::test]
    async fn a_failure_that_many_saw_moves_on_by_one_endpoint() {
        let connection = Connection::new(config(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])).unwrap();
        let (one, other) = (connection.client().await.unwrap(), connection.client().await.unwrap());
        connection.report_failure(&one);
        connection.report_failure(&other);
        assert_eq!(connection.current().endpoint_index, 1);
        let next = connection.client().await.unwrap();
        connection.report_failure(&one);
        assert_eq!(connection.current().endpoint_index, 1);
        connection.report_failure(&next);
        assert_eq!(connection.current().endpoint_index, 2);
    }

    #[tokio::test]
    async fn who_waits_for_one_try_is_told_of_its_failure_and_the_next_call_tries_again() {
        // With a user, connecting authenticates, and nobody listens there.
        let user = Some(("root".to_owned(), "secret".to_owned()));
        let connection = Connection::new(ConnectConfig { user, ..config(&["127.0.0.1:1", "127.0.0.1:2"]) }).unwrap();
        let tries: [_; 5] = std::array::from_fn(|_| connection.client());
        for failed in futures_util::future::join_all(tries).await {
            assert!(matches!(failed, Err(ConnectError::Refused { endpoint, .. }) if endpoint == "127.0.0.1:1"));
        }
        assert_eq!(connection.current().generation, 1);
        let next = connection.client().await;
        assert!(matches!(next, Err(ConnectError::Refused { endpoint, .. }) if endpoint == "127.0.0.1:2"));
    }
}
