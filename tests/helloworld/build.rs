//! Makes Rust of the greeter's protocol. The compiler `protoc` is found as etcd-client's build finds it: by `PROTOC`, or on the path.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["proto/helloworld.proto"], &["proto"])
}
