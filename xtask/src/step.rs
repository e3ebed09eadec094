//! One step of the work: says what it does, does it, says how long it took. Knows nothing of what the steps are.

use std::{
    fmt,
    process::{Command, ExitCode},
    time::Instant,
};

/// Why the work ends here, in a line for people.
#[derive(Debug)]
pub struct Failure(pub String);

/// What a step gives, or why it did not.
pub type Outcome<T> = Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A line about what happens now.
pub fn say(what: &str) {
    eprintln!("==> {what}");
}

/// A line about what need not be done.
pub fn skip(what: &str) {
    eprintln!("==> {what}: nothing to do");
}

/// Says `what`, does it, and says how long it took.
pub fn timed<T>(what: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    say(what);
    let start = Instant::now();
    let outcome = work();
    let took = start.elapsed().as_secs_f64();
    match &outcome {
        Ok(_) => eprintln!("    {what}: {took:.1} s"),
        Err(_) => eprintln!("    {what}: failed after {took:.1} s"),
    }
    outcome
}

/// Runs `command` as a step; anything but status 0 is a failure.
pub fn run(what: &str, mut command: Command) -> Outcome<()> {
    timed(what, || {
        let status = command.status().map_err(|error| not_started(&command, &error))?;
        if status.success() { Ok(()) } else { Err(Failure(format!("{what} ended with {status}"))) }
    })
}

/// What `command` writes to stdout, where it ends with status 0.
pub fn output(mut command: Command) -> Outcome<String> {
    let output = command.output().map_err(|error| not_started(&command, &error))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Failure(format!("{} ended with {}: {told}", command.get_program().display(), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ends as `command` does. On Unix it takes this process' place, so that signals and its exit code need no forwarding.
#[cfg(unix)]
pub fn become_child(mut command: Command) -> Outcome<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    let error = command.exec();
    Err(not_started(&command, &error))
}

/// Ends as `command` does.
#[cfg(not(unix))]
pub fn become_child(mut command: Command) -> Outcome<ExitCode> {
    let status = command.status().map_err(|error| not_started(&command, &error))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn not_started(command: &Command, error: &std::io::Error) -> Failure {
    Failure(format!("{} could not be started: {error}", command.get_program().display()))
}
