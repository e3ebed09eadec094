//! `cargo xtask`: installs what is missing, then builds, runs, tests or measures Rollcall.
//!
//! Owns: the verbs and their order. Standard library only, so that the first command in a fresh clone builds this in
//! seconds. Must not know: anything of what the program does.

mod dist;
mod interop;
mod machine;
mod npm;
mod split;
mod step;
mod tools;

use std::{path::PathBuf, process::ExitCode};

use machine::Machine;
use step::{Failure, Outcome};

const HELP: &str = "\
cargo xtask VERB

  run [ARG…]            install what is missing, build, start `rollcall dev --demo ARG…`; Ctrl-C stops it
  build                 the dashboard into dist/, then target/release/rollcall with the dashboard inside
  npm                   the registry client for JavaScript as an npm package, into target/npm/rollcall/
  test [--long] [NAME]  every test whose name holds NAME (all of them without one): unit, property, integration
                        with a real etcd, and the page in a real browser; --long also the slow ones
  bench [--quick] [NAME…]
                        what pushing a change costs, each beside another way of doing the same: fanout, rapid,
                        flood, hubs, latency, memory, writers, ready, stalled; what the registry client costs a
                        service: client; and how good the page is in a real browser: dashboard; all of them without
                        a NAME; client/PART and dashboard/PART for one part; --quick for a short look
  faults [--seed N] [--rounds N] [FAULT…]
                        the stream under every fault, on real processes, each round with a seed of its own; `causes`
                        counts what is said of planted departures; --help lists the faults
  interop [--quick] [NAME…]
                        our client and services on the real Go frameworks: found, called, killed and outlived, as a
                        table; wants a Go. kratos, kratos3, gomicro5, gomicro2, gokit, naming, gozero, kitex, hertz,
                        kratos-story; --quick leaves out what waits for long
  lint                  rustfmt and clippy, natively and for WebAssembly
  help                  this

What is missing (the wasm target, trunk, wasm-bindgen, wasm-split-cli, protoc, etcd, for tests a Chromium, axe-core
and TypeScript) is installed where that can be done without asking: tools into ~/.cache/rollcall/tools, packages by
apt-get on Debian. Elsewhere, and for Node, it says which command installs it.";

/// How many random sequences each property test tries in a long run.
const LONG_CASES: &str = "100000";

/// The benchmarks of `tests/src/bin/bench`.
const BENCHES: [&str; 11] =
    ["fanout", "rapid", "flood", "hubs", "latency", "memory", "writers", "ready", "stalled", "client", "dashboard"];

/// Those of them whose parts can be measured by themselves: `client/lookups`.
const BENCHES_OF_PARTS: [&str; 2] = ["client", "dashboard"];

/// A benchmark's name, and that of its one part to be measured, where it is named.
fn with_part(name: &str) -> (&str, Option<&str>) {
    name.split_once('/').map_or((name, None), |(name, part)| (name, Some(part)))
}

/// What was asked for.
enum Verb {
    Help,
    Build,
    Npm,
    Run(Vec<String>),
    Test { long: bool, filter: Option<String> },
    Bench { names: Vec<String>, quick: bool },
    Faults(Vec<String>),
    Interop { names: Vec<String>, quick: bool },
    Lint,
}

fn parse(args: &[String]) -> Result<Verb, String> {
    let Some((verb, rest)) = args.split_first() else {
        return Err(
            "which verb? One of run, build, npm, test, bench, faults, interop, lint; `cargo xtask help` says more"
                .into(),
        );
    };
    let none = |verb: Verb| match rest {
        [] => Ok(verb),
        [extra, ..] => Err(format!("`{}` takes no arguments, and there is `{extra}`", args[0])),
    };
    match verb.as_str() {
        "help" | "--help" | "-h" => Ok(Verb::Help),
        "build" => none(Verb::Build),
        "npm" => none(Verb::Npm),
        "lint" => none(Verb::Lint),
        "run" => Ok(Verb::Run(rest.to_vec())),
        "faults" => Ok(Verb::Faults(rest.to_vec())),
        "test" => {
            let (mut long, mut filter) = (false, None);
            for arg in rest {
                match arg.as_str() {
                    "--long" => long = true,
                    flag if flag.starts_with('-') => {
                        return Err(format!("`test` knows no `{flag}`; it takes --long and part of a test's name"));
                    }
                    name if filter.is_none() => filter = Some(name.to_owned()),
                    extra => {
                        return Err(format!("`test` takes one part of a test's name, and there is also `{extra}`"));
                    }
                }
            }
            Ok(Verb::Test { long, filter })
        }
        "bench" => {
            let (flags, mut names): (Vec<String>, Vec<String>) =
                rest.iter().cloned().partition(|arg| arg.starts_with('-'));
            if let Some(flag) = flags.iter().find(|flag| *flag != "--quick") {
                return Err(format!("`bench` knows no `{flag}`; it takes --quick and benchmarks' names"));
            }
            for name in &names {
                let (name, part) = with_part(name);
                if !BENCHES.contains(&name) {
                    return Err(format!("there is no benchmark `{name}`; there are {}", BENCHES.join(", ")));
                }
                if part.is_some() && !BENCHES_OF_PARTS.contains(&name) {
                    return Err(format!("`{name}` is of one part; {} have several", BENCHES_OF_PARTS.join(" and ")));
                }
            }
            if names.is_empty() {
                names = BENCHES.map(str::to_owned).to_vec();
            }
            Ok(Verb::Bench { names, quick: !flags.is_empty() })
        }
        "interop" => {
            let (flags, names): (Vec<String>, Vec<String>) = rest.iter().cloned().partition(|arg| arg.starts_with('-'));
            if let Some(flag) = flags.iter().find(|flag| *flag != "--quick") {
                return Err(format!("`interop` knows no `{flag}`; it takes --quick and frameworks' names"));
            }
            let known = |name: &String| name == interop::STORY || interop::PROGRAMS.contains(&name.as_str());
            if let Some(name) = names.iter().find(|name| !known(name)) {
                let all = interop::PROGRAMS.join(", ");
                return Err(format!("`interop` knows no `{name}`; there are {all} and {}", interop::STORY));
            }
            Ok(Verb::Interop { names, quick: !flags.is_empty() })
        }
        unknown => Err(format!(
            "there is no `{unknown}`; there are run, build, npm, test, bench, faults, interop, lint and help"
        )),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let verb = match parse(&args) {
        Ok(verb) => verb,
        Err(why) => {
            eprintln!("xtask: {why}");
            return ExitCode::from(2);
        }
    };
    match perform(verb) {
        Ok(code) => code,
        Err(Failure(why)) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> Outcome<ExitCode> {
    if matches!(verb, Verb::Help) {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut machine = Machine::look()?;
    match verb {
        Verb::Help => {}
        Verb::Build => build(&mut machine)?,
        Verb::Npm => {
            let package = npm::build(&mut machine)?;
            let size = npm::brotli_bytes(&machine, &package).unwrap_or_else(|| "? (no Node to ask)".to_owned());
            step::say(&format!("the npm package is in {}: {size} bytes of brotli to load", package.display()));
        }
        Verb::Run(args) => {
            tools::etcd(&machine)?;
            build(&mut machine)?;
            step::say("starting rollcall dev --demo: its line `listening on http://…` says where the page is");
            let mut server = machine.command(machine.binary());
            server.args(["dev", "--demo"]).args(args);
            return step::become_child(server);
        }
        Verb::Test { long, filter } => {
            tools::etcd(&machine)?;
            tools::browser(&machine)?;
            if let Err(Failure(why)) = tools::node(&machine) {
                step::say(&why);
            }
            let fetched = [
                ("ROLLCALL_AXE", tools::axe(&machine)),
                ("ROLLCALL_TSC", tools::typescript(&machine)),
                ("ROLLCALL_NPM", npm::build(&mut machine)),
            ];
            build(&mut machine)?;
            return Ok(test(&machine, long, filter.as_deref(), fetched));
        }
        Verb::Bench { names, quick } => {
            tools::etcd(&machine)?;
            build(&mut machine)?;
            bench(&mut machine, &names, quick)?;
        }
        Verb::Faults(args) => {
            tools::etcd(&machine)?;
            build(&mut machine)?;
            return faults(&machine, &args);
        }
        Verb::Interop { names, quick } => return interop::run(&mut machine, &names, quick),
        Verb::Lint => lint(&mut machine)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The dashboard, where its sources are newer than it, then the program around it.
fn build(machine: &mut Machine) -> Outcome<()> {
    dist::build(machine)?;
    tools::protoc(machine)?;
    let mut cargo = machine.cargo();
    cargo.args(["build", "--release", "--locked", "--package", "rollcall-server"]);
    step::run("cargo build --release --package rollcall-server", cargo)
}

/// The crates that run natively; the others are built for WebAssembly alone.
const NATIVE: [&str; 7] =
    ["--workspace", "--exclude", "rollcall-dashboard", "--exclude", "rollcall-client", "--exclude", "wasm-streams"];

fn test<const N: usize>(
    machine: &Machine,
    long: bool,
    filter: Option<&str>,
    fetched: [(&str, Outcome<PathBuf>); N],
) -> ExitCode {
    let mut failed = Vec::new();
    // Without one of these the tests that need it fail, and every other says what it has to say.
    let fetched: Vec<(&str, PathBuf)> = fetched
        .into_iter()
        .filter_map(|(name, path)| Some((name, path.inspect_err(|Failure(why)| step::say(why)).ok()?)))
        .collect();
    let page = ["--package", "rollcall-client", "--package", "rollcall-dashboard"];
    for (what, packages) in [("every native test", &NATIVE[..]), ("what the page decides, natively", &page)] {
        let mut cargo = machine.cargo();
        cargo.args(["test", "--locked", "--no-fail-fast"]).args(packages);
        cargo.args(filter).env("ROLLCALL_BIN", machine.binary());
        cargo.envs(fetched.iter().map(|(name, path)| (name, path)));
        // Most of a test with a real etcd is waiting for a lease or a timeout: more of them than there are cores.
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            cargo.env("RUST_TEST_THREADS", "4");
        }
        if long {
            cargo.env("ROLLCALL_TEST_LONG", "1").env("PROPTEST_CASES", LONG_CASES);
            // So many sequences are worth a build of their own.
            cargo.env("CARGO_PROFILE_TEST_OPT_LEVEL", "1");
        }
        if let Err(Failure(why)) = step::run(what, cargo) {
            failed.push(why);
        }
    }
    if failed.is_empty() {
        step::say("every test passed");
        return ExitCode::SUCCESS;
    }
    for why in failed {
        eprintln!("xtask: {why}");
    }
    ExitCode::FAILURE
}

fn bench(machine: &mut Machine, names: &[String], quick: bool) -> Outcome<()> {
    let etcd36 = tools::etcd36(machine);
    let has = |wanted: &str| names.iter().any(|name| with_part(name).0 == wanted);
    if has("hubs") {
        tools::hubs(machine);
    }
    if has("dashboard") {
        tools::browser(machine)?;
    }
    // What is read for an event is held against go-kratos.
    if names.iter().any(|name| ["client", "client/bytes"].contains(&name.as_str()))
        && let Err(Failure(why)) = tools::go(machine).and_then(|()| interop::build(machine, "kratos"))
    {
        step::say(&format!("{why}; go-kratos is measured only where it was built before"));
    }
    for name in names {
        let mut cargo = machine.cargo();
        cargo.args(["run", "--release", "--locked", "--package", "rollcall-tests", "--bin", "bench", "--"]);
        let (benchmark, part) = with_part(name);
        cargo.arg(benchmark).args(part).args(quick.then_some("--quick"));
        cargo.env("ROLLCALL_BIN", machine.binary()).env("ROLLCALL_INTEROP", interop::programs(machine));
        if let Some(etcd36) = &etcd36 {
            cargo.env("ROLLCALL_ETCD_BIN", etcd36);
        }
        step::run(&format!("bench {name}"), cargo)?;
    }
    Ok(())
}

fn faults(machine: &Machine, args: &[String]) -> Outcome<ExitCode> {
    let mut cargo = machine.cargo();
    cargo.args(["run", "--release", "--locked", "--package", "rollcall-tests", "--bin", "faults", "--"]);
    cargo.args(args).env("ROLLCALL_BIN", machine.binary());
    // Debian's 3.4 loses events by itself: what the server loses is judged over an etcd that does not.
    match tools::etcd36(machine) {
        Some(etcd36) => drop(cargo.env("ROLLCALL_ETCD_BIN", etcd36)),
        None => step::say("this is judged over the etcd on the PATH, which may lose events itself where it is 3.4"),
    }
    step::become_child(cargo)
}

fn lint(machine: &mut Machine) -> Outcome<()> {
    tools::wasm_target(machine)?;
    let mut fmt = machine.cargo();
    fmt.args(["fmt", "--all", "--check"]);
    step::run("rustfmt", fmt)?;
    tools::protoc(machine)?;
    let mut native = machine.cargo();
    native.arg("clippy").args(NATIVE).args(["--all-targets", "--locked", "--", "-D", "warnings"]);
    step::run("clippy, natively", native)?;
    let mut wasm = machine.cargo();
    wasm.args(["clippy", "--package", "rollcall-client", "--package", "rollcall-dashboard"]);
    wasm.args(["--features", "rollcall-dashboard/split"]);
    wasm.args(["--target", tools::WASM_TARGET, "--locked", "--", "-D", "warnings"]);
    step::run("clippy, for WebAssembly", wasm)?;
    let mut face = machine.cargo();
    face.args(["clippy", "--package", "rollcall-client", "--features", "js"]);
    face.args(["--target", tools::WASM_TARGET, "--locked", "--", "-D", "warnings"]);
    step::run("clippy, of the npm package", face)?;
    let mut docs = machine.cargo();
    docs.args(["doc", "--no-deps", "--all-features", "--locked"]);
    docs.args(["--package", "rollcall-shared", "--package", "rollcall-registry"]).env("RUSTDOCFLAGS", "-D warnings");
    step::run("the documentation of the crates to be published", docs)
}
