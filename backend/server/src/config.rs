//! Every flag, parsed once into plain structs; each also reads `ROLLCALL_<FLAG>`. Nothing below reads the environment.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use axum::http::{HeaderValue, Uri};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};
use rollcall_registry::etcd::connect::{ConnectConfig, ConnectError, Connection};
use rollcall_shared::{KeyPrefix, Layout};

use crate::{
    cli::register::{
        NOTIFY_SOCKET,
        address::parse_host,
        check::{Check, parse_check},
        parse_duration, parse_meta, parse_some_duration, parse_ttl_s,
    },
    mirror::SourceConfig,
};

/// The shortest token that is taken, in bytes.
const TOKEN_BYTES_MIN: usize = 16;

/// Watches service registries on etcd: which instances live, whose lease runs out, why one vanished.
#[derive(Debug, Parser)]
#[command(name = "rollcall", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines on stderr are written; `RUST_LOG` says which.
    #[arg(long, global = true, env = "ROLLCALL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines, an object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The console over an existing etcd (cluster)
    Serve {
        /// Where etcd is.
        #[command(flatten)]
        connect: ConnectArgs,
        /// How to serve.
        #[command(flatten)]
        serve: ServeArgs,
    },
    /// Starts a private, real etcd as its child, then serves over it
    Dev {
        /// Also runs a fleet of instances that register, renew, crash and leave
        #[arg(long, env = "ROLLCALL_DEMO", value_parser = BoolishValueParser::new())]
        demo: bool,
        /// Where etcd keeps its data; without it, in a folder that is thrown away at the end
        #[arg(long, env = "ROLLCALL_DATA_DIR", value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// The etcd to start; without it, the one on the PATH
        #[arg(long, env = "ROLLCALL_ETCD_BIN", value_name = "FILE")]
        etcd_bin: Option<PathBuf>,
        /// How to serve.
        #[command(flatten)]
        serve: ServeArgs,
    },
    /// The instances, once
    Ls {
        /// Only those of this service
        service: Option<String>,
        /// One JSON object a line
        #[arg(long, env = "ROLLCALL_JSON", value_parser = BoolishValueParser::new())]
        json: bool,
        /// Where etcd is.
        #[command(flatten)]
        connect: ConnectArgs,
        /// What is watched.
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// The instances as they change
    Watch {
        /// Only those of this service
        service: Option<String>,
        /// One JSON object a line, as the stream has them
        #[arg(long, env = "ROLLCALL_JSON", value_parser = BoolishValueParser::new())]
        json: bool,
        /// Where etcd is.
        #[command(flatten)]
        connect: ConnectArgs,
        /// What is watched.
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Registers and renews until it is stopped, then deregisters
    Register {
        /// The service's name
        #[arg(long, env = "ROLLCALL_NAME")]
        name: String,
        /// Where the instance answers, as its layout writes it; where it leaves its host out, as http://:8080 does, this
        /// host's address is filled in
        #[arg(long, env = "ROLLCALL_ENDPOINT", required = true, value_name = "URL")]
        endpoint: Vec<String>,
        /// This host's name or address; without it, the address by which it reaches etcd
        #[arg(long, env = "ROLLCALL_HOST", value_parser = parse_host)]
        host: Option<String>,
        /// Tells it from the others of its service; made up where there is none
        #[arg(long, env = "ROLLCALL_ID")]
        id: Option<String>,
        /// The program's version
        #[arg(long, env = "ROLLCALL_VERSION", default_value = "")]
        version: String,
        /// What else there is to say
        #[arg(long, env = "ROLLCALL_META", value_name = "K=V", value_parser = parse_meta)]
        meta: Vec<(String, String)>,
        /// How long the key outlives its program
        #[arg(long, env = "ROLLCALL_TTL", default_value = "15s", value_parser = parse_ttl_s)]
        ttl: i64,
        /// How the value is written
        #[arg(long, env = "ROLLCALL_LAYOUT", default_value = "kratos")]
        layout: Layout,
        /// What has to pass for it to be registered: http://HOST:PORT/PATH answers 200 to 399, or tcp://HOST:PORT is
        /// connected to; without HOST it is this one. May be repeated: then all of them
        #[arg(long, env = "ROLLCALL_CHECK", value_name = "URL", value_parser = parse_check)]
        check: Vec<Check>,
        /// The time between checks
        #[arg(long, env = "ROLLCALL_CHECK_INTERVAL", default_value = "5s", value_parser = parse_some_duration, value_name = "TIME")]
        check_interval: Duration,
        /// How long a check may take
        #[arg(long, env = "ROLLCALL_CHECK_TIMEOUT", default_value = "2s", value_parser = parse_some_duration, value_name = "TIME")]
        check_timeout: Duration,
        /// How many checks in a row have to fail for it to be deregistered; it is back after the first that passes
        #[arg(long, env = "ROLLCALL_CHECK_FAILURES", default_value = "3", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
        check_failures: u32,
        /// How long COMMAND goes on answering once it is deregistered, before it gets the signal to end; a second signal
        /// goes through at once
        #[arg(long, env = "ROLLCALL_DRAIN", default_value = "0s", value_parser = parse_duration, value_name = "TIME")]
        drain: Duration,
        /// The service manager's socket, as systemd names it
        #[arg(long, env = NOTIFY_SOCKET, hide = true)]
        notify_socket: Option<std::ffi::OsString>,
        /// Runs this, registered while it lives, and exits with its code
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<std::ffi::OsString>,
        /// Where etcd is.
        #[command(flatten)]
        connect: ConnectArgs,
        /// What is watched.
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Removes one instance
    Deregister {
        /// Its key
        #[arg(value_name = "KEY")]
        target: String,
        /// Revokes its lease, and with it every key on it
        #[arg(long, env = "ROLLCALL_REVOKE_LEASE", value_parser = BoolishValueParser::new())]
        revoke_lease: bool,
        /// Where etcd is.
        #[command(flatten)]
        connect: ConnectArgs,
        /// What is watched.
        #[command(flatten)]
        watch: WatchArgs,
    },
}

/// Where etcd is, with the names that etcdctl gives its flags.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The members of the cluster
    #[arg(
        long,
        env = "ROLLCALL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379",
        value_name = "URL[,URL…]"
    )]
    endpoints: Vec<String>,
    /// Verifies the members' certificates with this bundle, in PEM
    #[arg(long, env = "ROLLCALL_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The certificate to show to etcd, in PEM
    #[arg(long, env = "ROLLCALL_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, env = "ROLLCALL_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The user at etcd, as NAME or NAME:PASSWORD
    #[arg(long, env = "ROLLCALL_USER", value_name = "NAME[:PASSWORD]")]
    user: Option<String>,
    /// That user's password
    #[arg(long, env = "ROLLCALL_PASSWORD", hide_env_values = true, requires = "user")]
    password: Option<String>,
}

/// What is watched.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Watches a prefix as a layout, in place of the defaults; may be repeated
    #[arg(long, env = "ROLLCALL_WATCH", value_delimiter = ',', value_name = "LAYOUT=PREFIX", value_parser = parse_source)]
    watch: Vec<SourceConfig>,
}

/// How to serve.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen; port 0 picks a free one
    #[arg(long, env = "ROLLCALL_LISTEN", default_value = "127.0.0.1:8420", value_name = "HOST:PORT")]
    listen: String,
    /// What is watched.
    #[command(flatten)]
    watch: WatchArgs,
    /// Serves everything below this path
    #[arg(long, env = "ROLLCALL_BASE_PATH", default_value = "", value_name = "PATH", value_parser = parse_base_path)]
    base_path: String,
    /// Answers also for this host; may be repeated. Loopback names are always answered for
    #[arg(long, env = "ROLLCALL_ALLOW_HOST", value_delimiter = ',', value_name = "HOST")]
    allow_host: Vec<String>,
    /// Lets another page read; may be repeated
    #[arg(long, env = "ROLLCALL_ALLOW_ORIGIN", value_delimiter = ',', value_name = "ORIGIN", value_parser = parse_origin)]
    allow_origin: Vec<HeaderValue>,
    /// Asks everybody for this token, as Bearer or as the password that a browser asks for
    #[arg(long, env = "ROLLCALL_AUTH_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = parse_token)]
    auth_token: Option<String>,
    /// The cluster's name on the page; without it, the endpoints
    #[arg(long, env = "ROLLCALL_CLUSTER_NAME", value_name = "NAME")]
    cluster_name: Option<String>,
    /// Serves no more than so many streams at the same time; further ones are told to come back later. Without it, as
    /// many as the limit of open files leaves room for
    #[arg(long, env = "ROLLCALL_STREAMS_MAX", value_name = "N")]
    streams_max: Option<usize>,
}

/// How to serve, checked.
pub struct ServeConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// What is watched.
    pub sources: Vec<SourceConfig>,
    /// Below which path; empty for none.
    pub base_path: String,
    /// Further hosts to answer for.
    pub allow_hosts: Vec<String>,
    /// Which other pages may read.
    pub allow_origins: Vec<HeaderValue>,
    /// The token that everybody has to show.
    pub auth_token: Option<String>,
    /// The cluster's name on the page.
    pub cluster_name: Option<String>,
    /// How many streams are served at the same time; `None` for as many as there is room for.
    pub streams_max: Option<usize>,
}

/// A flag that is wrong: one line, exit 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FlagError(pub String);

impl Command {
    /// Which log lines are written unless `RUST_LOG` says otherwise: a server tells what it does, a command only what
    /// goes wrong.
    pub fn log_filter(&self) -> &'static str {
        match self {
            Self::Serve { .. } | Self::Dev { .. } => "info",
            // It says each time when its program is registered and when it no longer is.
            Self::Register { .. } => "warn,rollcall_server::cli::register=info",
            Self::Ls { .. } | Self::Watch { .. } | Self::Deregister { .. } => "warn",
        }
    }
}

impl ConnectArgs {
    /// A connection, which is made at the first use.
    ///
    /// # Errors
    /// Where a file cannot be read, or an endpoint is no address.
    pub fn connection(self) -> Result<Connection, FlagError> {
        let read = |flag: &str, path: Option<PathBuf>| {
            path.map(|path| fs::read(&path).map_err(|error| FlagError(format!("--{flag} {}: {error}", path.display()))))
                .transpose()
        };
        let (cert, key) = (read("cert", self.cert)?, read("key", self.key)?);
        let user = match (self.user, self.password) {
            (Some(user), Some(password)) => Some((user, password)),
            (Some(user), None) => match user.split_once(':') {
                Some((name, password)) => Some((name.to_owned(), password.to_owned())),
                None => {
                    return Err(FlagError(format!(
                        "--user {user:?} comes without a password: say --password, or NAME:PASSWORD"
                    )));
                }
            },
            (None, _) => None,
        };
        let config = ConnectConfig {
            endpoints: self.endpoints,
            ca_pem: read("cacert", self.cacert)?,
            identity_pem: cert.zip(key),
            user,
            timeout: None,
        };
        Connection::new(config).map_err(|error| match error {
            ConnectError::BadPem { what, wanted } => FlagError(format!("--{what}: the file holds no PEM of {wanted}")),
            error => FlagError(format!("--endpoints: {error}")),
        })
    }
}

impl WatchArgs {
    /// The sources, in the order in which they were named; the default prefixes where none was.
    ///
    /// # Errors
    /// Where a prefix is named twice.
    pub fn sources(self) -> Result<Vec<SourceConfig>, FlagError> {
        if self.watch.is_empty() {
            return Ok(default_sources());
        }
        for (index, source) in self.watch.iter().enumerate() {
            if self.watch[..index].iter().any(|other| other.prefix == source.prefix) {
                return Err(FlagError(format!("--watch names the prefix {} twice", source.prefix)));
            }
        }
        Ok(self.watch)
    }
}

fn default_sources() -> Vec<SourceConfig> {
    [
        (Layout::Kratos, "/microservices/"),
        (Layout::GoMicro, "/micro/registry/"),
        (Layout::Plain, "services/"),
        (Layout::Kitex, "kitex/registry-etcd/"),
        (Layout::Hertz, "hertz/registry-etcd/"),
    ]
    .into_iter()
    .map(|(layout, prefix)| SourceConfig { layout, prefix: KeyPrefix::new(prefix).expect("it is no empty prefix") })
    .collect()
}

impl ServeArgs {
    /// How to serve, checked.
    ///
    /// # Errors
    /// Where the address is none, or is no loopback address and no token is configured.
    pub fn config(self) -> Result<ServeConfig, FlagError> {
        let listen = resolve(&self.listen)?;
        if !listen.ip().is_loopback() && self.auth_token.is_none() {
            let detail =
                "would let everybody on the network change the registry: say --auth-token, or listen on 127.0.0.1";
            return Err(FlagError(format!("--listen {} {detail}", self.listen)));
        }
        let mut allow_hosts = self.allow_host;
        if !listen.ip().is_unspecified() {
            allow_hosts.push(listen.ip().to_string());
        }
        Ok(ServeConfig {
            listen,
            sources: self.watch.sources()?,
            base_path: self.base_path,
            allow_hosts,
            allow_origins: self.allow_origin,
            auth_token: self.auth_token,
            cluster_name: self.cluster_name,
            streams_max: self.streams_max,
        })
    }
}

fn resolve(listen: &str) -> Result<SocketAddr, FlagError> {
    use std::net::ToSocketAddrs as _;
    let wrong = |why: String| FlagError(format!("--listen {listen:?} is no HOST:PORT: {why}"));
    let mut addresses = listen.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    addresses.next().ok_or_else(|| wrong("the name has no address".to_owned()))
}

fn parse_source(text: &str) -> Result<SourceConfig, String> {
    let (layout, prefix) = text.split_once('=').ok_or("LAYOUT=PREFIX is wanted, such as kratos=/microservices/")?;
    Ok(SourceConfig {
        layout: layout.parse().map_err(|error| format!("{error}"))?,
        prefix: prefix.parse().map_err(|error| format!("{error}"))?,
    })
}

fn parse_base_path(text: &str) -> Result<String, String> {
    let path = text.trim_end_matches('/');
    let sound =
        path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte)) && !path.contains("//");
    if !path.is_empty() && (!path.starts_with('/') || !sound || path.split('/').any(|part| part == "." || part == ".."))
    {
        return Err("a path such as /rollcall is wanted, of letters, digits, and -_.~".to_owned());
    }
    Ok(path.to_owned())
}

fn parse_origin(text: &str) -> Result<HeaderValue, String> {
    let wanted = "an origin such as https://example.org is wanted, without a path";
    let uri: Uri = text.parse().map_err(|_| wanted)?;
    let authority = uri.authority().ok_or(wanted)?;
    let is_origin = matches!(uri.scheme_str(), Some("http" | "https")) && text.ends_with(authority.as_str());
    if !is_origin {
        return Err(wanted.to_owned());
    }
    HeaderValue::from_str(text).map_err(|_| wanted.to_owned())
}

fn parse_token(text: &str) -> Result<String, String> {
    if text.len() < TOKEN_BYTES_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("a token of {TOKEN_BYTES_MIN} printable characters or more is wanted"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn serve(args: &[&str]) -> Result<ServeConfig, String> {
        let args = ["rollcall", "serve"].iter().chain(args);
        match Cli::try_parse_from(args).map_err(|error| error.to_string())?.command {
            Command::Serve { serve, .. } => serve.config().map_err(|error| error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_flags_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_the_documented_prefixes() {
        let sources = serve(&[]).unwrap().sources;
        let named: Vec<String> = sources.iter().map(|source| format!("{}={}", source.layout, source.prefix)).collect();
        assert_eq!(
            named,
            [
                "kratos=/microservices/",
                "go-micro=/micro/registry/",
                "plain=services/",
                "kitex=kitex/registry-etcd/",
                "hertz=hertz/registry-etcd/"
            ]
        );
    }

    #[test]
    fn a_prefix_gets_its_closing_slash_and_may_not_stand_twice() {
        let sources = serve(&["--watch", "kratos=/a", "--watch", "grpc=b/"]).unwrap().sources;
        assert_eq!(sources[0].prefix.as_str(), "/a/");
        assert_eq!(sources[1].layout, Layout::Grpc);
        for wrong in [
            &["--watch", "kratos=/a", "--watch", "plain=/a/"][..],
            &["--watch", "/a"],
            &["--watch", "x=/a"],
            &["--watch", "kratos="],
        ] {
            assert!(serve(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn other_addresses_than_loopback_want_a_token() {
        assert!(serve(&["--listen", "0.0.0.0:0"]).is_err());
        assert!(serve(&["--listen", "0.0.0.0:0", "--auth-token", "short"]).is_err());
        assert!(serve(&["--listen", "0.0.0.0:0", "--auth-token", "0123456789abcdef"]).is_ok());
        assert!(serve(&["--listen", "[::1]:0"]).is_ok());
        assert!(serve(&["--listen", "127.0.0.1"]).is_err());
    }

    #[test]
    fn a_base_path_is_a_plain_path() {
        assert_eq!(serve(&["--base-path", "/rollcall/"]).unwrap().base_path, "/rollcall");
        assert_eq!(serve(&["--base-path", "/"]).unwrap().base_path, "");
        for wrong in ["rollcall", "/a//b", "/a b", "/{x}", "/../a"] {
            assert!(serve(&["--base-path", wrong]).is_err(), "{wrong}");
        }
    }
}
