//! What go-kratos and go-micro call the options of a registry, and the [`Registry`] that is made of them.
//!
//! Owns: the defaults of each framework, and what the environment may say. Must not know how registering or discovering
//! is done. Nothing reads the environment but [`Options::from_env`], and only when it is called.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rollcall_shared::{
    KeyPrefix, Layout, PrefixError, ServiceInstance,
    api::{TTL_S_MAX, TTL_S_MIN},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    discovery::{DiscoverError, Discovery, DiscoveryConfig, FIRST_LIST_TIMEOUT, Instances, LossGuard, Scope, Watcher},
    etcd::{
        connect::{ConnectConfig, ConnectError, Connection},
        keepalive::LeaseKeeping,
    },
    registrar::{RegisterError, Registrar, RegistrarConfig, Registration},
};

/// Where etcd is looked for unless it is said: on this machine, as etcdctl does.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:2379";

/// Why options make no registry.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OptionsError {
    /// The prefix is none.
    #[error("the prefix {prefix:?}: {source}")]
    Prefix {
        /// As it was given.
        prefix: String,
        /// What is wrong with it.
        source: PrefixError,
    },
    /// etcd grants no such TTL.
    #[error("a TTL is {TTL_S_MIN} to {TTL_S_MAX} s, not {} s", .0.as_secs_f64())]
    Ttl(Duration),
    /// The endpoints, or the certificates beside them, are wrong.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A variable of the environment holds something else than is wanted.
    #[error("{name} is {value:?}, and {wanted} is wanted")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        wanted: &'static str,
    },
}

/// How a registry is reached, and how services are registered and found in it. Begin with the framework whose fleet is
/// joined: [`Options::kratos`], [`Options::go_micro`] and so on set its prefix, its layout and its TTL.
#[derive(Clone)]
pub struct Options {
    layout: Layout,
    prefix: String,
    ttl: Option<Duration>,
    takeover: bool,
    connect: ConnectConfig,
    scope: Scope,
    first_list_timeout: Duration,
    loss_guard: Option<LossGuard>,
}

impl fmt::Debug for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Options")
            .field("layout", &self.layout)
            .field("prefix", &self.prefix)
            .field("ttl", &self.ttl)
            .field("connect", &self.connect)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Services in `layout` below `prefix`, with a TTL of 15 s.
    pub fn new(layout: Layout, prefix: impl Into<String>) -> Self {
        Self {
            layout,
            prefix: prefix.into(),
            ttl: Some(Duration::from_secs(15)),
            takeover: false,
            connect: ConnectConfig { endpoints: vec![DEFAULT_ENDPOINT.to_owned()], ..ConnectConfig::default() },
            scope: Scope::Asked,
            first_list_timeout: FIRST_LIST_TIMEOUT,
            loss_guard: None,
        }
    }

    /// As go-kratos' `contrib/registry/etcd`: namespace `/microservices`, TTL 15 s.
    pub fn kratos() -> Self {
        Self::new(Layout::Kratos, "/microservices")
    }

    /// As go-micro's etcd registry: `/micro/registry/`, TTL 60 s.
    pub fn go_micro() -> Self {
        Self::new(Layout::GoMicro, "/micro/registry").ttl(Duration::from_mins(1))
    }

    /// As go-kit's `sd/etcdv3`, whose prefix is the caller's choice: TTL 10 s.
    pub fn go_kit(prefix: impl Into<String>) -> Self {
        Self::new(Layout::GoKit, prefix).ttl(Duration::from_secs(10))
    }

    /// As etcd's own gRPC naming: `target` is the name that its clients resolve, or what such names begin with.
    ///
    /// Go's gRPC callers make an `:authority` of the name; where it holds `/` or is beyond ASCII, that has `%` in it, which
    /// HTTP/2 in Rust refuses as a protocol error. They then need `grpc.WithAuthority`.
    pub fn grpc(target: impl Into<String>) -> Self {
        Self::new(Layout::Grpc, target)
    }

    /// As go-zero's `discov`: `key` is the key of its configuration, or what such keys begin with. TTL 10 s.
    pub fn go_zero(key: impl Into<String>) -> Self {
        Self::new(Layout::GoZero, key).ttl(Duration::from_secs(10))
    }

    /// As Kitex' `registry-etcd`: `kitex/registry-etcd`, TTL 60 s.
    pub fn kitex() -> Self {
        Self::new(Layout::Kitex, "kitex/registry-etcd").ttl(Duration::from_mins(1))
    }

    /// As Hertz' etcd registry: `hertz/registry-etcd`, TTL 60 s.
    pub fn hertz() -> Self {
        Self::new(Layout::Hertz, "hertz/registry-etcd").ttl(Duration::from_mins(1))
    }

    /// As hand-written clients of plain etcd: `services/{name}/{id}`.
    pub fn plain() -> Self {
        Self::new(Layout::Plain, "services")
    }

    /// Where etcd is: URLs or `host:port`, one for each member. go-micro's `Addrs`.
    #[must_use]
    pub fn endpoints<E: Into<String>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.connect.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// The prefix of all keys. go-kratos' `Namespace`.
    #[must_use]
    pub fn namespace(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a key outlives its program: whole seconds, a part of one counting as one. go-kratos' `RegisterTTL`.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Keys without a lease, which stay until somebody deletes them. For what has no life of its own to end. Nothing watches
    /// over such a key once it is written: in an etcd that comes back empty it is gone.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.ttl = None;
        self
    }

    /// Whether a key that somebody else holds is taken over, as the Go frameworks do. Without it that is
    /// [`RegisterError::Standing`].
    #[must_use]
    pub fn takeover(mut self, takeover: bool) -> Self {
        self.takeover = takeover;
        self
    }

    /// How long connecting, and one request, may take. go-micro's `Timeout`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.connect.timeout = Some(timeout);
        self
    }

    /// PEM of the authority that signed the members' certificates. go-micro's `Secure` and `TLSConfig`.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.connect.ca_pem = Some(pem.into());
        self
    }

    /// PEM of the client's own certificate and of its key.
    #[must_use]
    pub fn identity_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.connect.identity_pem = Some((certificate.into(), key.into()));
        self
    }

    /// Who asks. go-micro's `Auth`.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.connect.user = Some((name.into(), password.into()));
        self
    }

    /// Whether each service is watched once it is asked for, or everything at once.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// How long the first list of a service is waited for while etcd cannot be asked.
    #[must_use]
    pub fn first_list_timeout(mut self, timeout: Duration) -> Self {
        self.first_list_timeout = timeout;
        self
    }

    /// Holds the loss of most instances at once back.
    #[must_use]
    pub fn loss_guard(mut self, guard: LossGuard) -> Self {
        self.loss_guard = Some(guard);
        self
    }

    /// [`Options::go_micro`] with what its programs read from their environment: `MICRO_REGISTRY_ADDRESS` (a comma between addresses),
    /// `MICRO_REGISTER_TTL` (seconds), `MICRO_REGISTRY` (only `etcd`), and `ETCD_USERNAME` with `ETCD_PASSWORD`. What is
    /// not there, or empty, stays as it was.
    ///
    /// # Errors
    /// [`OptionsError::Variable`], which names the variable.
    pub fn from_env() -> Result<Self, OptionsError> {
        Self::go_micro().with_variables(|name| std::env::var(name).ok())
    }

    fn with_variables(mut self, read: impl Fn(&str) -> Option<String>) -> Result<Self, OptionsError> {
        let read = |name: &str| read(name).filter(|value| !value.is_empty());
        if let Some(value) = read("MICRO_REGISTRY")
            && value != "etcd"
        {
            return Err(OptionsError::Variable { name: "MICRO_REGISTRY", value, wanted: "`etcd`" });
        }
        if let Some(addresses) = read("MICRO_REGISTRY_ADDRESS") {
            let addresses = addresses.split(',').map(str::trim).filter(|address| !address.is_empty());
            let addresses: Vec<String> = addresses.map(with_port).collect();
            if !addresses.is_empty() {
                self = self.endpoints(addresses);
            }
        }
        if let Some(value) = read("MICRO_REGISTER_TTL") {
            let wanted = "a number of seconds";
            let seconds = value.parse();
            let seconds = seconds.map_err(|_| OptionsError::Variable { name: "MICRO_REGISTER_TTL", value, wanted })?;
            self = self.ttl(Duration::from_secs(seconds));
        }
        if let Some(name) = read("ETCD_USERNAME") {
            self = self.user(name, read("ETCD_PASSWORD").unwrap_or_default());
        }
        Ok(self)
    }

    fn prefix(&self) -> Result<KeyPrefix, OptionsError> {
        KeyPrefix::new(&self.prefix).map_err(|source| OptionsError::Prefix { prefix: self.prefix.clone(), source })
    }

    fn ttl_s(&self) -> Result<Option<i64>, OptionsError> {
        let Some(ttl) = self.ttl else { return Ok(None) };
        let whole = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
        match i64::try_from(whole) {
            Ok(seconds) if (TTL_S_MIN..=TTL_S_MAX).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(OptionsError::Ttl(ttl)),
        }
    }
}

/// An address with etcd's own port where it names none, as go-micro reads it.
fn with_port(address: &str) -> String {
    let (_, host) = address.split_once("://").unwrap_or(("", address));
    let after_host = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    if after_host.contains(':') { address.to_owned() } else { format!("{address}:2379") }
}

/// A registry of services in etcd: registers and finds them over one connection. Cheap to clone.
///
/// Everything goes on by itself while etcd is away, and nothing is ever given up.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    registrar: Registrar,
    discovery_config: DiscoveryConfig,
    discovery: OnceLock<Discovery>,
}

impl Registry {
    /// A registry over a connection that is made at the first use; [`Self::check`] makes it now. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// Where an option is wrong in itself. etcd is not asked.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        let (prefix, ttl_s) = (options.prefix()?, options.ttl_s()?);
        // A fleet that all began with the first member would all sit on it.
        let mut connect = options.connect;
        fastrand::shuffle(&mut connect.endpoints);
        let connection = Connection::new(connect)?;
        let keeping = LeaseKeeping::start(connection.clone(), &CancellationToken::new());
        let layout = options.layout;
        let config = RegistrarConfig { layout, prefix: prefix.clone(), ttl_s, takeover: options.takeover };
        let discovery_config = DiscoveryConfig {
            layout,
            prefix,
            scope: options.scope,
            first_list_timeout: options.first_list_timeout,
            loss_guard: options.loss_guard,
        };
        let registrar = Registrar::sharing(keeping, config).with_nested_names();
        Ok(Self { inner: Arc::new(Inner { connection, registrar, discovery_config, discovery: OnceLock::new() }) })
    }

    /// Whether etcd can be asked with these credentials now. Nothing has to be checked first: it is for programs that
    /// would rather end at a wrong password than go on trying.
    ///
    /// # Errors
    /// [`ConnectError`], one clear reason.
    pub async fn check(&self) -> Result<(), ConnectError> {
        self.inner.connection.check().await
    }

    /// What registers.
    pub fn registrar(&self) -> &Registrar {
        &self.inner.registrar
    }

    /// What finds.
    pub fn discovery(&self) -> &Discovery {
        let Inner { connection, discovery_config, discovery, .. } = &*self.inner;
        discovery.get_or_init(|| Discovery::new(connection.clone(), discovery_config.clone()))
    }

    /// An instance of `name` at `endpoints` with an id of its own, as a program of the framework would choose it: its
    /// address in Kitex and Hertz, the service's name with a UUID in go-micro, a UUID elsewhere.
    pub fn instance<E: Into<String>>(
        &self,
        name: impl Into<String>,
        endpoints: impl IntoIterator<Item = E>,
    ) -> ServiceInstance {
        let (name, endpoints): (_, Vec<String>) = (name.into(), endpoints.into_iter().map(Into::into).collect());
        let layout = self.inner.discovery_config.layout;
        let id = layout.default_id(&endpoints, || match layout {
            Layout::GoMicro => format!("{name}-{}", Uuid::new_v4()),
            _ => Uuid::new_v4().to_string(),
        });
        ServiceInstance { id, name, endpoints, ..ServiceInstance::default() }
    }

    /// As [`Registrar::register`].
    ///
    /// # Errors
    /// As there.
    pub async fn register(&self, instance: &ServiceInstance) -> Result<Registration, RegisterError> {
        self.registrar().register(instance).await
    }

    /// As [`Discovery::get_service`].
    ///
    /// # Errors
    /// As there.
    pub async fn get_service(&self, name: &str) -> Result<Instances, DiscoverError> {
        self.discovery().get_service(name).await
    }

    /// As [`Discovery::watch`].
    ///
    /// # Errors
    /// As there.
    pub fn watch(&self, name: &str) -> Result<Watcher, DiscoverError> {
        self.discovery().watch(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_before_anything_is_asked() {
        let refused = |options: Options| Registry::new(options).map(drop).unwrap_err().to_string();
        assert!(refused(Options::kratos().namespace("/")).contains("prefix"));
        assert!(refused(Options::kratos().ttl(Duration::from_secs(1))).contains("TTL"));
        assert!(refused(Options::kratos().ttl(Duration::MAX)).contains("TTL"));
        assert!(refused(Options::kratos().endpoints(["ftp://127.0.0.1:1"])).contains("ftp"));
        assert!(refused(Options::kratos().endpoints(Vec::<String>::new())).contains("endpoint"));
        assert!(Registry::new(Options::kratos().ttl(Duration::from_millis(2_500))).is_ok());
    }

    #[test]
    fn the_environment_is_read_as_go_micro_reads_it() {
        let set = [
            ("MICRO_REGISTRY", "etcd"),
            ("MICRO_REGISTRY_ADDRESS", "10.0.0.1:2380, 10.0.0.2,http://[::1],,"),
            ("MICRO_REGISTER_TTL", "30"),
            ("ETCD_USERNAME", "root"),
            ("ETCD_PASSWORD", "secret"),
        ];
        let options = Options::go_micro().with_variables(read(&set)).unwrap();
        assert_eq!(options.connect.endpoints, ["10.0.0.1:2380", "10.0.0.2:2379", "http://[::1]:2379"]);
        assert_eq!(options.ttl, Some(Duration::from_secs(30)));
        assert!(!format!("{options:?}").contains("secret"));
        assert_eq!(options.connect.user, Some(("root".into(), "secret".into())));
        let untouched = Options::go_micro().with_variables(read(&[("MICRO_REGISTER_TTL", "")])).unwrap();
        assert_eq!(
            (untouched.ttl, untouched.connect.endpoints),
            (Some(Duration::from_mins(1)), vec![DEFAULT_ENDPOINT.into()])
        );
        for wrong in [("MICRO_REGISTRY", "consul"), ("MICRO_REGISTER_TTL", "1m")] {
            let error = Options::go_micro().with_variables(read(&[wrong])).unwrap_err();
            assert!(error.to_string().starts_with(wrong.0), "{error}");
        }
    }
}
