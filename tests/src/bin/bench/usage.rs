//! What processes took so far: CPU and memory, from Linux' /proc.

use std::{fs, time::Duration};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Linux counts CPU time in hundredths of a second, whatever the kernel's own tick is.
const CPU_TICKS_PER_S: u32 = 100;

/// The CPU time that a process took so far, in user and in system mode, with that of its threads that ended.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("CPU time is read from Linux' /proc")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // utime and stime are the 14th and 15th field; the first two stand before the closing bracket.
    let ticks: u32 = fields.iter().skip(11).take(2).filter_map(|text| text.parse::<u32>().ok()).sum();
    Ok(Duration::from_secs(1) * ticks / CPU_TICKS_PER_S)
}

/// Memory in KiB.
#[derive(Debug, Default, Clone, Copy)]
pub struct Memory {
    /// All that is resident.
    pub rss: f64,
    /// Of it what is the process' own: no file, nothing shared.
    pub anonymous: f64,
}

/// The memory that a process holds.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("memory is read from Linux' /proc")?;
    let field = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    Ok(Memory {
        rss: field("Rss:").context("no Rss in smaps_rollup")?,
        anonymous: field("Anonymous:").context("no Anonymous in smaps_rollup")?,
    })
}

/// As many open files as this process may have; its children get the same.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not, the streams that do not open say so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
