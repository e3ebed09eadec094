//! The parts of the page.

pub mod activity;
pub mod announcer;
pub mod batch;
pub mod dialog;
pub mod edit;
pub mod element;
pub mod empty;
pub mod folded;
pub mod form;
pub mod instances;
pub mod later;
pub mod palette;
pub mod row;
pub mod scroll;
pub mod services;
pub mod sheet;
pub mod toasts;
pub mod top;
