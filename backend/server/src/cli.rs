//! The commands beside the server.

pub mod deregister;
pub mod listing;
pub mod register;
