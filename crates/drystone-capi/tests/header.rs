//! `include/drystone.h` is what the source says. `DRYSTONE_WRITE_HEADER=1 cargo test -p drystone-capi
//! --test header` writes it anew.

use std::fs;
use std::path::Path;

/// The files that declare something, in the order in which the header is read.
const FILES: [&str; 14] = [
    "version.rs",
    "status.rs",
    "config.rs",
    "allocator.rs",
    "process.rs",
    "blocks.rs",
    "pools.rs",
    "limits.rs",
    "callbacks.rs",
    "stats.rs",
    "text.rs",
    "snapshot.rs",
    "history.rs",
    "sharing.rs",
];
/// At the end, as they are for torch only.
const TORCH: &str = "torch/mod.rs";

#[test]
fn the_committed_header_is_what_the_source_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("a valid file");
    let sources = FILES.iter().chain([&TORCH]).map(|name| root.join("src").join(name));
    // Not by the crate: for that, cbindgen would ask cargo, which may want the network.
    let builder = sources
        .fold(cbindgen::Builder::new().with_config(config), |builder, path| builder.with_src(path));
    let mut header = Vec::new();
    builder.generate().expect("the source is readable").write(&mut header);
    let header = String::from_utf8(header).expect("UTF-8");
    let path = root.join("include/drystone.h");
    if std::env::var_os("DRYSTONE_WRITE_HEADER").is_some() {
        fs::write(&path, &header).expect("the header can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let differs = header.lines().zip(committed.lines()).position(|(new, old)| new != old);
    assert!(
        header == committed,
        "include/drystone.h differs from line {} on: run this test with DRYSTONE_WRITE_HEADER=1 and \
         commit the file",
        differs.map_or(header.lines().count().min(committed.lines().count()), |line| line + 1),
    );
}

#[test]
fn every_file_that_exports_is_in_the_header() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for folder in ["", "torch"] {
        for entry in fs::read_dir(source.join(folder)).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                continue;
            }
            let exports = fs::read_to_string(&path).expect("text").contains("#[unsafe(no_mangle)]");
            let name = path.strip_prefix(&source).expect("below").to_str().expect("UTF-8");
            let listed = name == TORCH || FILES.contains(&name);
            assert!(!exports || listed, "{name} exports functions: add it to FILES");
        }
    }
}
