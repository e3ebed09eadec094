//! `cargo xtask bench`: what a change costs on its way out, each figure beside another way of doing the same in one run.
//!
//! Owns: which benchmarks there are, a module for each, and what they share: the readers, the load, the bare loop, the
//! clock and the table. Must not know: how the server does what is measured. Every way runs by turns with the others,
//! over an etcd of its own, and the table shows medians. CPU and memory are read from Linux' /proc.

mod bare;
mod client;
mod dashboard;
mod fanout;
mod flood;
mod gateway;
mod hubs;
mod latency;
mod load;
mod memory;
mod readers;
mod ready;
mod stalled;
mod stamp;
mod table;
mod usage;
mod ways;
mod writers;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};

/// How long and how often something is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    quick: bool,
}

impl Plan {
    /// How long changes go on in one run.
    fn run(self) -> Duration {
        Duration::from_secs(if self.quick { 2 } else { 5 })
    }

    /// How often each way is measured, by turns.
    fn rounds(self) -> usize {
        if self.quick { 1 } else { 3 }
    }
}

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    args.retain(|arg| arg != "--quick");
    let name = args.first().map_or("", String::as_str);
    let outcome = if name == bare::VERB {
        bare::serve()
    } else if name == client::VERB {
        client::serve(&args[1..])
    } else {
        measure(name, args.get(1).map_or("", String::as_str), Plan { quick })
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(name: &str, part: &str, plan: Plan) -> anyhow::Result<()> {
    usage::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let etcd = rollcall_tests::Etcd::spawn().await;
        let version = etcd.client().await.status().await?.version().to_owned();
        println!("{name}, over etcd {version}");
        drop(etcd);
        match name {
            "latency" => Box::pin(latency::measure(plan)).await,
            "fanout" => Box::pin(fanout::measure(plan, 100)).await,
            "rapid" => Box::pin(fanout::measure(plan, 1_000)).await,
            "flood" => Box::pin(flood::measure(plan)).await,
            "hubs" => Box::pin(hubs::measure(plan)).await,
            "memory" => Box::pin(memory::measure(plan)).await,
            "writers" => Box::pin(writers::measure(plan)).await,
            "ready" => Box::pin(ready::measure(plan)).await,
            "client" => Box::pin(client::measure(plan, part)).await,
            "dashboard" => Box::pin(dashboard::measure(plan, part)).await,
            "stalled" => Box::pin(stalled::measure(plan)).await,
            other => bail!("there is no benchmark {other:?}; `cargo xtask bench` knows them all"),
        }
    })
}
