//! Takes the dashboard's files out of `dist/` into the program, each also as brotli where that is smaller. Where they
//! were not built, the program says so on its page instead.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../dist");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    files.sort();
    let mut table = String::from("static FILES: &[File] = &[\n");
    for (index, (path, name)) in files.iter().enumerate() {
        println!("cargo:rerun-if-changed={}", path.display());
        let bytes = fs::read(path).expect("a file of dist/ can be read");
        let packed = brotli(&bytes);
        let copy = out.join(format!("asset-{index}"));
        fs::write(&copy, &bytes).expect("OUT_DIR can be written to");
        let packed_as = if packed.len() < bytes.len() && name != "index.html" {
            let copy = out.join(format!("asset-{index}.br"));
            fs::write(&copy, &packed).expect("OUT_DIR can be written to");
            format!("Some(include_bytes!({:?}))", copy.to_string_lossy())
        } else {
            "None".to_owned()
        };
        let copy = copy.to_string_lossy();
        writeln!(table, "    File {{ name: {name:?}, bytes: include_bytes!({copy:?}), brotli: {packed_as} }},")
            .expect("a String takes every line");
    }
    table += "];\n";
    fs::write(out.join("files.rs"), table).expect("OUT_DIR can be written to");
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("dist/ can be listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            // Trunk's own stage while it builds.
            if !name.starts_with('.') {
                collect(root, &path, files);
            }
        } else if !name.starts_with('.') {
            let inside = path.strip_prefix(root).expect("it was found below").to_string_lossy().replace('\\', "/");
            files.push((path, inside));
        }
    }
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut writer = brotli::CompressorWriter::new(&mut packed, 64 * 1024, 11, 22);
    writer.write_all(bytes).expect("a Vec takes every byte");
    writer.flush().expect("a Vec takes every byte");
    drop(writer);
    packed
}
