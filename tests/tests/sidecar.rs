//! `rollcall register -- COMMAND` beside programs of every kind: registered while they answer, found by this host's
//! address, deregistered before they are told to end, as the first process of a container and below systemd.

use std::{
    net::TcpListener,
    os::unix::net::UnixDatagram,
    process::{Command, Stdio},
    time::Duration,
};

use rollcall_tests::{
    Etcd, FaultProxy, Process,
    etcd::free_port,
    eventually,
    process::{children, is_running, send},
    seconds,
    server::rollcall,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const KEY: &str = "/microservices/job/j1";

/// Runs until it is ended.
const FOREVER: &str = "echo up; while :; do sleep 0.05; done";

fn start(command: Command) -> Process {
    Process::start("rollcall", command, "build it: `cargo xtask build`").gently()
}

fn command(etcd: &str, args: &[&str]) -> Command {
    let mut all = vec!["register", "--endpoints", etcd, "--name", "job", "--id", "j1"];
    if !args.contains(&"--endpoint") {
        all.extend(["--endpoint", "http://10.0.0.1:80"]);
    }
    all.extend_from_slice(args);
    rollcall(all)
}

async fn endpoints(etcd: &Etcd, key: &str) -> Vec<String> {
    etcd.key_stands(key, true, seconds(15)).await;
    let value: Value = serde_json::from_slice(&etcd.get(key).await.expect("it stands")).expect("it is JSON");
    serde_json::from_value(value["endpoints"].clone()).expect("they are texts")
}

/// Answers every request on `listener` with what `status` holds.
async fn answer(listener: TcpListener, status: tokio::sync::watch::Receiver<u16>) {
    listener.set_nonblocking(true).expect("it is a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("tokio runs");
    while let Ok((mut stream, _)) = listener.accept().await {
        let status = *status.borrow();
        tokio::spawn(async move {
            let mut asked = vec![0; 4_096];
            let length = stream.read(&mut asked).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
            // What asks for anything else is told so.
            let status = if asked.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n") { status } else { 400 };
            let answer = format!("HTTP/1.1 {status} Any\r\ncontent-length: 0\r\n\r\n");
            drop(stream.write_all(answer.as_bytes()).await);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_registered_only_while_its_check_passes() {
    let etcd = Etcd::spawn().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let check = format!("http://:{}/healthz?deep=1", listener.local_addr().unwrap().port());
    let (status, told) = tokio::sync::watch::channel(503);
    let answering = tokio::spawn(answer(listener, told));
    let args = ["--check", &check, "--check-interval", "100ms", "--check-failures", "3", "--", "sh", "-c", FOREVER];
    let mut job = start(command(&etcd.url(), &args));
    job.stdout_line("the command runs", seconds(10), |line| (line == "up").then_some(())).await;
    job.stderr_line("the check is said to fail", seconds(10), |line| line.contains("503").then_some(())).await;
    // Many checks have failed by now.
    tokio::time::sleep(seconds(1)).await;
    assert!(etcd.get(KEY).await.is_none(), "it is registered before its check passes");
    for passing in [200, 302] {
        status.send_replace(passing);
        etcd.key_stands(KEY, true, seconds(10)).await;
        let (_, lease) = etcd.entry(KEY).await.unwrap();
        tokio::time::sleep(seconds(1)).await;
        assert_eq!(etcd.entry(KEY).await.map(|(_, lease)| lease), Some(lease), "it stays while the check passes");
        status.send_replace(404);
        etcd.key_stands(KEY, false, seconds(10)).await;
        assert!(etcd.ttl(lease).await.is_some(), "it is deleted, not expired: {:?}", job.stderr());
    }
    // Each turn is said once, however many checks there were.
    let said = |word: &str| job.stderr().iter().filter(|line| line.contains(word)).count();
    eventually("the last turn is said", seconds(5), || async {
        let turns = [said("the program answers"), said("the program does not answer"), said(" deregistered")];
        if turns == [2, 2, 2] { Ok(()) } else { Err((turns, job.stderr())) }
    })
    .await;
    answering.abort();
    job.signal("TERM");
    assert_eq!(job.ended(seconds(10)).await.code(), Some(143));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_check_and_an_http_check_both_have_to_pass() {
    let etcd = Etcd::spawn().await;
    let (http, tcp_port) = (TcpListener::bind("127.0.0.1:0").unwrap(), free_port());
    let checks = [
        format!("http://127.0.0.1:{}/healthz?deep=1", http.local_addr().unwrap().port()),
        format!("tcp://:{tcp_port}"),
    ];
    let (_status, told) = tokio::sync::watch::channel(200);
    let answering = tokio::spawn(answer(http, told));
    let args = ["--check", &checks[0], "--check", &checks[1], "--check-interval", "100ms", "--check-failures", "1"];
    let mut job = start(command(&etcd.url(), &args));
    job.stderr_line("which check fails", seconds(10), |line| line.contains(&checks[1]).then_some(())).await;
    assert!(etcd.get(KEY).await.is_none());
    let tcp = TcpListener::bind(("127.0.0.1", tcp_port)).unwrap();
    etcd.key_stands(KEY, true, seconds(10)).await;
    drop(tcp);
    etcd.key_stands(KEY, false, seconds(10)).await;
    answering.abort();
    job.signal("TERM");
    assert_eq!(job.ended(seconds(10)).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn this_hosts_address_is_filled_in() {
    let etcd = Etcd::spawn().await;
    for (more, expected) in [
        (&[][..], ["http://127.0.0.1:8080", "grpc://127.0.0.1:9000?isSecure=false", "http://h:1"]),
        (&["--host", "10.1.2.3"], ["http://10.1.2.3:8080", "grpc://10.1.2.3:9000?isSecure=false", "http://h:1"]),
        (&["--host", "fd00::7"], ["http://[fd00::7]:8080", "grpc://[fd00::7]:9000?isSecure=false", "http://h:1"]),
    ] {
        let asked =
            ["--endpoint", "http://:8080", "--endpoint", "grpc://:9000?isSecure=false", "--endpoint", "http://h:1"];
        let mut job = start(command(&etcd.url(), &[&asked, more].concat()));
        assert_eq!(endpoints(&etcd, KEY).await, expected);
        job.signal("TERM");
        assert_eq!(job.ended(seconds(10)).await.code(), Some(0));
    }
    // The layouts without schemes; kitex makes its key of the address.
    let mut kitex = command(&etcd.url(), &["--endpoint", ":8888", "--layout", "kitex"]);
    kitex.env("ROLLCALL_HOST", "pay.internal");
    let args: Vec<_> = kitex.get_args().map(ToOwned::to_owned).filter(|arg| arg != "--id" && arg != "j1").collect();
    let mut without_id = rollcall(args);
    without_id.env("ROLLCALL_HOST", "pay.internal");
    let mut job = start(without_id);
    etcd.key_stands("kitex/registry-etcd/job/pay.internal:8888", true, seconds(15)).await;
    job.signal("TERM");
    assert_eq!(job.ended(seconds(10)).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_in_one_line() {
    for (args, word) in [
        (&["--endpoint", "http://0.0.0.0:8080"][..], "http://:8080"),
        (&["--endpoint", "grpc://[::]:9000"], "nobody can call"),
        (&["--endpoint", "http://:8080", "--host", "0.0.0.0"], "nobody can call"),
        (&["--endpoint", "http://:8080", "--host", "h:1"], "--host"),
        (&["--endpoint", "http://:"], "endpoints"),
        (&["--check", "8080"], "http://:8080/healthz"),
        (&["--check", "https://:8443/healthz"], "tcp://"),
        (&["--check", "http://:0/"], "http://:0/"),
        (&["--check", "tcp://:80", "--check-interval", "0s"], "--check-interval"),
        (&["--check", "tcp://:80", "--check-failures", "0"], "--check-failures"),
        (&["--drain", "soon"], "--drain"),
    ] {
        let mut job = start(command("http://127.0.0.1:1", &[args, &["--", "echo", "up"]].concat()));
        let code = job.ended(seconds(10)).await.code();
        let errors = job.stderr();
        assert_eq!((code, errors.len()), (Some(2), 1), "{args:?}: {errors:?}");
        assert!(errors[0].contains(word), "{args:?}: {errors:?}");
        assert!(job.stdout().is_empty(), "{args:?}: the command was started");
    }
}

/// What stands in etcd when the command gets the signal is seen by the command itself.
fn trap(etcd: &Etcd, then: &str) -> String {
    let get = format!("ETCDCTL_API=3 etcdctl --endpoints={} get --keys-only {KEY}", etcd.address());
    format!("trap 'echo \"told [$({get} | tr -d \"\\n\")]\"; {then}' TERM; {FOREVER}")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_deregistered_before_the_command_is_told_to_end() {
    let etcd = Etcd::spawn().await;
    let line = FaultProxy::to(&etcd.address()).await;
    let script = trap(&etcd, "exit 5");
    let mut job = start(command(&line.url(), &["--", "sh", "-c", &script]));
    job.stdout_line("the command runs", seconds(10), |line| (line == "up").then_some(())).await;
    etcd.key_stands(KEY, true, seconds(15)).await;
    // Deregistering takes a while.
    line.stall();
    job.signal("TERM");
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(job.stdout(), ["up"], "the command was told first");
    line.heal();
    assert_eq!(job.ended(seconds(10)).await.code(), Some(5));
    assert_eq!(job.stdout(), ["up", "told []"], "{:?}", job.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_drains_between_the_two_and_a_second_signal_cuts_that_short() {
    let etcd = Etcd::spawn().await;
    let script = trap(&etcd, "exit 5");
    let told = |job: &Process| job.stdout().iter().any(|line| line.starts_with("told"));
    let mut job = start(command(&etcd.url(), &["--drain", "2s", "--", "sh", "-c", &script]));
    job.stdout_line("the command runs", seconds(10), |line| (line == "up").then_some(())).await;
    etcd.key_stands(KEY, true, seconds(15)).await;
    let asked = tokio::time::Instant::now();
    job.signal("TERM");
    etcd.key_stands(KEY, false, seconds(10)).await;
    assert!(!told(&job), "the command was told before the drain was over");
    // A signal that orders nothing of the kind goes through meanwhile, and does not make the drain begin anew.
    job.signal("WINCH");
    assert_eq!(job.ended(seconds(15)).await.code(), Some(5));
    assert!(asked.elapsed() >= seconds(2) && told(&job), "{:?}", job.stdout());

    let mut job = start(command(&etcd.url(), &["--drain", "1h", "--", "sh", "-c", &script]));
    job.stdout_line("the command runs", seconds(10), |line| (line == "up").then_some(())).await;
    etcd.key_stands(KEY, true, seconds(15)).await;
    job.signal("TERM");
    etcd.key_stands(KEY, false, seconds(10)).await;
    assert!(!told(&job));
    job.signal("TERM");
    assert_eq!(job.ended(seconds(10)).await.code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_etcd_holds_the_end_up_for_seconds_only() {
    let etcd = Etcd::spawn().await;
    let mut job =
        start(command(&etcd.url(), &["--", "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"]));
    job.stdout_line("the command runs", seconds(10), |line| (line == "up").then_some(())).await;
    etcd.key_stands(KEY, true, seconds(15)).await;
    etcd.pause();
    job.signal("TERM");
    let code = job.ended(seconds(9)).await.code();
    etcd.resume();
    assert_eq!(code, Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sidecar_leaves_a_key_that_runs_out() {
    let etcd = Etcd::spawn().await;
    let mut job = start(command(&etcd.url(), &["--ttl", "2s"]));
    etcd.key_stands(KEY, true, seconds(15)).await;
    job.kill();
    assert!(etcd.get(KEY).await.is_some(), "nobody was there to delete it");
    etcd.key_stands(KEY, false, seconds(15)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_passed_while_etcd_was_away_counts() {
    let mut etcd = Etcd::spawn().await;
    etcd.kill();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let check = format!("tcp://{}", listener.local_addr().unwrap());
    let args = ["--endpoint", "http://:80", "--check", &check, "--", "sh", "-c", FOREVER];
    let mut job = start(command(&etcd.url(), &args));
    job.stdout_line("the command runs", seconds(10), |line| (line == "up").then_some(())).await;
    etcd.start().await;
    assert_eq!(endpoints(&etcd, KEY).await, ["http://127.0.0.1:80"]);
    job.signal("TERM");
    job.ended(seconds(10)).await;
    assert!(etcd.get(KEY).await.is_none());
}

/// The words that a service manager was told so far.
fn told(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4_096];
    let mut words = Vec::new();
    while let Ok(length) = socket.recv(&mut buffer) {
        words.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told() {
    let mut etcd = Etcd::spawn().await;
    // Whether etcd is there or not: the program is up.
    etcd.kill();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let port = free_port();
    let check = format!("tcp://:{port}");
    let script = "echo \"[$NOTIFY_SOCKET]\"; while :; do sleep 0.05; done";
    let mut with = command(&etcd.url(), &["--check", &check, "--check-interval", "100ms", "--", "sh", "-c", script]);
    with.env("NOTIFY_SOCKET", &path);
    let mut job = start(with);
    job.stdout_line("the command speaks to nobody by mistake", seconds(10), |line| (line == "[]").then_some(())).await;
    job.stderr_line("a check failed", seconds(10), |line| line.contains(&check).then_some(())).await;
    let mut words = told(&socket);
    assert!(!words.iter().any(|word| word == "READY=1"), "it is ready before its check passes: {words:?}");
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut until = async |wanted: &str| {
        let words = &mut words;
        let deadline = tokio::time::Instant::now() + seconds(15);
        while !words.iter().any(|word| word == wanted) {
            words.extend(told(&socket));
            assert!(tokio::time::Instant::now() < deadline, "no {wanted} in {words:?}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    until("READY=1").await;
    etcd.start().await;
    until(&format!("STATUS=registered as {KEY}")).await;
    job.signal("TERM");
    until("STOPPING=1").await;
    job.ended(seconds(10)).await;
    drop(listener);
    words.extend(told(&socket));
    for once in ["READY=1", "STOPPING=1"] {
        assert_eq!(words.iter().filter(|word| *word == once).count(), 1, "{words:?}");
    }
}

/// A command that starts `inner` as the first process of a namespace of its own; none where that is not allowed.
fn as_first_process(inner: &Command) -> Option<Command> {
    // Who may not, becomes root in a namespace of users of its own.
    let ways: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];
    let own = ["--pid", "--fork", "--kill-child", "--mount-proc", "--"];
    let may = |way: &&&[&str]| {
        let tried = Command::new("unshare").args(**way).args(own).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let mut outer = Command::new("unshare");
    outer.args(*ways.iter().find(may)?).args(own).arg(inner.get_program()).args(inner.get_args());
    Some(outer)
}

/// Leaves eight orphans behind, each of which ends a while after its parent.
const ORPHANS: &str = "trap 'exit 7' TERM; trap 'echo usr1' USR1; \
                       for n in 1 2 3 4 5 6 7 8; do (sleep 0.2 & exec sh -c 'exit 0'); done; \
                       echo left; while :; do sleep 0.05; done";

/// Nothing is left below `pid` but its command.
async fn reaped(pid: u32) {
    eventually("nothing is left but the command", seconds(10), || async {
        let left = children(pid);
        let zombies = left.iter().filter(|(pid, _)| !is_running(*pid)).count();
        if zombies == 0 && left.len() == 1 { Ok(()) } else { Err(left) }
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn as_the_first_process_of_a_container_it_reaps_and_passes_on() {
    become_it(reap_from_here);
    let etcd = Etcd::spawn().await;
    let inner = command(&etcd.url(), &["--", "sh", "-c", ORPHANS]);
    let name = "as_the_first_process_of_a_container_it_reaps_and_passes_on";
    let (outer, has_namespace) = match as_first_process(&inner) {
        Some(outer) => (outer, true),
        None => (again(name, &inner), false),
    };
    let mut outer = start(outer);
    outer.stdout_line("the orphans are left", seconds(10), |line| line.ends_with("left").then_some(())).await;
    etcd.key_stands(KEY, true, seconds(15)).await;
    let first = if has_namespace {
        let first = eventually("it runs in its namespace", seconds(5), || async {
            let inside = children(outer.pid());
            inside.iter().find(|(_, line)| line.contains("register")).map(|(pid, _)| *pid).ok_or(inside)
        })
        .await;
        let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
        let numbers = status.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
        assert!(numbers.ends_with("\t1"), "it is not the first process there: {numbers:?}");
        first
    } else {
        // A container may forbid it, as Docker's seccomp profile does. What is orphaned comes to a reaper all the same.
        eprintln!(
            "unshare(1) may make no namespace of processes here: tested as a reaper that is not the first process"
        );
        outer.pid()
    };
    reaped(first).await;
    send(first, "USR1");
    outer.stdout_line("a signal comes through", seconds(10), |line| (line == "usr1").then_some(())).await;
    send(first, "TERM");
    assert_eq!(outer.ended(seconds(10)).await.code(), Some(7), "the command's own code: {:?}", outer.stderr());
    assert!(etcd.get(KEY).await.is_none());
}

/// Names to a child of this test's what it is to become.
const BECOME: &str = "ROLLCALL_TEST_BECOME";

/// Becomes what [`BECOME`] names, where this is such a child; what `prepare` does for this process stays done.
fn become_it(prepare: impl FnOnce()) {
    let Ok(line) = std::env::var(BECOME) else { return };
    prepare();
    let words: Vec<String> = serde_json::from_str(&line).expect("it is a list of words");
    let error = std::os::unix::process::CommandExt::exec(Command::new(&words[0]).args(&words[1..]));
    panic!("{}: {error}", words[0]);
}

/// Starts the test named `name` again, to become `inner` by [`become_it`].
fn again(name: &str, inner: &Command) -> Command {
    let words: Value =
        [inner.get_program()].into_iter().chain(inner.get_args()).map(|word| word.to_string_lossy()).collect();
    let mut again = Command::new(std::env::current_exe().expect("it is a file"));
    again.args([name, "--exact", "--nocapture"]).env(BECOME, words.to_string());
    again
}

/// Makes this process one to which orphans below it come.
#[cfg(target_os = "linux")]
fn reap_from_here() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("Linux has reapers");
}

/// Orphans come to the nearest reaper above them. This test starts itself again, becomes one, and then `rollcall`: who
/// reaps stays who reaps.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_orphaned_below_it_is_reaped_and_its_commands_end_is_not_taken() {
    become_it(reap_from_here);
    let etcd = Etcd::spawn().await;
    let inner = command(&etcd.url(), &["--", "sh", "-c", ORPHANS]);
    let mut job = start(again("what_is_orphaned_below_it_is_reaped_and_its_commands_end_is_not_taken", &inner));
    job.stdout_line("the orphans are left", seconds(10), |line| line.ends_with("left").then_some(())).await;
    reaped(job.pid()).await;
    etcd.key_stands(KEY, true, seconds(15)).await;
    job.signal("TERM");
    assert_eq!(job.ended(seconds(10)).await.code(), Some(7), "the command's own code: {:?}", job.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nohup_started_outlives_its_terminal() {
    let etcd = Etcd::spawn().await;
    let mut inner = command(&etcd.url(), &["--", "sh", "-c", FOREVER]);
    let mut outer = Command::new("nohup");
    outer.arg(inner.get_program()).args(inner.get_args());
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inner = outer;
    let mut job = start(inner);
    etcd.key_stands(KEY, true, seconds(10)).await;
    job.signal("HUP");
    job.signal("USR2");
    // What comes after the hangup is heard: the hangup was not.
    assert_eq!(job.ended(seconds(10)).await.code(), Some(128 + 12), "{:?}", job.stderr());
}

/// Names to a child of this test's the terminal that is to control it.
const TERMINAL: &str = "ROLLCALL_TEST_TERMINAL";

/// What the terminal sends for Ctrl-C.
const CTRL_C: &[u8] = b"\x03";

/// Goes on after a SIGINT, and counts them.
const LIVES_ON: &str = "n=0; trap 'n=$((n+1)); echo int $n' INT; echo up; while :; do sleep 0.05; done";

/// `rollcall` with a terminal that controls it, and an input that comes from elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_reaches_the_command_by_the_terminal_and_an_order_from_elsewhere_does_too() {
    // The first terminal that who leads a session opens is the one that controls it.
    become_it(|| {
        rustix::process::setsid().expect("it leads no group of processes");
        let path = std::env::var(TERMINAL).expect("it is named beside what to become");
        std::mem::forget(std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the terminal is there"));
    });
    let etcd = Etcd::spawn().await;
    for by_key in [true, false] {
        let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&terminal).unwrap();
        rustix::pty::unlockpt(&terminal).unwrap();
        let path = rustix::pty::ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        let inner = command(&etcd.url(), &["--", "sh", "-c", LIVES_ON]);
        let mut outer =
            again("ctrl_c_reaches_the_command_by_the_terminal_and_an_order_from_elsewhere_does_too", &inner);
        outer.env(TERMINAL, path);
        let mut job = start(outer);
        job.stdout_line("the command runs", seconds(10), |line| line.ends_with("up").then_some(())).await;
        etcd.key_stands(KEY, true, seconds(15)).await;
        let pressed = tokio::time::Instant::now();
        if by_key {
            rustix::io::write(&terminal, CTRL_C).unwrap();
            job.stdout_line("the terminal tells the command", seconds(10), |line| (line == "int 1").then_some(()))
                .await;
        } else {
            // As `docker kill -s INT` would: with a terminal, and past it.
            job.signal("INT");
        }
        etcd.key_stands(KEY, false, seconds(10)).await;
        // One that lives on is told by the program itself, but not as by who presses the key twice.
        let last = if by_key { "int 2" } else { "int 1" };
        job.stdout_line("the command is told after all", seconds(15), |line| (line == last).then_some(())).await;
        assert!(pressed.elapsed() >= seconds(5), "it came at once: {:?}", job.stdout());
        job.signal("TERM");
        assert_eq!(job.ended(seconds(10)).await.code(), Some(143), "{:?}", job.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_a_script_put_into_the_background_is_spared_ctrl_c() {
    let etcd = Etcd::spawn().await;
    for (args, signals, code) in [
        // Of the first two neither is heard: the command ends by the third.
        (&["--", "sh", "-c", FOREVER][..], &["INT", "QUIT", "TERM"][..], "code 143"),
        // Without a command it is the script's own, and SIGINT has to end it.
        (&[], &["INT"], "code 0"),
    ] {
        let inner = command(&etcd.url(), args);
        // A shell without job control starts what it does not wait for with both ignored.
        let mut outer = Command::new("sh");
        let script = "\"$@\" & echo pid $!; wait $!; echo code $?";
        outer.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
        let mut job = start(outer);
        let pid = job.stdout_line("it starts", seconds(10), |line| line.strip_prefix("pid ")?.parse().ok()).await;
        etcd.key_stands(KEY, true, seconds(15)).await;
        for signal in signals {
            send(pid, signal);
        }
        let ended = job.stdout_line("it ends", seconds(10), |line| line.starts_with("code ").then(|| line.to_owned()));
        assert_eq!(ended.await, code, "{:?}", job.stderr());
        assert!(etcd.get(KEY).await.is_none());
    }
}
