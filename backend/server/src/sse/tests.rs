//! What a reader is sent, held to the contract: in random histories, and by the clock.

mod client;
mod clock;
mod crowd;
mod property;
mod resume;
mod store;
mod stream;
