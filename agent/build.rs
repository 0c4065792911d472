//! How the agent is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // It lives in the memory of every guest. The relocations of a program that may be loaded
    // anywhere are a sixteenth of it; in their packed form (DT_RELR, which musl's start-up code
    // applies) next to nothing.
    let musl = std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|environment| environment == "musl");
    if musl {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/no-unwind-tables.ld");
        println!("cargo:rerun-if-changed={script}");
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{script}");
    }
}
