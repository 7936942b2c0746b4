//! `include/drystone.h` is what the source says. `DRYSTONE_WRITE_HEADER=1 cargo test -p drystone-capi
//! --test header` writes it anew.

use std::path::Path;

#[test]
fn the_committed_header_is_what_the_source_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("a valid file");
    let bindings = cbindgen::generate_with_config(root, config).expect("the source is readable");
    let mut header = Vec::new();
    bindings.write(&mut header);
    let header = String::from_utf8(header).expect("UTF-8");
    let path = root.join("include/drystone.h");
    if std::env::var_os("DRYSTONE_WRITE_HEADER").is_some() {
        std::fs::write(&path, &header).expect("the header can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = header.lines().zip(committed.lines()).position(|(new, old)| new != old);
    assert!(
        header == committed,
        "include/drystone.h differs from line {} on: run this test with DRYSTONE_WRITE_HEADER=1 and \
         commit the file",
        differs.map_or(header.lines().count().min(committed.lines().count()), |line| line + 1),
    );
}
