//! This host's address, for endpoints that leave their host out: `http://:8080`, or `:8080`.
//!
//! Owns: which address that is, and which one nobody can call. Must not know: what an endpoint is otherwise; that is
//! its layout's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::{UdpSocket, lookup_host};

/// Where etcd listens where nothing else is said.
const ETCD_PORT: u16 = 2379;

/// Why this host's address is not known yet.
#[derive(Debug, thiserror::Error)]
#[error("this host has no address towards etcd at {etcd}: {source}")]
pub struct NoAddress {
    etcd: String,
    source: io::Error,
}

/// Whether `endpoint` leaves its host out.
pub fn lacks_host(endpoint: &str) -> bool {
    parts(endpoint).1.starts_with(':')
}

/// `endpoint` with `host` where it leaves its own out.
pub fn with_host(endpoint: &str, host: &str) -> String {
    let (scheme, rest) = parts(endpoint);
    if rest.starts_with(':') { format!("{scheme}{host}{rest}") } else { endpoint.to_owned() }
}

/// Refuses what a program may listen on and nobody can call.
///
/// # Errors
/// One sentence that says what to write instead.
pub fn check(endpoint: &str) -> Result<(), String> {
    let (scheme, rest) = parts(endpoint);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some(bracketed) => bracketed,
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    if host.parse().is_ok_and(|address: IpAddr| address.is_unspecified()) {
        return Err(format!(
            "--endpoint {endpoint}: {host} is where a program listens, and nobody can call it: leave it out, as in \
             {scheme}{port}, and this host's address is filled in"
        ));
    }
    Ok(())
}

/// Reads `--host`: a name or an address, as it goes into a URL.
///
/// # Errors
/// One sentence that says what is wanted.
pub fn parse_host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => {
            Err(format!("{text} is where a program listens, and nobody can call it"))
        }
        Ok(address) => Ok(in_url(address)),
        Err(_)
            if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) =>
        {
            Ok(text.to_owned())
        }
        Err(_) => Err(format!("{text:?} is neither a host's name nor an address; the port stands in --endpoint")),
    }
}

/// `address` as it stands in a URL.
pub fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// The address by which this host reaches the first of `etcd` that it has a way to: what the system would send from.
/// Nothing is sent, and etcd need not be up. Where etcd is on this very host, that is loopback.
///
/// # Errors
/// Where no endpoint's name resolves, or there is no way to any.
pub async fn this_host(etcd: &[String]) -> Result<IpAddr, NoAddress> {
    let mut last = None;
    for endpoint in etcd {
        match towards(endpoint).await {
            Ok(address) => return Ok(address),
            Err(source) => last = Some(NoAddress { etcd: endpoint.clone(), source }),
        }
    }
    Err(last.unwrap_or_else(|| NoAddress { etcd: String::new(), source: io::ErrorKind::NotFound.into() }))
}

async fn towards(etcd: &str) -> io::Result<IpAddr> {
    let authority = parts(etcd).1.trim_end_matches('/');
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port { authority.to_owned() } else { format!("{authority}:{ETCD_PORT}") };
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for peer in lookup_host(&authority).await? {
        match sends_from(peer).await {
            Ok(address) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connecting a datagram socket chooses the address to send from, and sends nothing.
async fn sends_from(peer: SocketAddr) -> io::Result<IpAddr> {
    let any = if peer.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(peer).await?;
    Ok(socket.local_addr()?.ip())
}

/// The scheme with its `://`, or nothing, and what follows it.
fn parts(endpoint: &str) -> (&str, &str) {
    endpoint.find("://").map_or(("", endpoint), |at| endpoint.split_at(at + "://".len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_goes_where_none_stands() {
        for (endpoint, filled) in [
            ("http://:8080", "http://10.0.0.7:8080"),
            ("grpc://:9000?isSecure=false", "grpc://10.0.0.7:9000?isSecure=false"),
            (":8080", "10.0.0.7:8080"),
            ("http://h:8080", "http://h:8080"),
            ("h:8080", "h:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(with_host(endpoint, "10.0.0.7"), filled);
            assert_eq!(lacks_host(endpoint), endpoint != filled, "{endpoint}");
        }
    }

    #[test]
    fn what_nobody_can_call_is_refused() {
        for wrong in ["http://0.0.0.0:8080", "0.0.0.0:8080", "grpc://[::]:9000", "http://0.0.0.0/path"] {
            assert!(check(wrong).is_err_and(|why| why.contains("nobody can call") && !why.contains('\n')), "{wrong}");
        }
        for right in ["http://:8080", "http://10.0.0.1:80", "http://[::1]:80", ":8080", "h:1", "{\"ID\":1}"] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for (text, host) in [
            ("pay-1.internal", "pay-1.internal"),
            ("10.0.0.7", "10.0.0.7"),
            ("fd00::2", "[fd00::2]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(parse_host(text).as_deref(), Ok(host));
        }
        for wrong in ["", "0.0.0.0", "::", "[::]", "h:80", "http://h", "a b", "h/"] {
            assert!(parse_host(wrong).is_err_and(|why| !why.contains('\n')), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn the_address_is_the_one_that_leads_to_etcd() {
        let of = async |etcd: &[&str]| this_host(&etcd.iter().map(ToString::to_string).collect::<Vec<_>>()).await;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for etcd in ["http://127.0.0.1:2379", "127.0.0.1:2379", "https://127.0.0.1:2379/", "127.0.0.1"] {
            assert_eq!(of(&[etcd]).await.ok(), Some(loopback), "{etcd}");
        }
        assert_eq!(of(&["no-such-name.invalid:2379", "127.0.0.1:2379"]).await.ok(), Some(loopback));
        let error = of(&["no-such-name.invalid:2379"]).await.unwrap_err();
        assert!(error.to_string().contains("no-such-name.invalid"), "{error}");
    }
}
