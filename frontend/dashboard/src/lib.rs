//! The page: a Leptos app over the live store.
//!
//! What the page decides is pure and builds anywhere, with its tests; what touches the browser is for WebAssembly alone.

pub mod aftermath;
pub mod difference;
pub mod draft;
pub mod edit;
pub mod lease;
pub mod live;
pub mod palette;
pub mod route;
pub mod search;
pub mod select;
pub mod view;
pub mod window;
pub mod words;

#[cfg(target_arch = "wasm32")]
mod acts;
#[cfg(target_arch = "wasm32")]
mod app;
#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(target_arch = "wasm32")]
mod components;
#[cfg(target_arch = "wasm32")]
mod keys;
#[cfg(target_arch = "wasm32")]
mod pages;
#[cfg(target_arch = "wasm32")]
mod store;

#[cfg(target_arch = "wasm32")]
pub use app::start;
