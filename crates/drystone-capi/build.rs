//! How the shared library is linked: its soname, and that it stays loaded once it is.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    // The number is the ABI's: it changes when programs have to be compiled again.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdrystone.so.0");
    // Threads may still hold its thread-local state, and drivers its callbacks, after a dlclose.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
