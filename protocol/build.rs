//! Generates the message and ttrpc types from `proto/`, in pure Rust (no `protoc`).

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() {
    println!("cargo:rerun-if-changed=proto");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    Codegen::new()
        .out_dir(&out)
        .inputs(["proto/agent.proto", "proto/sandbox.proto"])
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false))
        .customize(Customize {
            async_all: true,
            ..Default::default()
        })
        .run()
        .expect("the files in proto/ compile");
    // The generated files carry inner attributes, so they must be modules of their own, not
    // included text; a module list beside them makes them so.
    std::fs::write(
        std::path::Path::new(&out).join("mod.rs"),
        "pub mod agent;\npub mod agent_ttrpc;\npub mod sandbox;\npub mod sandbox_ttrpc;\n",
    )
    .expect("OUT_DIR is writable");
}
