//! What stands in the middle of the page: everything, or one service.

pub mod overview;
pub mod service;
