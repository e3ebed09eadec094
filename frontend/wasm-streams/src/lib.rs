//! Stands in for the crate of this name, by which Leptos' server functions stream what they send and receive.
//!
//! The page has no server functions. wasm-bindgen keeps what the real crate exports whether anyone calls it or not, and
//! with it the making of promises: 4 KB of every first load. This one compiles in its place and streams nothing.

use std::convert::Infallible;

use futures_util::{Stream, stream};
use wasm_bindgen::JsValue;

/// A stream of the browser's.
#[derive(Debug)]
pub struct ReadableStream(Infallible);

impl ReadableStream {
    /// Never called: there is no server function.
    pub fn from_raw(_raw: web_sys::ReadableStream) -> Self {
        none()
    }

    /// Never called: there is no server function.
    pub fn from_stream(_stream: impl Stream<Item = Result<JsValue, JsValue>> + 'static) -> Self {
        none()
    }

    /// The stream as the browser has it.
    pub fn into_raw(self) -> web_sys::ReadableStream {
        match self.0 {}
    }

    /// What it brings.
    pub fn into_stream(self) -> stream::Empty<Result<JsValue, JsValue>> {
        match self.0 {}
    }
}

fn none() -> ReadableStream {
    panic!("the page was built without streams for server functions")
}
