//! What both sides of Rollcall say: the model, the fold, the cursor and one codec for each layout.
//!
//! Pure: no I/O, no clock, no async, and nothing that depends on the target, so that the server, the dashboard in
//! WebAssembly and the tests run the very same code.

pub mod api;
pub mod catalog;
pub mod cursor;
pub mod event;
pub mod instance;
mod json;
pub mod layout;
pub mod order;
pub mod record;

pub use catalog::{Catalog, FoldError};
pub use cursor::{Cursor, CursorError, Digest, SourcePosition};
pub use event::{Cause, CauseKind, Change, Delta, Departure, Progress, RegistryEvent, Snapshot, SnapshotReason};
pub use instance::{KeyPrefix, LeaseId, PrefixError, Revision, ServiceInstance};
pub use layout::{Carries, FieldError, Layout};
pub use record::{Decoded, Raw, Record};
