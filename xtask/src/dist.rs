//! The dashboard's files in `dist/`: Trunk makes them, and what a strict Content-Security-Policy forbids is moved out.
//!
//! binaryen's wasm-opt is left out on purpose: after `opt-level = "z"` it saves less than 1 % of what goes over the
//! wire, and the one in Debian 12 (108) exports the wrong table, so that the page does not start.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    machine::Machine,
    split,
    step::{self, Failure, Outcome},
    tools,
};

/// What the dashboard is made of.
const SOURCES: [&str; 7] =
    ["frontend", "shared", "Cargo.toml", "Cargo.lock", "Trunk.toml", "xtask/src/dist.rs", "xtask/src/split.rs"];

/// Builds `dist/`, where its sources changed since it was built last.
pub fn build(machine: &mut Machine) -> Outcome<()> {
    let stamp = machine.target().join("xtask").join("dist.stamp");
    let state = state_of_sources(machine.root(), &SOURCES)?;
    let dist = machine.root().join("dist");
    if dist.join("index.html").is_file() && fs::read_to_string(&stamp).is_ok_and(|built| built == state) {
        step::skip("the dashboard");
        return Ok(());
    }
    tools::wasm_target(machine)?;
    tools::page_tools(machine)?;
    // Should the work be cut short, what stands in dist/ must not pass for finished.
    if stamp.exists() {
        fs::remove_file(&stamp).map_err(|error| at(&stamp, &error))?;
    }
    // Trunk is kept from the network, lest it take tools of its own choice; so what the page is made of comes first.
    let mut fetch = machine.cargo();
    fetch.args(["fetch", "--locked"]);
    step::run("cargo fetch", fetch)?;
    let mut trunk = machine.command("trunk");
    trunk.args(["build", "--release", "--offline", "--locked", "--features", "split"]);
    // Trunk reads this variable as one of its own flags and takes nothing but true and false.
    trunk.env_remove("NO_COLOR");
    step::run("trunk build --release", trunk)?;
    split::split(machine, &dist)?;
    step::timed("making the page fit its Content-Security-Policy", || finish(&dist))?;
    write(&stamp, &state)
}

/// A line that changes whenever a source comes, goes or changes.
pub fn state_of_sources(root: &Path, sources: &[&str]) -> Outcome<String> {
    let mut files = Vec::new();
    for source in sources {
        walk(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn walk(path: &Path, files: &mut Vec<(PathBuf, u64, SystemTime)>) -> Outcome<()> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    if metadata.is_file() {
        let modified = metadata.modified().map_err(|error| at(path, &error))?;
        files.push((path.to_owned(), metadata.len(), modified));
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(|error| at(path, &error))? {
        let entry = entry.map_err(|error| at(path, &error))?;
        walk(&entry.path(), files)?;
    }
    Ok(())
}

fn finish(dist: &Path) -> Outcome<()> {
    let page = dist.join("index.html");
    let html = fs::read_to_string(&page).map_err(|error| at(&page, &error))?;
    let boot = move_boot_out(&html)?;
    write(&dist.join(&boot.name), &boot.script)?;
    write(&page, &boot.html)?;
    for path in split::listed(dist)? {
        if path.extension().is_some_and(|extension| extension == "css") {
            let styles = fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
            write(&path, &without_remarks(&styles))?;
        }
    }
    Ok(())
}

/// Styles without what only people read: comments, and blanks at the lines' beginnings.
fn without_remarks(styles: &str) -> String {
    let mut kept = String::new();
    let mut rest = styles;
    while let Some((before, after)) = rest.split_once("/*") {
        kept.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    kept.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// The page without its inline script, and that script with the file it goes to.
#[derive(Debug, PartialEq)]
struct Boot {
    html: String,
    name: String,
    script: String,
}

/// Moves Trunk's inline module, the one inline thing a page of it has, into a file of its own.
fn move_boot_out(html: &str) -> Outcome<Boot> {
    let (start, end, body) = scripts(html)
        .find(|(start, _, body)| {
            let tag = html[*start..].split('>').next().unwrap_or_default();
            !body.trim().is_empty() && tag.contains("type=\"module\"") && !tag.contains(" src=")
        })
        .ok_or_else(|| {
            Failure("dist/index.html holds no inline <script type=\"module\">: has Trunk changed?".into())
        })?;
    let script = relative_to_script(body.trim())?;
    let mut hasher = DefaultHasher::new();
    script.hash(&mut hasher);
    let name = format!("boot-{:016x}.js", hasher.finish());
    let html = format!("{}<script type=\"module\" src=\"{name}\"></script>{}", &html[..start], &html[end..]);
    if let Some(found) = inline(&html) {
        return Err(Failure(format!(
            "dist/index.html holds something inline, which its Content-Security-Policy forbids: {found}"
        )));
    }
    Ok(Boot { html, name, script: format!("{script}\n") })
}

/// Every script of the page: where it starts and ends, and its body.
fn scripts(html: &str) -> impl Iterator<Item = (usize, usize, &str)> {
    html.match_indices("<script").filter_map(move |(start, _)| {
        let body = start + html[start..].find('>')? + 1;
        let body_end = body + html[body..].find("</script>")?;
        Some((start, body_end + "</script>".len(), &html[body..body_end]))
    })
}

/// Makes the script find its files beside itself, wherever the page stands and whatever its `<base>` says.
fn relative_to_script(script: &str) -> Outcome<String> {
    let mut out = String::new();
    for line in script.lines() {
        let import = line.trim_start().starts_with("import ");
        let module = line.contains("module_or_path:");
        let line = if import || module {
            let (before, quote, path, after) = quoted(line)
                .ok_or_else(|| Failure(format!("the page's inline script has a line of an unknown kind: {line}")))?;
            let beside = format!("./{}", path.trim_start_matches("./").trim_start_matches('/'));
            if module && !line.contains("import.meta.url") {
                format!("{before}new URL({quote}{beside}{quote}, import.meta.url){after}")
            } else {
                format!("{before}{quote}{beside}{quote}{after}")
            }
        } else {
            line.to_owned()
        };
        out.push_str(&line);
        out.push('\n');
    }
    Ok(out.trim_end().to_owned())
}

/// The first quoted text of a line, between what stands before and after it.
fn quoted(line: &str) -> Option<(&str, char, &str, &str)> {
    let start = line.find(['\'', '"'])?;
    let quote = line[start..].chars().next()?;
    let end = start + 1 + line[start + 1..].find(quote)?;
    Some((&line[..start], quote, &line[start + 1..end], &line[end + 1..]))
}

/// What is inline in the page, if anything.
fn inline(html: &str) -> Option<String> {
    let shown = |at: usize| html[at..].chars().take(80).collect::<String>();
    if let Some(at) = html.find("<style").or_else(|| html.find(" style=")) {
        return Some(shown(at));
    }
    scripts(html).find(|(_, _, body)| !body.trim().is_empty()).map(|(start, ..)| shown(start))
}

fn write(path: &Path, text: &str) -> Outcome<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|error| at(dir, &error))?;
    }
    fs::write(path, text).map_err(|error| at(path, &error))
}

/// What went wrong at a file.
pub fn at(path: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "<html><head>\n<link rel=\"modulepreload\" href=\"./app-1.js\">\n<script type=\"module\">\n\
        import init, * as bindings from '/app-1.js';\n\
        const wasm = await init({ module_or_path: './app-1_bg.wasm' });\n\
        window.wasmBindings = bindings;\n</script></head><body></body></html>";

    #[test]
    fn the_inline_script_becomes_a_file_beside_what_it_loads() {
        let boot = move_boot_out(PAGE).unwrap();
        assert!(boot.html.contains(&format!("<script type=\"module\" src=\"{}\"></script></head>", boot.name)));
        assert_eq!(inline(&boot.html), None);
        assert!(boot.script.contains("from './app-1.js';"), "{}", boot.script);
        assert!(
            boot.script.contains("module_or_path: new URL('./app-1_bg.wasm', import.meta.url) }"),
            "{}",
            boot.script
        );
        assert_eq!(boot.name.len(), "boot-0123456789abcdef.js".len());
    }

    #[test]
    fn styles_lose_what_only_people_read() {
        let styles = "/* The\n   tokens. */\n:root {\n  --a: 1px; /* so */\n\n}\n\np { margin: 0 }\n";
        assert_eq!(without_remarks(styles), ":root {\n--a: 1px;\n}\np { margin: 0 }");
    }

    #[test]
    fn a_page_that_the_policy_would_break_is_refused() {
        assert!(move_boot_out("<html><script src=\"a.js\"></script></html>").is_err());
        for extra in ["<style>p{}</style>", "<p style=\"color:red\">", "<script>1</script>"] {
            assert!(move_boot_out(&PAGE.replace("<body>", &format!("<body>{extra}"))).is_err(), "{extra}");
        }
    }
}
