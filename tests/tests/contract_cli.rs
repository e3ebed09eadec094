//! Section 1 of the contract: the program, its commands, its flags and its exit codes.

use std::{net::TcpListener, process::Command};

use rollcall_shared::{Record, RegistryEvent};
use rollcall_tests::{Etcd, Process, Server, etcd::free_port, eventually, kratos, process, seconds, server::rollcall};
use serde_json::Value;

fn start(command: Command) -> Process {
    Process::start("rollcall", command, "build it: `cargo xtask build`").gently()
}

/// Runs a command to its end.
async fn done(args: &[&str]) -> (Option<i32>, Vec<String>, Vec<String>) {
    let mut process = start(rollcall(args));
    let code = process.ended(seconds(20)).await.code();
    (code, process.stdout(), process.stderr())
}

fn register(etcd: &Etcd, args: &[&str]) -> Process {
    let url = etcd.url();
    let mut all = vec!["register", "--endpoints", &url, "--name", "job", "--endpoint", "http://10.0.0.1:80"];
    all.extend_from_slice(args);
    start(rollcall(all))
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_prints_the_instances() {
    let etcd = Etcd::spawn().await;
    etcd.put("/microservices/pay/1", kratos("pay", "1", "http://10.0.0.1:80")).await;
    etcd.put("/microservices/pay/2", "{").await;
    etcd.put("/microservices/web/1", kratos("web", "1", "http://10.0.0.2:80")).await;
    let url = etcd.url();
    let (code, table, _) = done(&["ls", "--endpoints", &url]).await;
    assert_eq!(code, Some(0));
    let table = table.join("\n");
    for word in ["pay", "web", "http://10.0.0.1:80", "http://10.0.0.2:80"] {
        assert!(table.contains(word), "no {word} in:\n{table}");
    }
    let (code, lines, _) = done(&["ls", "--json", "--endpoints", &url]).await;
    let records: Vec<Record> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<&str> = records.iter().map(|record| &*record.key).collect();
    assert_eq!((code, keys), (Some(0), vec!["/microservices/pay/1", "/microservices/pay/2", "/microservices/web/1"]));
    let (code, lines, _) = done(&["ls", "web", "--json", "--endpoints", &url]).await;
    assert_eq!((code, lines.len()), (Some(0), 1));
    let (code, lines, _) = done(&["ls", "nobody", "--json", "--endpoints", &url]).await;
    assert_eq!((code.is_some(), lines.len()), (true, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_prints_the_stream() {
    let etcd = Etcd::spawn().await;
    etcd.put("/microservices/pay/1", kratos("pay", "1", "http://10.0.0.1:80")).await;
    let mut watch = start(rollcall(["watch", "pay", "--json", "--endpoints", &etcd.url()]));
    let message =
        |line: &str| serde_json::from_str::<RegistryEvent>(line).expect("each line is a message of the stream");
    let first = watch.stdout_line("a first line", seconds(15), |line| Some(message(line))).await;
    assert!(matches!(&first, RegistryEvent::Snapshot(_)), "{first:?}");
    watch
        .stdout_line("the instance that stood", seconds(10), |line| {
            matches!(message(line), RegistryEvent::Snapshot(snapshot) if snapshot.records.len() == 1).then_some(())
        })
        .await;
    etcd.put("/microservices/web/1", kratos("web", "1", "http://10.0.0.2:80")).await;
    let revision = etcd.delete("/microservices/pay/1").await;
    watch
        .stdout_line("the delete", seconds(10), |line| match message(line) {
            RegistryEvent::Delta(delta) => (delta.revision == revision).then_some(()),
            _ => None,
        })
        .await;
    assert!(!watch.stdout().iter().any(|line| line.contains("10.0.0.2")), "only what was asked for");
    watch.signal("INT");
    assert_eq!(watch.ended(seconds(10)).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn register_renews_until_it_is_stopped_and_then_leaves() {
    let etcd = Etcd::spawn().await;
    let mut job =
        register(&etcd, &["--id", "j1", "--version", "v2", "--meta", "zone=a", "--meta", "weight=10", "--ttl", "2s"]);
    let key = "/microservices/job/j1";
    etcd.key_stands(key, true, seconds(15)).await;
    let (value, lease) = etcd.entry(key).await.unwrap();
    assert_eq!(
        String::from_utf8(value).unwrap(),
        r#"{"id":"j1","name":"job","version":"v2","metadata":{"weight":"10","zone":"a"},"endpoints":["http://10.0.0.1:80"]}"#
    );
    let until = tokio::time::Instant::now() + seconds(6);
    while tokio::time::Instant::now() < until {
        assert_eq!(etcd.entry(key).await.map(|(_, lease)| lease), Some(lease), "it does not renew");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    job.signal("TERM");
    assert_eq!(job.ended(seconds(10)).await.code(), Some(0));
    assert!(etcd.get(key).await.is_none(), "it deregisters at its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn register_runs_a_command_while_registered() {
    let etcd = Etcd::spawn().await;
    let key = "/microservices/job/j1";
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let mut job = register(&etcd, &["--id", "j1", "--", "sh", "-c", script]);
        assert_eq!(job.ended(seconds(15)).await.code(), Some(code), "{script}");
        assert!(etcd.get(key).await.is_none(), "{script}");
    }
    let script = "trap 'echo got TERM; exit 5' TERM; echo up; while :; do sleep 0.05; done";
    let mut job = register(&etcd, &["--id", "j1", "--", "sh", "-c", script]);
    job.stdout_line("the command runs", seconds(10), |line| (line == "up").then_some(())).await;
    etcd.key_stands(key, true, seconds(10)).await;
    job.signal("TERM");
    assert_eq!(job.ended(seconds(10)).await.code(), Some(5), "signals go through to the command");
    assert!(job.stdout().iter().any(|line| line == "got TERM"));
    assert!(etcd.get(key).await.is_none());
    let mut missing = register(&etcd, &["--id", "j1", "--", "/no/such/program"]);
    let code = missing.ended(seconds(15)).await.code();
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    assert!(etcd.get(key).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn register_starts_its_command_while_etcd_is_away() {
    let mut etcd = Etcd::spawn().await;
    etcd.kill();
    let mut job = register(&etcd, &["--id", "j1", "--", "sh", "-c", "echo up; while :; do sleep 0.05; done"]);
    job.stdout_line("the command runs", seconds(10), |line| (line == "up").then_some(())).await;
    etcd.start().await;
    etcd.key_stands("/microservices/job/j1", true, seconds(20)).await;
    etcd.restart().await;
    etcd.revoke(etcd.entry("/microservices/job/j1").await.unwrap().1).await;
    etcd.key_stands("/microservices/job/j1", true, seconds(20)).await;
    job.signal("INT");
    job.ended(seconds(10)).await;
    assert!(etcd.get("/microservices/job/j1").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn register_takes_what_the_layout_takes() {
    let etcd = Etcd::spawn().await;
    let url = etcd.url();
    let args = ["register", "--endpoints", &url, "--name", "job", "--layout", "go-micro", "--endpoint", "10.0.0.1:80"];
    let mut job = start(rollcall(args));
    eventually("it stands", seconds(15), || async {
        let keys = etcd.keys("/micro/registry/job/").await;
        if keys.len() == 1 { Ok(()) } else { Err(keys) }
    })
    .await;
    job.signal("TERM");
    assert_eq!(job.ended(seconds(10)).await.code(), Some(0));
    for args in [
        &["register", "--name", "job", "--layout", "kitex", "--endpoint", "http://10.0.0.1:80"][..],
        &["register", "--name", "a/b", "--endpoint", "http://10.0.0.1:80"],
        &["register", "--name", "job", "--endpoint", "10.0.0.1:80"],
        &["register", "--name", "job", "--endpoint", "http://h:1", "--meta", "novalue"],
        &["register", "--name", "job", "--endpoint", "http://h:1", "--ttl", "soon"],
        &["register", "--name", "job"],
    ] {
        let (code, _, errors) = done(&[args, &["--endpoints", &url]].concat()).await;
        assert_eq!(code, Some(2), "{args:?}: {errors:?}");
    }
    assert_eq!(etcd.keys("").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn deregister_removes_one_instance() {
    let etcd = Etcd::spawn().await;
    let url = etcd.url();
    let lease = etcd.grant(60).await;
    for id in ["1", "2", "3"] {
        etcd.put_leased(&format!("/microservices/pay/{id}"), kratos("pay", id, "http://10.0.0.1:80"), lease).await;
    }
    let (code, ..) = done(&["deregister", "/microservices/pay/1", "--endpoints", &url]).await;
    assert_eq!(code, Some(0));
    assert_eq!(etcd.keys("/microservices/").await, ["/microservices/pay/2", "/microservices/pay/3"]);
    assert!(etcd.ttl(lease).await.is_some());
    let (code, _, errors) = done(&["deregister", "/microservices/pay/1", "--endpoints", &url]).await;
    assert!(code.is_some_and(|code| code != 0) && !errors.is_empty(), "a key that is gone: {code:?}");
    etcd.put("/secret/token", "x").await;
    let (code, ..) = done(&["deregister", "/secret/token", "--endpoints", &url]).await;
    assert!(code.is_some_and(|code| code != 0));
    assert!(etcd.get("/secret/token").await.is_some(), "no write leaves the prefixes");
    let (code, ..) = done(&["deregister", "/microservices/pay/2", "--revoke-lease", "--endpoints", &url]).await;
    assert_eq!(code, Some(0));
    assert_eq!(etcd.keys("/microservices/").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_flag_is_one_line_and_exit_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let endpoints = ["--endpoints", "http://127.0.0.1:1"];
    for (args, word) in [
        (&["nonsense"][..], "nonsense"),
        (&["serve", "--nonsense"], "nonsense"),
        (&["serve", "--listen", "nowhere"], "nowhere"),
        (&["serve", "--listen", &taken], &*taken),
        (&["serve", "--watch", "kratos"], "kratos"),
        (&["serve", "--watch", "nonsense=/a/"], "nonsense"),
        (&["serve", "--watch", "kratos=/"], "/"),
        (&["serve", "--log-format", "loud"], "loud"),
        (&["serve", "--cacert", "/no/such/file.pem"], "/no/such/file.pem"),
    ] {
        let more = if args[0] == "nonsense" { &[][..] } else { &endpoints[..] };
        let (code, out, errors) = done(&[args, more].concat()).await;
        assert_eq!(code, Some(2), "{args:?}: {errors:?}");
        assert!(errors.first().is_some_and(|first| first.contains(word)), "{args:?}: {errors:?}");
        assert_eq!(out, Vec::<String>::new(), "stdout is for results only");
    }
    let (code, _, errors) = done(&["serve", "--endpoints", "not a url"]).await;
    assert_eq!(code, Some(2), "{errors:?}");
    // A file that is there, and no certificate.
    let (code, _, errors) = done(&["serve", "--endpoints", "https://127.0.0.1:1", "--cacert", "Cargo.toml"]).await;
    assert_eq!(code, Some(2), "{errors:?}");
    assert!(errors.first().is_some_and(|first| first.contains("--cacert")), "{errors:?}");
    let (code, out, _) = done(&["--help"]).await;
    assert_eq!(code, Some(0));
    for command in ["serve", "dev", "ls", "watch", "register", "deregister"] {
        assert!(out.iter().any(|line| line.contains(command)), "--help does not name {command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flag_reads_the_environment() {
    let etcd = Etcd::spawn().await;
    let port = free_port();
    let mut command = rollcall(["serve"]);
    command.env("ROLLCALL_ENDPOINTS", etcd.url()).env("ROLLCALL_LISTEN", format!("127.0.0.1:{port}"));
    command.env("ROLLCALL_WATCH", "kratos=/mine/").env("ROLLCALL_LOG_FORMAT", "json");
    let mut server = Server::of_logged_as_json(command).await;
    server.ready().await;
    assert_eq!(server.address(), format!("127.0.0.1:{port}"));
    let sources = server.get("/services").await.expect(200)["revisions"].clone();
    assert_eq!(sources.as_object().unwrap().keys().collect::<Vec<_>>(), ["/mine/"]);
    assert!(server.process().stdout().is_empty(), "stdout is for results only");
    for line in server.process().stderr() {
        let parsed: Result<Value, _> = serde_json::from_str(&line);
        assert!(parsed.is_ok(), "--log-format json: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_server_in_good_order() {
    let etcd = Etcd::spawn().await;
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&etcd).await;
        let _stream = server.events("").await;
        assert_eq!(server.end(signal).await, Some(0), "SIG{signal}");
    }
    let mut away = Server::launch("http://127.0.0.1:1", &[]).await;
    assert!(process::is_running(away.pid()));
    assert_eq!(away.end("TERM").await, Some(0), "also while etcd is away");
}
