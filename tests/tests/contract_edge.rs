//! Section 5 of the contract: who may ask what, and what the page may do.

use reqwest::Method;
use rollcall_tests::{Etcd, Process, Server, http, kratos, seconds, server::rollcall};
use serde_json::json;

/// What all that the page names of its files may weigh, compressed: what is loaded before the first row stands. Where
/// this fails, something belongs into the part that comes later.
const FIRST_LOAD_BYTES_MAX: usize = 145_000;

fn extension(file: &str) -> &str {
    file.rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn draft(id: &str) -> String {
    json!({"layout": "kratos", "ttl_s": null, "instance": {"id": id, "name": "a", "endpoints": ["http://h:1"]}})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_known_hosts_are_answered() {
    let etcd = Etcd::spawn().await;
    let server = Server::start_with(&etcd, &["--allow-host", "rollcall.example"]).await;
    let port = server.address().rsplit_once(':').unwrap().1.to_owned();
    let status =
        async |path: &str, host: &str| http::send(server.at_root(Method::GET, path).header("host", host)).await.status;
    for path in ["/", "/services/a", "/api/v1/services", "/api/v1/events", "/api/v1/openapi.json", "/metrics"] {
        let refused = status(path, "evil.example").await;
        assert!([403, 421].contains(&refused), "{path} answered another host with {refused}");
        let refused = status(path, &format!("evil.example:{port}")).await;
        assert!([403, 421].contains(&refused), "{path} answered another host with {refused}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(path, "10.1.2.3:8080").await, 200, "{path} is asked by whoever runs it");
    }
    for host in ["localhost", "127.0.0.1", "[::1]", "rollcall.example"] {
        for host in [host.to_owned(), format!("{host}:{port}")] {
            assert_eq!(status("/api/v1/services", &host).await, 200, "{host}");
        }
    }
    for host in ["localhost.evil.example", "127.0.0.1.evil.example", "evil-rollcall.example", "x.rollcall.example"] {
        let refused = status("/api/v1/services", host).await;
        assert!([403, 421].contains(&refused), "{host} got {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_our_own_page_writes() {
    let etcd = Etcd::spawn().await;
    let server = Server::start_with(&etcd, &["--allow-origin", "http://friend.example"]).await;
    let own = server.origin();
    let post = async |id: &str, headers: &[(&str, &str)]| {
        let mut request = server.request(Method::POST, "/instances").header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        http::send(request.body(draft(id))).await
    };
    for headers in [
        &[("origin", "http://evil.example")][..],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")],
        &[("origin", "http://127.0.0.1:1")],
    ] {
        let answer = post("refused", headers).await;
        assert_eq!(answer.status, 403, "{headers:?}: {}", answer.text());
        answer.problem(403);
    }
    assert_eq!(etcd.keys("/microservices/").await, Vec::<String>::new());
    for path in ["/instances?key=%2Fmicroservices%2Fa%2F1&mod_revision=1", "/leases/7b?keys=1"] {
        let refused = http::send(server.request(Method::DELETE, path).header("origin", "http://evil.example")).await;
        refused.problem(403);
    }
    let path = "/instances?key=%2Fmicroservices%2Fa%2F1&mod_revision=1";
    let refused = http::send(server.request(Method::PUT, path).header("origin", "http://evil.example")).await;
    refused.problem(403);
    for path in ["/leases/7b/keepalive", "/undo/token", "/batch"] {
        let refused = http::send(server.request(Method::POST, path).header("sec-fetch-site", "cross-site")).await;
        refused.problem(403);
    }
    post("page", &[("origin", &own), ("sec-fetch-site", "same-origin")]).await.expect(201);
    post("curl", &[]).await.expect(201);

    let read = http::send(server.request(Method::GET, "/services").header("origin", "http://friend.example")).await;
    assert_eq!((read.status, read.header("access-control-allow-origin")), (200, Some("http://friend.example")));
    let read = http::send(server.request(Method::GET, "/services").header("origin", "http://evil.example")).await;
    assert_eq!(read.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_under_a_strict_policy() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    for path in ["/", "/services/pay", "/services/a%2Fb?q=x", "/some/deep/link"] {
        let page = server.page(path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.header("content-type").unwrap_or_default().starts_with("text/html"), "{path}");
        let policy = page.header("content-security-policy").unwrap_or_else(|| panic!("{path} has no policy"));
        for part in ["'self'", "'wasm-unsafe-eval'", "object-src 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: no {part} in {policy}");
        }
        for part in ["'unsafe-inline'", "'unsafe-eval'", "*", "data:", "'nonce-", "'sha"] {
            assert!(!policy.contains(part), "{path}: {part} in {policy}");
        }
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"), "{path}");
        let html = page.text();
        assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick="), "{path}: inline");
        let cache = page.header("cache-control").unwrap_or_default();
        assert!(!cache.contains("immutable"), "{path} itself must not be cached for ever: {cache}");
    }
    let api = server.get("/services").await;
    assert_eq!(api.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hashed_files_are_cached_for_ever_and_come_small() {
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let html = server.page("/").await.text();
    let files: Vec<String> = html
        .split(['"', '\''])
        .filter(|text| ["js", "wasm", "css"].contains(&extension(text)))
        .map(|text| format!("/{}", text.trim_start_matches("./").trim_start_matches('/')))
        .collect();
    assert!(
        files.iter().any(|file| extension(file) == "wasm") && files.iter().any(|file| extension(file) == "js"),
        "{files:?}"
    );
    let mut first_load_bytes = 0;
    let mut later = None;
    for file in files {
        let plain = server.page(&file).await;
        assert_eq!(plain.status, 200, "{file}");
        assert!(plain.header("cache-control").unwrap_or_default().contains("immutable"), "{file}: {:?}", plain.headers);
        assert_eq!(plain.header("x-content-type-options"), Some("nosniff"), "{file}");
        let kind = plain.header("content-type").unwrap_or_default().to_owned();
        if extension(&file) == "wasm" {
            assert_eq!(kind, "application/wasm");
        }
        if extension(&file) == "js" {
            assert!(kind.starts_with("text/javascript"), "{file}: {kind}");
        }
        let request = server.at_root(Method::GET, &file).header("accept-encoding", "gzip, br");
        let small = http::send(request).await;
        assert_eq!((small.status, small.header("content-encoding")), (200, Some("br")), "{file}");
        assert!(small.body.len() < plain.body.len(), "{file}");
        first_load_bytes += small.body.len();
        if extension(&file) == "js" {
            let text = plain.text();
            later = later.or_else(|| text.split('"').find(|text| text.contains("split_later-")).map(str::to_owned));
        }
        assert!(small.header("vary").unwrap_or_default().to_lowercase().contains("accept-encoding"), "{file}");
    }
    assert!(first_load_bytes <= FIRST_LOAD_BYTES_MAX, "the page loads {first_load_bytes} bytes before its first row");
    let later = later.expect("a script names the part that comes later");
    let later = server.page(&format!("/{}", later.trim_start_matches("./"))).await;
    assert_eq!((later.status, later.header("content-type")), (200, Some("application/wasm")));
    assert!(later.header("cache-control").unwrap_or_default().contains("immutable"), "{:?}", later.headers);
    for missing in ["/missing.js", "/missing-0123456789abcdef_bg.wasm", "/a/b/missing.css"] {
        assert_eq!(server.page(missing).await.status, 404, "{missing}");
    }
    assert!(!server.page("/../Cargo.toml").await.text().contains("[workspace]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_can_stand_below_a_path() {
    let etcd = Etcd::spawn().await;
    let server = Server::launch(&etcd.url(), &["--base-path", "/rollcall"]).await;
    server.ready_at("/rollcall").await;
    etcd.put("/microservices/a/1", kratos("a", "1", "http://10.0.0.1:80")).await;
    let services = server.page("/rollcall/api/v1/services").await.expect(200);
    assert!(services["cursor"].is_string());
    let page = server.page("/rollcall/").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<base href=\"/rollcall/\""), "{}", page.text());
    assert_eq!(server.page("/rollcall/services/a").await.status, 200);
    assert_eq!(server.page("/api/v1/services").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_door_without_a_lock_is_refused() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let command = rollcall(["serve", "--endpoints", "http://127.0.0.1:1", "--listen", address]);
        let mut process = Process::start("rollcall", command, "");
        assert_eq!(process.ended(seconds(10)).await.code(), Some(2), "{address}");
        let first = process.stderr().first().cloned().unwrap_or_default();
        assert!(first.contains(address) && first.contains("auth"), "{address}: {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_live_for_ever() {
    use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let mut silent = TcpStream::connect(server.address()).await.unwrap();
    let mut end = [0; 256];
    let closed = timeout(seconds(60), async {
        loop {
            match silent.read(&mut end).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    });
    assert!(closed.await.is_ok(), "a connection that never sent a request is still open");
}

/// Sends `request` as it stands and gives all that comes until the server closes.
async fn said_to(server: &Server, request: &str) -> String {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };
    let mut stream = TcpStream::connect(server.address()).await.expect("the server listens");
    stream.write_all(request.as_bytes()).await.expect("the server takes a request");
    let mut said = Vec::new();
    let ended = timeout(seconds(20), stream.read_to_end(&mut said)).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(ended.is_ok(), "the server goes on: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_finds_no_place_is_told_to_come_back_and_the_others_live_on() {
    let etcd = Etcd::spawn().await;
    let server = Server::start_with(&etcd, &["--streams-max", "2"]).await;
    let mut first = server.follow("").await;
    let second = server.follow("").await;
    let said = said_to(&server, "GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "anything else ends an EventSource for good: {said}");
    let retry = said.lines().find_map(|line| line.strip_prefix("retry: ")).expect("it says when to come back");
    assert!(retry.parse::<u64>().unwrap() >= 10_000, "{said}");
    assert!(said.contains("event: status\n") && said.contains("event: bye\n"), "{said}");
    server.get("/services").await.expect(200);
    etcd.put("/microservices/a/1", kratos("a", "1", "http://10.0.0.1:80")).await;
    first.until_stands("/microservices/a/1", seconds(5)).await;
    drop(second);
    rollcall_tests::eventually("there is a place again", seconds(10), || async {
        let metrics = server.page("/metrics").await.text();
        if metrics.contains("\nrollcall_streams_open 1\n") { Ok(()) } else { Err(metrics) }
    })
    .await;
    server.follow("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_the_stream_that_are_not_plain_are_answered_too() {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };
    let etcd = Etcd::spawn().await;
    let server = Server::start(&etcd).await;
    let turned_away = [
        ("GET /api/v1/events HTTP/1.1\r\nhost: evil.example\r\n\r\n", "HTTP/1.1 421 "),
        ("GET /api/v1/events HTTP/1.1\r\n\r\n", "HTTP/1.1 421 "),
        ("GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n", "HTTP/1.1 400 "),
        ("GET /api/v1/eventsandmore HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "HTTP/1.1 404 "),
        ("POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "HTTP/1.1 405 "),
        ("HEAD /api/v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "HTTP/1.1 200 "),
    ];
    for (request, answer) in turned_away {
        let said = said_to(&server, request).await;
        assert!(said.starts_with(answer), "{request}: {said}");
    }
    // What is answered with a stream: HTTP/1.0, bare line ends, a head in pieces, and one with a second request behind.
    let streams: [&[&str]; 4] = [
        &["GET /api/v1/events HTTP/1.0\r\nhost: localhost\r\n\r\n"],
        &["GET /api/v1/events HTTP/1.1\nhost: localhost\n\n"],
        &["GE", "T /api/v1/ev", "ents?service=a HTTP/1.1\r", "\nhost: localhost\r\n\r", "\n"],
        &["GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\nGET / HTTP/1.1\r\n"],
    ];
    for pieces in streams {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        for piece in pieces {
            stream.write_all(piece.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut said = String::new();
        while !said.contains("\"type\":\"snapshot\"") {
            let mut buffer = [0; 4096];
            let read = timeout(seconds(10), stream.read(&mut buffer)).await;
            let read = read.unwrap_or_else(|_| panic!("{pieces:?}: nothing after {said}")).unwrap();
            assert_ne!(read, 0, "{pieces:?}: closed after {said}");
            said.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        assert!(said.contains(" 200 OK\r\n"), "{pieces:?}: {said}");
        let chunked = said.to_lowercase().contains("transfer-encoding: chunked");
        assert_eq!(chunked, !pieces[0].contains("1.0"), "HTTP/1.0 knows no chunks: {said}");
    }
}
