//! The dashboard's WebAssembly in parts: what the first row needs, and what comes later, both in one memory.
//!
//! The compiler marks what is drawn later (`frontend/dashboard/src/components/later.rs`); wasm-split-cli takes it and all
//! that nothing else calls out of the program, and wasm-bindgen binds what stays. Trunk knows no such step, so what it
//! bound is put in place of here. Must not know: what the parts draw.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use crate::{
    dist::at,
    machine::Machine,
    step::{self, Failure, Outcome},
    tools::WASM_TARGET,
};

/// The name of the program, of what Trunk makes of it, and of its parts.
const PAGE: &str = "rollcall-dashboard";

/// What wasm-split-cli calls the script that loads parts.
const LOADER: &str = "__wasm_split.js";

/// Puts the program in parts in the place of the whole one that Trunk left in `dist`.
pub fn split(machine: &Machine, dist: &Path) -> Outcome<()> {
    let program = machine.target().join(WASM_TARGET).join("wasm-release").join(format!("{PAGE}.wasm"));
    let parts = machine.target().join("xtask").join("split");
    if parts.exists() {
        fs::remove_dir_all(&parts).map_err(|error| at(&parts, &error))?;
    }
    let bound = parts.join("bound");
    fs::create_dir_all(&bound).map_err(|error| at(&bound, &error))?;
    let mut split = machine.command("wasm-split-cli");
    split.arg(&program).arg(&parts).args(["--target", "web", "--out-name", PAGE]);
    step::run("wasm-split-cli", split)?;
    let mut bind = machine.command("wasm-bindgen");
    bind.args(["--target", "web", "--no-typescript", "--remove-name-section", "--remove-producers-section"]);
    bind.args(["--keep-lld-exports", "--out-name", PAGE, "--out-dir"]).arg(&bound);
    step::run("wasm-bindgen", {
        bind.arg(parts.join(format!("{PAGE}.wasm")));
        bind
    })?;
    step::timed("putting the parts in place", || place(&parts, &bound, dist))
}

fn place(parts: &Path, bound: &Path, dist: &Path) -> Outcome<()> {
    let script = join(&text(&bound.join(format!("{PAGE}.js")))?, &text(&parts.join(LOADER))?)?;
    let (script, first) = with_short_names(&script, &bytes(&bound.join(format!("{PAGE}_bg.wasm")))?)?;
    let mut later = Vec::new();
    for path in listed(parts)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.starts_with("split_") || name.starts_with("chunk_") {
            later.push((name, without_names(&bytes(&path)?)?));
        }
    }
    if later.is_empty() {
        return Err(Failure(
            "the dashboard has no part that comes later: was it built with its feature `split`?".into(),
        ));
    }
    // They fit only each other, so they share one name.
    let mut hasher = DefaultHasher::new();
    (&script, &first, &later).hash(&mut hasher);
    let hash = format!("{:016x}", hasher.finish());
    let stem = format!("{PAGE}-{hash}");

    let page = dist.join("index.html");
    let mut html = text(&page)?;
    for path in listed(dist)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(whole) = name.strip_suffix("_bg.wasm").filter(|name| name.starts_with(PAGE)) {
            html = html.replace(whole, &stem);
            for file in [path.clone(), dist.join(format!("{whole}.js"))] {
                fs::remove_file(&file).map_err(|error| at(&file, &error))?;
            }
        }
    }
    let mut script = script.replace(&format!("{PAGE}_bg.wasm"), &format!("{stem}_bg.wasm"));
    for (name, part) in &later {
        let hashed = format!("{}-{hash}.wasm", name.trim_end_matches(".wasm"));
        script = script.replace(&format!("./{name}"), &format!("./{hashed}"));
        put(&dist.join(hashed), part)?;
    }
    put(&dist.join(format!("{stem}_bg.wasm")), &first)?;
    put(&dist.join(format!("{stem}.js")), script.as_bytes())?;
    put(&page, html.as_bytes())
}

/// The script that binds the program and the one that loads its parts as one file, so that neither waits for the other.
fn join(binding: &str, loader: &str) -> Outcome<String> {
    let unknown =
        |line: &str| Failure(format!("wasm-bindgen or wasm-split-cli wrote a line of an unknown kind: {line}"));
    let mut script = String::new();
    let mut imported = None;
    for line in binding.lines() {
        match line.strip_prefix("import * as ").and_then(|rest| rest.split_once(" from ")) {
            Some((name, from)) if from.contains(LOADER) => imported = Some(name.to_owned()),
            _ if line.starts_with("import ") => return Err(unknown(line)),
            _ => push(&mut script, line),
        }
    }
    let mut loads = Vec::new();
    for line in loader.lines() {
        match line.strip_prefix("export const ") {
            Some(constant) => {
                loads.push(constant.split(' ').next().unwrap_or_default());
                push(&mut script, &format!("const {constant}"));
            }
            None if line.starts_with("import { initSync } from ") => {}
            None if line.starts_with("import ") || line.starts_with("export ") => return Err(unknown(line)),
            None => push(&mut script, line),
        }
    }
    let imported = imported.ok_or_else(|| unknown("no import of the loader"))?;
    push(&mut script, &format!("const {imported} = {{ {} }};", loads.join(", ")));
    Ok(script)
}

/// A line of a script, without what only people read.
pub fn push(script: &mut String, line: &str) {
    let line = line.trim();
    let is_comment =
        line.starts_with("//") || line.starts_with("/*") || line.starts_with("* ") || line == "*/" || line == "*";
    if !line.is_empty() && !is_comment {
        script.push_str(line);
        script.push('\n');
    }
}

/// The script and the module that it binds, with a short name for each function that the one lends the other: with their
/// hashes, which nothing compresses, the names are a fifth of the script.
fn with_short_names(script: &str, module: &[u8]) -> Outcome<(String, Vec<u8>)> {
    let mut short = BTreeMap::new();
    let mut named = module.get(..HEADER_BYTES).ok_or_else(broken)?.to_vec();
    for Section { kind, whole, body } in sections(module)? {
        if kind == IMPORTS {
            let body = renamed(body, &mut short).ok_or_else(broken)?;
            named.push(IMPORTS);
            number(body.len(), &mut named);
            named.extend_from_slice(&body);
        } else {
            named.extend_from_slice(whole);
        }
    }
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '$';
    let mut bound = String::new();
    let mut rest = script;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(|char| !is_name(char)).unwrap_or(rest.len()));
        bound.push_str(short.get(word).map_or(word, String::as_str));
        let (between, after) = after.split_at(after.find(is_name).unwrap_or(after.len()));
        bound.push_str(between);
        rest = after;
    }
    Ok((bound, named))
}

/// A section of imports with a short name for each function out of wasm-bindgen's own script; they go into `short`.
fn renamed(body: &[u8], short: &mut BTreeMap<String, String>) -> Option<Vec<u8>> {
    const FUNCTION: u8 = 0;
    let (count, mut rest) = read_number(body)?;
    let mut out = Vec::new();
    number(count, &mut out);
    for _ in 0..count {
        let (from, after) = read_name(rest)?;
        let (name, after) = read_name(after)?;
        let (&FUNCTION, after) = after.split_first()? else { return None };
        let (function, after) = read_number(after)?;
        let count = short.len();
        let name = if from.ends_with(LOADER) {
            name
        } else {
            short.entry(name.to_owned()).or_insert_with(|| format!("${count}"))
        };
        for text in [from, name] {
            number(text.len(), &mut out);
            out.extend_from_slice(text.as_bytes());
        }
        out.push(FUNCTION);
        number(function, &mut out);
        rest = after;
    }
    rest.is_empty().then_some(out)
}

/// A module without its custom sections: names, for the most part.
fn without_names(module: &[u8]) -> Outcome<Vec<u8>> {
    let mut out = module.get(..HEADER_BYTES).ok_or_else(broken)?.to_vec();
    for Section { kind, whole, .. } in sections(module)? {
        if kind != CUSTOM {
            out.extend_from_slice(whole);
        }
    }
    Ok(out)
}

/// What a module of WebAssembly begins with: the magic and the version.
const HEADER_BYTES: usize = 8;

/// The kind of a section of names and the like, which no engine needs.
const CUSTOM: u8 = 0;

/// The kind of the section of imports.
const IMPORTS: u8 = 2;

/// A section of a module.
struct Section<'a> {
    kind: u8,
    /// All of it, with its kind and length.
    whole: &'a [u8],
    body: &'a [u8],
}

fn sections(module: &[u8]) -> Outcome<Vec<Section<'_>>> {
    let mut rest = module.get(HEADER_BYTES..).ok_or_else(broken)?;
    let mut sections = Vec::new();
    while let Some((&kind, after)) = rest.split_first() {
        let (len, after) = read_number(after).ok_or_else(broken)?;
        let (body, after) = after.split_at_checked(len).ok_or_else(broken)?;
        sections.push(Section { kind, whole: &rest[..rest.len() - after.len()], body });
        rest = after;
    }
    Ok(sections)
}

fn broken() -> Failure {
    Failure("wasm-split-cli or wasm-bindgen wrote a module of an unknown kind".into())
}

/// A number as WebAssembly has it, seven bits a byte, and what comes after it.
fn read_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().take(5).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at(end + 1);
    Some((number.iter().rev().fold(0, |number, byte| number << 7 | usize::from(byte & 0x7f)), rest))
}

fn read_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = read_number(bytes)?;
    let (name, rest) = rest.split_at_checked(len)?;
    Some((str::from_utf8(name).ok()?, rest))
}

fn number(mut number: usize, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(u8::try_from(number & 0x7f).expect("it is seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("it is seven bits"));
}

/// What stands in a folder, in the order of its names.
pub fn listed(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(|error| at(dir, &error))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(|error| at(dir, &error)))
        .collect::<Outcome<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn text(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| at(path, &error))
}

fn bytes(path: &Path) -> Outcome<Vec<u8>> {
    fs::read(path).map_err(|error| at(path, &error))
}

fn put(path: &Path, bytes: &[u8]) -> Outcome<()> {
    fs::write(path, bytes).map_err(|error| at(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_scripts_become_one() {
        let binding = "/* @ts-self-types */\nimport * as import1 from \"./__wasm_split.js\"\n\n/**\n * A doc.\n */\n\
            function imports() {\n    return { \"./__wasm_split.js\": import1 };\n}\nexport { init as default };\n";
        let loader = "import { initSync } from \"./page.js\";\n// why\nexport const __wasm_split_load_later = load(() => {\n\
            \x20   fetch(\"./split_later.wasm\");\n});\n";
        assert_eq!(
            join(binding, loader).unwrap(),
            "function imports() {\nreturn { \"./__wasm_split.js\": import1 };\n}\nexport { init as default };\n\
             const __wasm_split_load_later = load(() => {\nfetch(\"./split_later.wasm\");\n});\n\
             const import1 = { __wasm_split_load_later };\n"
        );
        assert!(join("function imports() {}\n", loader).is_err());
        assert!(join("import x from \"./else.js\"\n", loader).is_err());
    }

    #[test]
    fn names_are_left_out_of_a_module() {
        let header = *b"\0asm\x01\0\0\0";
        let named = [&header[..], &[1, 2, 9, 9], &[0, 0x83, 0x00, 7, 7, 7], &[10, 1, 5]].concat();
        assert_eq!(without_names(&named).unwrap(), [&header[..], &[1, 2, 9, 9], &[10, 1, 5]].concat());
        assert!(without_names(&named[..named.len() - 1]).is_err());
    }

    #[test]
    fn what_script_and_module_lend_each_other_has_a_short_name() {
        let import = |from: &str, name: &str, function: u8| {
            let mut out = vec![u8::try_from(from.len()).unwrap()];
            out.extend_from_slice(from.as_bytes());
            out.push(u8::try_from(name.len()).unwrap());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&[0, function]);
            out
        };
        let module = |names: [&str; 2]| {
            let bodies =
                [vec![3], import("./b.js", names[0], 7), import("./b.js", names[1], 8), import(LOADER, "load", 9)];
            let body = bodies.concat();
            [&b"\0asm\x01\0\0\0"[..], &[2, u8::try_from(body.len()).unwrap()], &body, &[10, 1, 5]].concat()
        };
        let script = "const b = { __wbg_a_1: function() { x.__wbg_a; }, __wbg_a: f };\nload";
        let (bound, named) = with_short_names(script, &module(["__wbg_a_1", "__wbg_a"])).unwrap();
        assert_eq!(bound, "const b = { $0: function() { x.$1; }, $1: f };\nload");
        assert_eq!(named, module(["$0", "$1"]));
        assert!(with_short_names(script, &module(["__wbg_a_1", "__wbg_a"])[..40]).is_err());
    }
}
