//! Compiles the messages of `wire/` in pure Rust: no protoc on the machine.

use std::error::Error;

const FILES: [&str; 3] = ["wire/manager.proto", "wire/peer.proto", "wire/scheduler.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=wire");
    let descriptors = protox::compile(FILES, ["wire"])?;
    prost_build::Config::new().bytes(["."]).skip_debug(SECRETS).compile_fds(descriptors)?;
    Ok(())
}

/// Messages that carry a secret: their `Debug` is written by hand and redacts.
const SECRETS: [&str; 6] = [
    "flotilla.manager.v1.EnrollRequest",
    "flotilla.manager.v1.CreateTokenReply",
    "flotilla.manager.v1.JoinToken",
    "flotilla.peer.v1.Credential",
    "flotilla.peer.v1.Forward",
    "flotilla.peer.v1.Header",
];
