//! The tools the work needs: looked for first, installed where that can be done without asking, else named.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    machine::{Machine, on_path, tools_dir},
    step::{self, Failure, Outcome},
};

/// What the dashboard is compiled for.
pub const WASM_TARGET: &str = "wasm32-unknown-unknown";

const TRUNK_VERSION: &str = "0.21.14";

/// It reads what `wasm_split_helpers`, at the version that Leptos brings, leaves in the program.
const WASM_SPLIT_VERSION: &str = "0.2.4";

/// The standard library for WebAssembly.
pub fn wasm_target(machine: &Machine) -> Outcome<()> {
    if wasm_std_stands(machine) {
        return Ok(());
    }
    let mut list = machine.command("rustup");
    list.args(["target", "list", "--installed"]);
    let Ok(installed) = step::output(list) else {
        return Err(Failure(format!(
            "Rust's standard library for {WASM_TARGET} is missing and there is no rustup to add it: \
             get rustup from https://rustup.rs, or the package of your system that holds that target"
        )));
    };
    if installed.lines().any(|line| line.trim() == WASM_TARGET) {
        return Ok(());
    }
    let mut add = machine.command("rustup");
    add.args(["target", "add", WASM_TARGET]);
    step::run(&format!("rustup target add {WASM_TARGET}"), add)
}

/// Whether the compiler in use brings that library, also where no rustup put it there.
fn wasm_std_stands(machine: &Machine) -> bool {
    let mut rustc = machine.command("rustc");
    rustc.args(["--print", "target-libdir", "--target", WASM_TARGET]);
    step::output(rustc).is_ok_and(|dir| Path::new(dir.trim()).is_dir())
}

/// trunk, wasm-bindgen and wasm-split-cli, each at the one version that fits.
pub fn page_tools(machine: &mut Machine) -> Outcome<()> {
    cargo_tool(machine, "trunk", "trunk", TRUNK_VERSION, true)?;
    wasm_bindgen(machine)?;
    wasm_split(machine)
}

/// wasm-bindgen, at the lock file's version.
pub fn wasm_bindgen(machine: &mut Machine) -> Outcome<()> {
    let version = machine.locked_version("wasm-bindgen")?;
    cargo_tool(machine, "wasm-bindgen-cli", "wasm-bindgen", &version, false)
}

fn cargo_tool(machine: &mut Machine, package: &str, program: &str, version: &str, locked: bool) -> Outcome<()> {
    if on_path(program).is_some_and(|path| is_version(Command::new(path), version)) {
        return Ok(());
    }
    let root = tools_dir()?.join(format!("{package}-{version}"));
    let bin = root.join("bin");
    if !is_version(Command::new(bin.join(program)), version) {
        install(machine, package, version, if locked { &["--locked"] } else { &[] }, &root)?;
    }
    machine.add_tools(bin);
    Ok(())
}

/// It tells no version, so only what was installed here is known to be the right one.
fn wasm_split(machine: &mut Machine) -> Outcome<()> {
    const PACKAGE: &str = "wasm_split_cli_support";
    let root = tools_dir()?.join(format!("{PACKAGE}-{WASM_SPLIT_VERSION}"));
    let bin = root.join("bin");
    if !bin.join(format!("wasm-split-cli{}", env::consts::EXE_SUFFIX)).is_file() {
        install(machine, PACKAGE, WASM_SPLIT_VERSION, &["--locked", "--features", "build-binary"], &root)?;
    }
    machine.add_tools(bin);
    Ok(())
}

fn install(machine: &Machine, package: &str, version: &str, args: &[&str], root: &Path) -> Outcome<()> {
    let mut install = machine.cargo();
    install.args(["install", package, "--version", version, "--root"]).arg(root).args(args);
    // These run for seconds a build: whoever waits for them the first time gains more than they do by optimizing.
    for (setting, value) in [("OPT_LEVEL", "1"), ("LTO", "off"), ("CODEGEN_UNITS", "16"), ("DEBUG", "0")] {
        install.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    // Not beside the project's own artefacts, which nothing of this is shared with.
    install.env_remove("CARGO_TARGET_DIR");
    step::run(&format!("installing {package} {version} into {}", root.display()), install)
}

fn is_version(mut program: Command, version: &str) -> bool {
    program.arg("--version");
    step::output(program).is_ok_and(|told| told.split_whitespace().any(|word| word == version))
}

/// The protocol compiler that etcd-client's build needs: the user's own, else the one that a crate ships.
pub fn protoc(machine: &mut Machine) -> Outcome<()> {
    if env::var_os("PROTOC").is_some() || on_path("protoc").is_some() {
        return Ok(());
    }
    let system = match env::consts::OS {
        "windows" => "win32".to_owned(),
        os => {
            let arch = match env::consts::ARCH {
                "aarch64" => "aarch_64",
                "x86" => "x86_32",
                "powerpc64" => "ppcle_64",
                "s390x" => "s390_64",
                arch => arch,
            };
            format!("{os}-{arch}")
        }
    };
    let mut metadata = machine.cargo();
    metadata.args(["metadata", "--format-version", "1", "--locked"]);
    let metadata = step::output(metadata)?;
    let protoc = manifest_dir(&metadata, &format!("protoc-bin-vendored-{system}-"))
        .map(|dir| dir.join("bin").join(format!("protoc{}", env::consts::EXE_SUFFIX)))
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            Failure(format!("no protoc comes for {system}: install protobuf's compiler, or point PROTOC at one"))
        })?;
    machine.set_protoc(protoc);
    Ok(())
}

/// The folder of the package whose folder's name begins with `package` and a version, out of cargo's metadata.
fn manifest_dir(metadata: &str, package: &str) -> Option<PathBuf> {
    metadata
        .split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|path| PathBuf::from(path.replace("\\\\", "\\")))
        .filter_map(|path| path.parent().map(Path::to_owned))
        .find(|dir| {
            dir.file_name()
                .and_then(|name| name.to_str()?.strip_prefix(package))
                .is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        })
}

/// etcd and etcdctl.
pub fn etcd(machine: &Machine) -> Outcome<()> {
    packages(
        machine,
        &["etcd", "etcdctl"],
        &["etcd-server", "etcd-client"],
        "`brew install etcd` on macOS, `apt-get install etcd-server etcd-client` on Debian, or https://github.com/etcd-io/etcd/releases",
    )
}

/// A Chromium with its driver.
pub fn browser(machine: &Machine) -> Outcome<()> {
    let missing =
        if on_path("google-chrome").is_some() { &["chromedriver"][..] } else { &["chromium", "chromedriver"] };
    packages(
        machine,
        missing,
        &["chromium", "chromium-driver"],
        "`brew install chromium chromedriver` on macOS, `apt-get install chromium chromium-driver` on Debian",
    )
}

/// Node, which runs the npm package in tests. Debian 12 has 18, which is too old to be installed unasked.
pub fn node(machine: &Machine) -> Outcome<()> {
    const WANTED: u32 = 20;
    let mut node = machine.command("node");
    node.arg("--version");
    let found = on_path("node").and_then(|_| step::output(node).ok()).unwrap_or_default();
    let major = found.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= WANTED) {
        return Ok(());
    }
    let what = if major.is_some() { "too old" } else { "missing" };
    Err(Failure(format!(
        "Node >= {WANTED} is {what}, which runs the npm package: `apt-get install nodejs npm` from Debian 13 on (12 has 18), \
         `brew install node`, or https://nodejs.org"
    )))
}

/// axe-core, which the tests look at the page with: the version and checksum of `tests/assets/axe`.
pub fn axe(machine: &Machine) -> Outcome<PathBuf> {
    npm_package(machine, "axe", "axe-core", &["axe.min.js"])
}

/// TypeScript's compiler, which the tests check the npm package's types with: as `tests/assets/typescript` has it.
pub fn typescript(machine: &Machine) -> Outcome<PathBuf> {
    npm_package(machine, "typescript", "typescript", &["lib", "tsc.js"])
}

/// A file of a package from npm's registry as its user has it set, pinned by `tests/assets/PINNED`.
fn npm_package(machine: &Machine, pinned: &str, package: &str, file: &[&str]) -> Outcome<PathBuf> {
    let pinned = machine.root().join("tests").join("assets").join(pinned);
    let manifest =
        fs::read_to_string(pinned.join("package.json")).map_err(|error| Failure(format!("{package}: {error}")))?;
    let version = manifest
        .split_once(&format!("\"{package}\": \""))
        .and_then(|(_, rest)| rest.split('"').next())
        .ok_or_else(|| Failure(format!("{} names no {package}", pinned.display())))?;
    let root = tools_dir()?.join(format!("{package}-{version}"));
    let wanted = file.iter().fold(root.join("node_modules").join(package), |path, part| path.join(part));
    if wanted.is_file() {
        return Ok(wanted);
    }
    if on_path("npm").is_none() {
        return Err(Failure(format!(
            "npm is missing, which fetches {package}: `apt-get install npm`, `brew install node`, or https://nodejs.org"
        )));
    }
    let copied = fs::create_dir_all(&root).and_then(|()| {
        ["package.json", "package-lock.json"]
            .iter()
            .try_for_each(|file| fs::copy(pinned.join(file), root.join(file)).map(drop))
    });
    copied.map_err(|error| Failure(format!("{}: {error}", root.display())))?;
    // It compares what it gets with the checksum in the lock file.
    let mut npm = machine.command("npm");
    npm.current_dir(&root).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    step::run(&format!("installing {package} {version} into {}", root.display()), npm)?;
    Ok(wanted)
}

fn packages(machine: &Machine, programs: &[&str], debian: &[&str], elsewhere: &str) -> Outcome<()> {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| on_path(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let failure = || Failure(format!("{} missing: {elsewhere}", missing.join(" and ")));
    on_path("apt-get").ok_or_else(failure)?;
    apt_install(machine, as_root(machine).ok_or_else(failure)?, debian).map_err(|_| failure())?;
    if programs.iter().all(|program| on_path(program).is_some()) { Ok(()) } else { Err(failure()) }
}

fn apt_install(machine: &Machine, root: fn(&Machine, &str) -> Command, debian: &[&str]) -> Outcome<()> {
    let mut update = root(machine, "apt-get");
    update.args(["update", "--quiet"]);
    step::run("apt-get update", update)?;
    let mut install = root(machine, "apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(debian);
    step::run(&format!("apt-get install {}", debian.join(" ")), install)
}

/// How a program can be run as root without asking anybody, if it can.
fn as_root(machine: &Machine) -> Option<fn(&Machine, &str) -> Command> {
    fn direct(machine: &Machine, program: &str) -> Command {
        let mut command = machine.command(program);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
    fn by_sudo(machine: &Machine, program: &str) -> Command {
        let mut sudo = machine.command("sudo");
        sudo.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", program]);
        sudo
    }
    let mut id = machine.command("id");
    id.arg("-u");
    if step::output(id).is_ok_and(|id| id.trim() == "0") {
        return Some(direct);
    }
    let mut sudo = machine.command("sudo");
    sudo.args(["-n", "true"]);
    step::output(sudo).is_ok().then_some(by_sudo as fn(&Machine, &str) -> Command)
}

/// nchan (a module of nginx) and pushpin, which `bench hubs` compares with. The benchmark says itself what is missing.
pub fn hubs(machine: &Machine) {
    const FILES: [&str; 2] = ["/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/lib/pushpin/internal.conf"];
    if FILES.iter().all(|file| Path::new(file).is_file()) || on_path("apt-get").is_none() {
        return;
    }
    let Some(root) = as_root(machine) else { return };
    let fresh = on_path("nginx").is_none() && !Path::new("/usr/sbin/nginx").is_file();
    if let Err(Failure(why)) = apt_install(machine, root, &["nginx", "libnginx-mod-nchan", "pushpin"]) {
        step::say(&why);
    }
    // Debian starts what it installs; the benchmark starts its own, on loopback.
    if fresh && on_path("systemctl").is_some() {
        let mut stop = root(machine, "systemctl");
        stop.args(["disable", "--now", "nginx", "pushpin", "zurl"]);
        drop(step::output(stop));
    }
}

/// Go, which builds what is compared with. From 1.21 on it fetches the version that a `go.mod` names by itself.
pub fn go(machine: &Machine) -> Outcome<()> {
    const WANTED: (u32, u32) = (1, 21);
    let mut go = machine.command("go");
    go.arg("version");
    let told = on_path("go").and_then(|_| step::output(go).ok());
    // `go version go1.26.0 linux/amd64`; others than releases are taken to be new.
    let version = told.as_deref().and_then(|told| {
        let mut numbers = told.split_whitespace().nth(2)?.strip_prefix("go")?.split('.');
        // A release candidate is `1.21rc2`.
        let minor = |text: &str| text.split(|char: char| !char.is_ascii_digit()).next()?.parse::<u32>().ok();
        Some((numbers.next()?.parse::<u32>().ok()?, minor(numbers.next()?)?))
    });
    let what = match (told, version) {
        (None, _) => "missing",
        (Some(_), Some(version)) if version < WANTED => "too old",
        _ => return Ok(()),
    };
    let (major, minor) = WANTED;
    Err(Failure(format!(
        "Go is {what}, and >= {major}.{minor} is wanted: https://go.dev/dl, `brew install go`, `apt-get install golang-go` from Debian 13 on \
         (12 has 1.19, and a newer one in its backports)"
    )))
}

/// etcd 3.6 built from its source, where there is a Go to do so: what `bench` compares with. Debian's is 3.4. Where it
/// cannot be built, that is said, and the etcd on the PATH has to do.
pub fn etcd36(machine: &Machine) -> Option<PathBuf> {
    let built = machine.target().join("etcd-3.6").join("etcd");
    if built.is_file() {
        step::skip("etcd 3.6 for the comparison");
        return Some(built);
    }
    let mut go = machine.command("go");
    go.current_dir(machine.root().join("tests").join("etcd36"));
    go.args(["build", "-trimpath", "-o"]).arg(&built).arg(".");
    let outcome = self::go(machine).and_then(|()| step::run("building etcd 3.6 for the comparison", go));
    if let Err(Failure(why)) = &outcome {
        step::say(&format!("{why}; the etcd on the PATH is compared with"));
    }
    outcome.is_ok().then_some(built)
}
