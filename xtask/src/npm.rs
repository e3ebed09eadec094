//! The npm package: the registry client's WebAssembly, what binds it, and the scripts around both.
//!
//! Owns: `target/npm/rollcall/`, which is all that is published. Must not know: what the scripts do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    dist::{at, state_of_sources},
    machine::Machine,
    split::{listed, push},
    step::{self, Failure, Outcome},
    tools::{self, WASM_TARGET},
};

/// What the package is made of.
const SOURCES: [&str; 9] = [
    "frontend/client",
    "frontend/wasm-streams",
    "shared",
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "rust-toolchain.toml",
    "xtask/src/npm.rs",
    "xtask/src/split.rs",
];

/// The name of the WebAssembly, and of the script that binds it.
const NAME: &str = "rollcall_client";

/// Builds the package, where its sources changed since it was built last, and gives its folder.
pub fn build(machine: &mut Machine) -> Outcome<PathBuf> {
    let package = machine.target().join("npm").join("rollcall");
    let stamp = machine.target().join("xtask").join("npm.stamp");
    let state = state_of_sources(machine.root(), &SOURCES)?;
    if package.join("package.json").is_file() && fs::read_to_string(&stamp).is_ok_and(|built| built == state) {
        step::skip("the npm package");
        return Ok(package);
    }
    // Should the work be cut short, or not even begin for want of a tool, what stands there must not pass for finished.
    for path in [&stamp, &package] {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.or_else(|error| if path.exists() { Err(at(path, &error)) } else { Ok(()) })?;
    }
    tools::wasm_target(machine)?;
    tools::wasm_bindgen(machine)?;
    let mut cargo = machine.cargo();
    cargo.args(["rustc", "--package", "rollcall-client", "--lib", "--crate-type", "cdylib", "--features", "js"]);
    cargo.args(["--profile", "wasm-release", "--target", WASM_TARGET, "--locked"]);
    step::run("cargo rustc --package rollcall-client --features js", cargo)?;
    let bound = machine.target().join("xtask").join("npm");
    let mut bind = machine.command("wasm-bindgen");
    bind.args(["--target", "web", "--no-typescript", "--remove-name-section", "--remove-producers-section"]);
    bind.args(["--out-name", NAME, "--out-dir"]).arg(&bound);
    bind.arg(machine.target().join(WASM_TARGET).join("wasm-release").join(format!("{NAME}.wasm")));
    step::run("wasm-bindgen", bind)?;
    step::timed("putting the npm package together", || assemble(machine, &bound, &package))?;
    fs::create_dir_all(stamp.parent().unwrap_or(machine.target())).map_err(|error| at(&stamp, &error))?;
    fs::write(&stamp, &state).map_err(|error| at(&stamp, &error))?;
    Ok(package)
}

/// What an app loads of the package, in bytes of brotli, where there is a Node to ask.
pub fn brotli_bytes(machine: &Machine, package: &Path) -> Option<String> {
    const SCRIPT: &str = "const [fs, zlib] = [require('fs'), require('zlib')];\
        const size = (file) => zlib.brotliCompressSync(fs.readFileSync(file)).length;\
        console.log(process.argv.slice(1).reduce((sum, file) => sum + size(file), 0))";
    let mut node = machine.command("node");
    node.current_dir(package).args(["-e", SCRIPT, &format!("{NAME}_bg.wasm"), &format!("{NAME}.js")]);
    node.args(["rollcall.js", "index.js"]);
    step::output(node).ok().map(|bytes| bytes.trim().to_owned())
}

fn assemble(machine: &Machine, bound: &Path, package: &Path) -> Outcome<()> {
    fs::create_dir_all(package).map_err(|error| at(package, &error))?;
    let copy = |from: &Path| {
        let to = package.join(from.file_name().unwrap_or_default());
        fs::copy(from, &to).map(drop).map_err(|error| at(from, &error))
    };
    for path in listed(&machine.root().join("frontend").join("client").join("npm"))? {
        copy(&path)?;
    }
    copy(&machine.root().join("LICENSE"))?;
    copy(&bound.join(format!("{NAME}_bg.wasm")))?;
    let script = bound.join(format!("{NAME}.js"));
    let mut binding = String::new();
    for line in fs::read_to_string(&script).map_err(|error| at(&script, &error))?.lines() {
        push(&mut binding, line);
    }
    put(&package.join(format!("{NAME}.js")), &binding)?;
    // The package's version is the workspace's.
    let manifest = package.join("package.json");
    let text = fs::read_to_string(&manifest).map_err(|error| at(&manifest, &error))?;
    let version = machine.locked_version("rollcall-client")?;
    let unset = "\"version\": \"0.0.0\"";
    if !text.contains(unset) {
        return Err(Failure(format!("{}: a line {unset} is wanted, in the place of the version", manifest.display())));
    }
    put(&manifest, &text.replace(unset, &format!("\"version\": \"{version}\"")))
}

fn put(path: &Path, text: &str) -> Outcome<()> {
    fs::write(path, text).map_err(|error| at(path, &error))
}
