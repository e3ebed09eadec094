//! `cargo xtask interop`: builds the Go programs in `tests/interop`, then runs the matrix. Knows the programs' names and
//! what their builds want, and nothing of what they do.

use std::{path::PathBuf, process::ExitCode};

use crate::{
    machine::Machine,
    step::{self, Outcome},
    tools,
};

/// The programs: a module each, since their frameworks want different versions of the same libraries.
pub const PROGRAMS: [&str; 9] =
    ["kratos", "kratos3", "gomicro5", "gomicro2", "gokit", "naming", "gozero", "kitex", "hertz"];

/// The scenario that is no program.
pub const STORY: &str = "kratos-story";

/// Runs the matrix for `names`, or for all where there are none.
pub fn run(machine: &mut Machine, names: &[String], quick: bool) -> Outcome<ExitCode> {
    tools::go(machine)?;
    tools::etcd(machine)?;
    let etcd36 = tools::etcd36(machine);
    for program in PROGRAMS {
        let asked = |name: &String| name == program || (name == STORY && program == "kratos");
        if names.is_empty() || names.iter().any(asked) {
            build(machine, program)?;
        }
    }
    tools::protoc(machine)?;
    let examples = machine.target().join("debug").join("examples");
    let mut cargo = machine.cargo();
    cargo.args(["build", "--locked", "--package", "rollcall-registry", "--features", "grpc,http"]);
    cargo.args(["--example", "micro_greeter", "--example", "helloworld_server"]);
    step::run("building our greeters", cargo)?;
    let mut cargo = machine.cargo();
    cargo.args(["run", "--locked", "--package", "rollcall-tests", "--bin", "interop", "--"]);
    cargo.args(names).args(quick.then_some("--quick"));
    cargo.env("ROLLCALL_INTEROP", programs(machine)).env("ROLLCALL_EXAMPLES", examples);
    match etcd36 {
        Some(etcd36) => drop(cargo.env("ROLLCALL_ETCD_BIN", etcd36)),
        None => step::say("this is measured over the etcd on the PATH, which may lose events itself where it is 3.4"),
    }
    step::become_child(cargo)
}

/// Where the programs are built to.
pub fn programs(machine: &Machine) -> PathBuf {
    machine.target().join("interop")
}

/// Builds one of the programs, by a Go that is known to be there.
pub fn build(machine: &Machine, program: &str) -> Outcome<()> {
    let mut go = machine.command("go");
    go.current_dir(machine.root().join("tests").join("interop").join(program));
    go.args(["build", "-trimpath", "-mod=readonly"]);
    if program == "kitex" {
        // One of its libraries reaches into encoding/json by name, which Go's linker refuses since 1.23.
        go.arg("-ldflags=-checklinkname=0");
    }
    go.arg("-o").arg(programs(machine).join(program)).arg(".");
    step::run(&format!("building {program} of tests/interop"), go)
}
