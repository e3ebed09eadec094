//! The machine this runs on: where the repository is, what stands on the PATH, and the environment of child processes.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::step::{Failure, Outcome};

/// The repository, and what child processes are given.
pub struct Machine {
    root: PathBuf,
    target: PathBuf,
    /// Folders of tools that go before the PATH.
    tool_dirs: Vec<PathBuf>,
    protoc: Option<PathBuf>,
}

impl Machine {
    /// Finds the repository that this program was built from.
    pub fn look() -> Outcome<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .filter(|root| root.join("Cargo.lock").is_file())
            .ok_or_else(|| Failure("this has to run inside the repository, beside its Cargo.lock".into()))?
            .to_owned();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target, tool_dirs: Vec::new(), protoc: None })
    }

    /// The repository's root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo puts what it builds.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The program that `build` makes.
    pub fn binary(&self) -> PathBuf {
        self.target.join("release").join(format!("rollcall{}", env::consts::EXE_SUFFIX))
    }

    /// `program`, started in the repository's root with the tools at hand.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        if !self.tool_dirs.is_empty() {
            let rest = env::var_os("PATH").unwrap_or_default();
            let dirs = self.tool_dirs.iter().cloned().chain(env::split_paths(&rest));
            if let Ok(path) = env::join_paths(dirs) {
                command.env("PATH", path);
            }
        }
        if let Some(protoc) = &self.protoc {
            command.env("PROTOC", protoc);
        }
        // What cargo tells this program of its own package is none of a nested cargo's business: build scripts that
        // watch these variables would be run again each time the outer command changes.
        for (name, _) in env::vars_os() {
            let inherited = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_PRIMARY_"]
                .iter()
                .any(|own| inherited.starts_with(own))
            {
                command.env_remove(&name);
            }
        }
        command
    }

    /// cargo, the one that started this.
    pub fn cargo(&self) -> Command {
        self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Puts a folder of tools before the PATH of child processes.
    pub fn add_tools(&mut self, dir: PathBuf) {
        self.tool_dirs.push(dir);
    }

    /// Sets the protocol compiler for child processes.
    pub fn set_protoc(&mut self, protoc: PathBuf) {
        self.protoc = Some(protoc);
    }

    /// The version of a package in Cargo.lock.
    pub fn locked_version(&self, package: &str) -> Outcome<String> {
        let lock = self.root.join("Cargo.lock");
        let text = fs::read_to_string(&lock).map_err(|error| Failure(format!("{}: {error}", lock.display())))?;
        let named = format!("name = \"{package}\"");
        let mut lines = text.lines().skip_while(|line| *line != named);
        lines
            .nth(1)
            .and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
            .map(str::to_owned)
            .ok_or_else(|| Failure(format!("Cargo.lock holds no {package}")))
    }
}

/// Where installed tools are kept, for every clone of this user.
pub fn tools_dir() -> Outcome<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .ok_or_else(|| Failure("neither XDG_CACHE_HOME nor a home folder says where tools can be kept".into()))?;
    Ok(cache.join("rollcall").join("tools"))
}

/// Where `program` stands on the PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let name = format!("{program}{}", env::consts::EXE_SUFFIX);
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(&name)).find(|path| path.is_file())
}
