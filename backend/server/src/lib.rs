//! Rollcall: a console for service registries on etcd. The library of the program `rollcall`.
//!
//! `feed` drives the `mirror` from etcd, `sse` and `routes` serve from it, `serve` holds the sockets.

pub mod assets;
pub mod batch;
pub mod cli;
pub mod config;
pub mod dev;
pub mod direct;
pub mod edit;
pub mod fanout;
mod faults;
pub mod feed;
pub mod guard;
pub mod kept;
pub mod metrics;
pub mod mirror;
pub mod problem;
mod process;
pub mod register;
pub mod routes;
pub mod run;
pub mod serve;
pub mod sse;
pub mod undo;
