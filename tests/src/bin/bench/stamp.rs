//! The time at which a change was made, carried in its value, so that whoever reads it knows how long it took.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rollcall_tests::kratos;

/// Stands before a stamp, and nowhere else in any value or message.
pub const MARK: u8 = b'~';

/// How many digits a stamp has: microseconds since 1970, until the year 2286.
pub const DIGITS: usize = 16;

/// Base64 of so many characters holds the stamp of a value from here.
pub const BASE64_CHARS: usize = 80;

/// Now, in microseconds since 1970.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The value of an instance whose version is a stamp.
pub fn value(id: u32, stamp_us: u64) -> String {
    kratos("bench", &format!("{id:06}"), "http://10.0.0.1:8000").replacen("v1", &text(stamp_us), 1)
}

/// Such a value with so many bytes more in its metadata.
pub fn padded(id: u32, stamp_us: u64, bytes: usize) -> String {
    value(id, stamp_us).replacen("\"a\"", &format!("\"a{}\"", "a".repeat(bytes)), 1)
}

/// The key of that value.
pub fn key(id: u32) -> String {
    format!("{}bench/{id:06}", crate::load::PREFIX)
}

/// A stamp as it stands in a value.
pub fn text(stamp_us: u64) -> String {
    format!("~{stamp_us:016}")
}

/// The stamp whose digits these are.
pub fn plain(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

/// The stamp in the beginning of a value in base64.
pub fn in_base64(chars: &[u8]) -> Option<u64> {
    let value = STANDARD.decode(chars).ok()?;
    let at = value.iter().position(|byte| *byte == MARK)? + 1;
    plain(value.get(at..at + DIGITS)?)
}
