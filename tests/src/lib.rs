//! The harness for tests that cross a crate: a real etcd, the real server, a real browser, and faults between them.
//!
//! Owns: starting and ending these, speaking to them, and waiting with a deadline. Must not know: what the contract
//! says; that stands in `tests/`. A missing etcd or browser fails with the command that installs it.
#![expect(clippy::missing_panics_doc, reason = "a harness tells what is wrong by panicking")]

pub mod browser;
pub mod cryptography;
pub mod etcd;
pub mod example;
pub mod faults;
pub mod http;
pub mod process;
pub mod proxy;
pub mod server;
pub mod sse;
pub mod wait;

pub use browser::Browser;
pub use etcd::{Cluster, Etcd};
pub use example::example;
pub use http::Answer;
pub use process::Process;
pub use proxy::FaultProxy;
pub use server::Server;
pub use sse::{Follower, Frame, Message, RawSse, SseClient};
pub use wait::{eventually, seconds};

/// Whether `cargo xtask test --long` asked for the slow tests too.
pub fn long() -> bool {
    std::env::var_os("ROLLCALL_TEST_LONG").is_some()
}

/// A kratos value of the named service, as its own registry writes it.
pub fn kratos(name: &str, id: &str, endpoint: &str) -> String {
    format!(r#"{{"id":"{id}","name":"{name}","version":"v1","metadata":{{"zone":"a"}},"endpoints":["{endpoint}"]}}"#)
}
