//! Whether the program answers: checks that have to pass for it to be registered.
//!
//! Owns: when a check runs, and when enough have failed. Must not know: what follows from it.

use std::{io, net::Ipv4Addr, net::Ipv6Addr, net::SocketAddr, time::Duration};

use axum::http::{Uri, header};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};

/// How often is checked until the checks have passed for the first time: a program that starts within a second is not
/// kept waiting for a whole interval.
const START_INTERVAL_MAX: Duration = Duration::from_millis(500);

const HTTP_PORT: u16 = 80;

/// When and how often is checked.
#[derive(Debug, Clone)]
pub struct CheckConfig {
    /// All of these have to pass; none for a program that counts as well from its start.
    pub checks: Vec<Check>,
    /// The time from the end of one round of checks to the next.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// How many rounds in a row have to fail before the program counts as unwell. It counts as well after one that
    /// passes.
    pub failures: u32,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// As it was given.
    text: String,
    host: Host,
    port: u16,
    how: How,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// This one, whichever kind of loopback the program listens on.
    This,
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    /// Passes where somebody accepts the connection.
    Connect,
    /// Passes where the answer to a GET is 200 to 399, as Kubernetes counts.
    Get { path_and_query: String, authority: String },
}

/// Why a check does not pass.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("nothing answers: {0}")]
    Connect(#[from] io::Error),
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("it speaks no HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("it answers {0}")]
    Status(u16),
}

/// Reads `http://HOST:PORT/path` or `tcp://HOST:PORT`; without HOST it is this one.
///
/// # Errors
/// One sentence that says what is wanted.
pub fn parse_check(text: &str) -> Result<Check, String> {
    let wanted = || format!("{text:?} is no check such as http://:8080/healthz or tcp://:9000");
    let (scheme, rest) = text.split_once("://").ok_or_else(wanted)?;
    match scheme {
        "http" | "tcp" => {}
        "https" | "grpc" | "grpcs" => {
            return Err(format!("{text:?}: a check speaks http:// or connects by tcp://; tcp:// does for {scheme}"));
        }
        _ => return Err(wanted()),
    }
    let here = rest.starts_with(':');
    // A URL needs a host to be read; what listens here is asked by this one.
    let whole = format!("http://{}{rest}", if here { "localhost" } else { "" });
    let uri: Uri = whole.parse().map_err(|_| wanted())?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(wanted)?;
    let host = if here { Host::This } else { Host::Named(authority.host().trim_matches(['[', ']']).to_owned()) };
    // Credentials, which stand before the host, are none of a check's business.
    let port = match authority.as_str().strip_prefix(authority.host()).ok_or_else(wanted)? {
        "" if scheme == "http" => HTTP_PORT,
        "" => return Err(format!("{text:?} names no port")),
        port => {
            port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or_else(wanted)?
        }
    };
    let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
    let how = match scheme {
        "http" => How::Get { path_and_query: path_and_query.to_owned(), authority: authority.to_string() },
        _ if path_and_query == "/" && !rest.ends_with('/') => How::Connect,
        _ => return Err(format!("{text:?}: tcp:// takes no path")),
    };
    Ok(Check { text: text.to_owned(), host, port, how })
}

impl Check {
    async fn run(&self, within: Duration) -> Result<(), Failure> {
        timeout(within, self.attempt()).await.unwrap_or(Err(Failure::Timeout(within)))
    }

    async fn attempt(&self) -> Result<(), Failure> {
        let stream = match &self.host {
            Host::This => {
                let here: [SocketAddr; 2] =
                    [(Ipv4Addr::LOCALHOST, self.port).into(), (Ipv6Addr::LOCALHOST, self.port).into()];
                TcpStream::connect(&here[..]).await?
            }
            Host::Named(name) => TcpStream::connect((name.as_str(), self.port)).await?,
        };
        refuse_own(&stream)?;
        let How::Get { path_and_query, authority } = &self.how else { return Ok(()) };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = hyper::Request::get(path_and_query)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, "rollcall")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .expect("its parts were read from a URL");
        let answer = async { Ok::<_, Failure>(sender.send_request(request).await?.status().as_u16()) };
        tokio::pin!(answer, connection);
        let status = tokio::select! {
            // The connection only moves what is asked and answered.
            biased;
            status = &mut answer => status?,
            ended = &mut connection => { ended?; answer.await? }
        };
        if (200..400).contains(&status) { Ok(()) } else { Err(Failure::Status(status)) }
    }
}

/// Refuses a connection to itself: where nobody listens on a port, the system may take just that one to call from, and
/// then connects the two.
fn refuse_own(stream: &TcpStream) -> io::Result<()> {
    if stream.local_addr()? == stream.peer_addr()? { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(()) }
}

/// Runs the checks for as long as somebody is told of `well`, which they turn.
pub async fn watch(config: CheckConfig, well: watch::Sender<bool>) {
    if config.checks.is_empty() {
        well.send_replace(true);
        well.closed().await;
        return;
    }
    let mut started = false;
    let mut failed: u32 = 0;
    loop {
        let rounds = config.checks.iter().map(|check| async move { (check, check.run(config.timeout).await) });
        let outcomes = tokio::select! {
            outcomes = join_all(rounds) => outcomes,
            () = well.closed() => return,
        };
        let failure = outcomes.into_iter().find_map(|(check, outcome)| Some((check, outcome.err()?)));
        match failure {
            None => {
                failed = 0;
                if !well.send_replace(true) {
                    tracing::info!(checks = config.checks.len(), "the program answers");
                }
                started = true;
            }
            Some((check, why)) => {
                failed = failed.saturating_add(1);
                if !started && failed == 1 {
                    tracing::info!(check = check.text, %why, "not registered before its check passes");
                }
                if failed >= config.failures && well.send_replace(false) {
                    tracing::warn!(check = check.text, %why, failed, "the program does not answer");
                }
            }
        }
        let rest = if started { config.interval } else { config.interval.min(START_INTERVAL_MAX) };
        tokio::select! {
            () = sleep(rest) => {}
            () = well.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_calls_itself_answers_nobody() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let own = socket.local_addr().unwrap();
        // Where the system refuses that by itself, there is nothing left to refuse.
        if let Ok(stream) = socket.connect(own).await {
            assert_eq!(refuse_own(&stream).map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
        }
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(refuse_own(&stream).is_ok());
    }

    #[test]
    fn a_check_is_read_as_people_write_it() {
        let of = |text: &str| parse_check(text).map(|check| (check.host, check.port, check.how));
        let named = |name: &str| Host::Named(name.to_owned());
        let get = |path: &str, authority: &str| How::Get { path_and_query: path.into(), authority: authority.into() };
        assert_eq!(of("http://:8080/healthz"), Ok((Host::This, 8080, get("/healthz", "localhost:8080"))));
        assert_eq!(of("http://:8080"), Ok((Host::This, 8080, get("/", "localhost:8080"))));
        assert_eq!(of("http://h/a?b=c"), Ok((named("h"), 80, get("/a?b=c", "h"))));
        assert_eq!(of("http://[::1]:1/"), Ok((named("::1"), 1, get("/", "[::1]:1"))));
        assert_eq!(of("tcp://:9000"), Ok((Host::This, 9000, How::Connect)));
        assert_eq!(of("tcp://10.0.0.1:9000"), Ok((named("10.0.0.1"), 9000, How::Connect)));
        for wrong in [
            "",
            "8080",
            ":8080",
            "http://",
            "http:///path",
            "tcp://h",
            "tcp://:9000/path",
            "tcp://:9000/",
            "https://:8443",
            "grpc://:9000",
            "ftp://h:1",
            "http://:99999",
            "http://:0",
            "http://:",
            "http://a b:1",
            "http://u:p@h:1",
            "tcp://:x",
        ] {
            assert!(parse_check(wrong).is_err_and(|why| !why.contains('\n')), "{wrong:?}: {:?}", parse_check(wrong));
        }
    }
}
