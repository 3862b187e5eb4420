//! Generates the gRPC stubs of `proto/wire` over the messages that `flotilla-proto` holds.

use std::error::Error;

const WIRE: &str = "../proto/wire";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={WIRE}");
    let descriptors = protox::compile(["manager.proto", "scheduler.proto"], [WIRE])?;
    tonic_prost_build::configure()
        .extern_path(".flotilla.manager.v1", "::flotilla_proto::wire::manager")
        .extern_path(".flotilla.scheduler.v1", "::flotilla_proto::wire::scheduler")
        // Our channels are made by `rpc::channel`; the generated `connect` would bypass mTLS.
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
