//! The page's start. In the browser it mounts the app; there is nothing to run anywhere else.

fn main() {
    #[cfg(target_arch = "wasm32")]
    rollcall_dashboard::start();
}
