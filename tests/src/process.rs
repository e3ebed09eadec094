//! A child process that cannot outlive its test: ended when dropped, and also when the test is killed.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::wait::eventually;

/// How long a child may take to end by itself when its test is done, before it is killed.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// A running child, and all that it said.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Kills the child when this process is gone: it holds the other end of a pipe from here.
    guard: Child,
    stdout: Lines,
    stderr: Lines,
    readers: [thread::JoinHandle<()>; 2],
    gentle: bool,
}

type Lines = Arc<Mutex<Vec<String>>>;

/// How long the last of what a child wrote may take to be read once it has ended.
const DRAIN_MAX: Duration = Duration::from_secs(2);

impl Process {
    /// Starts `command`, keeping what it writes. A program that is not there fails with `install`.
    pub fn start(name: &str, mut command: Command, install: &str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{name} could not be started ({}: {error}); {install}", command.get_program().display())
        });
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\" 2>/dev/null", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("every Unix has a shell");
        let (stdout, stdout_reader) = keep(child.stdout.take().expect("it is piped"));
        let (stderr, stderr_reader) = keep(child.stderr.take().expect("it is piped"));
        let readers = [stdout_reader, stderr_reader];
        Self { name: name.to_owned(), child, guard, stdout, stderr, readers, gentle: false }
    }

    /// Ends by SIGTERM and only then by SIGKILL, when it is dropped.
    #[must_use]
    pub fn gently(mut self) -> Self {
        self.gentle = true;
        self
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stdout so far, by line.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it wrote to stderr so far, by line.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a signal, by its name without SIG.
    pub fn signal(&self, signal: &str) {
        send(self.pid(), signal);
    }

    /// How it ended, where it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end, and for the last of what it wrote.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let name = self.name.clone();
        let (stdout, stderr) = (Arc::clone(&self.stdout), Arc::clone(&self.stderr));
        let child = Mutex::new(&mut self.child);
        let status = eventually(&format!("{name} ends"), within, || async {
            let status = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().expect("it is our child");
            status.ok_or_else(|| {
                let last = |lines: &Lines| lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
                (last(&stdout), last(&stderr))
            })
        })
        .await;
        // A grandchild may hold the pipes for longer: then what has come is all there is to see.
        let deadline = Instant::now() + DRAIN_MAX;
        while !self.readers.iter().all(thread::JoinHandle::is_finished) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        status
    }

    /// Waits for a line of stderr that `matches` gives something for.
    pub async fn stderr_line<T>(&mut self, what: &str, within: Duration, matches: impl Fn(&str) -> Option<T>) -> T {
        Self::line(what, within, &self.stderr, &self.stderr, &mut self.child, matches).await
    }

    /// Waits for a line of stdout that `matches` gives something for.
    pub async fn stdout_line<T>(&mut self, what: &str, within: Duration, matches: impl Fn(&str) -> Option<T>) -> T {
        Self::line(what, within, &self.stdout, &self.stderr, &mut self.child, matches).await
    }

    async fn line<T>(
        what: &str,
        within: Duration,
        lines: &Lines,
        stderr: &Lines,
        child: &mut Child,
        matches: impl Fn(&str) -> Option<T>,
    ) -> T {
        let child = Mutex::new(child);
        eventually(what, within, || async {
            let seen = lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(found) = seen.iter().find_map(|line| matches(line)) {
                return Ok(found);
            }
            if let Ok(Some(status)) = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait() {
                let errors = stderr.lock().unwrap_or_else(PoisonError::into_inner).clone();
                panic!("{what}: it ended with {status} before; {seen:#?} {errors:#?}");
            }
            Err(seen)
        })
        .await
    }

    /// Kills it at once, as a crash or a lost machine would.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(self.guard.kill());
        drop(self.guard.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let lines = self.stderr();
            eprintln!("--- the last of what {} said:", self.name);
            for line in &lines[lines.len().saturating_sub(40)..] {
                eprintln!("    {line}");
            }
        }
        if self.gentle && self.status().is_none() {
            self.signal("CONT");
            self.signal("TERM");
            let deadline = Instant::now() + LEAVE_MAX;
            while self.status().is_none() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill();
    }
}

/// Sends a signal, by its name without SIG, to a process that this test owns.
pub fn send(pid: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(status.is_ok(), "every Unix has kill");
}

/// Whether a process is there and no zombie.
pub fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

/// The processes whose parent is `pid`, each with its command line.
pub fn children(pid: u32) -> Vec<(u32, String)> {
    processes()
        .into_iter()
        .filter(|(child, _)| {
            std::fs::read_to_string(format!("/proc/{child}/stat"))
                .ok()
                .and_then(|stat| stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok())
                .is_some_and(|parent: u32| parent == pid)
        })
        .collect()
}

/// Every process with its command line.
pub fn processes() -> Vec<(u32, String)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .collect()
}

fn keep(from: impl Read + Send + 'static) -> (Lines, thread::JoinHandle<()>) {
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    let reader = thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
    (lines, reader)
}
