//! The registry client's examples as programs: `cargo test` of the workspace builds them beside its tests.

use std::{env, path::PathBuf, process::Command};

use crate::process::Process;

/// Starts the example `name` of the registry client with `args`.
pub fn example(name: &str, args: &[&str]) -> Process {
    example_with(name, args, &[])
}

/// The same, with variables of its environment.
pub fn example_with(name: &str, args: &[&str], variables: &[(&str, &str)]) -> Process {
    let install = "build it: `cargo build -p rollcall-registry --examples --all-features`";
    let mut command = Command::new(program(name));
    command.args(args).envs(variables.iter().copied());
    Process::start(name, command, install).gently()
}

/// Tests stand in `target/{profile}/deps`, examples in `target/{profile}/examples`.
fn program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("it stands two folders below the target's");
    profile.join("examples").join(name)
}
