//! The program `rollcall`.

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser as _, error::ErrorKind};
use rollcall_server::{
    config::{Cli, LogFormat},
    dev::etcd::{GUARD_COMMAND, run_guard},
    run::run,
};
use tracing_subscriber::EnvFilter;

/// A hundred thousand records are made and let go in one go, by several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A flag is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == GUARD_COMMAND) {
        return run_guard(args);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    start_log(cli.log_format, cli.command.log_filter());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("rollcall: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(run(cli.command)) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("rollcall: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    };
    runtime.shutdown_background();
    code
}

/// Help is printed as it is; what is wrong with a flag is said in one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(EXIT_USAGE);
    }
    let text = error.render().to_string();
    let told = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = told.split_whitespace().collect();
    eprintln!("rollcall: {}", words.join(" ").trim_start_matches("error: "));
    ExitCode::from(EXIT_USAGE)
}

fn start_log(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
