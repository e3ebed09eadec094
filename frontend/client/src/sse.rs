//! Server-Sent Events out of the bytes of a response, wherever these are cut.
//!
//! Owns: the format, as <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream> has it.
//! Must not know: what the events say, or where the bytes come from.

/// The longest event, and the longest line, in bytes: several times what any server sends, and less than what a page
/// would be ended for.
pub(crate) const EVENT_BYTES_MAX: usize = 64 << 20;

/// The mark that may begin a stream.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// What a stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// An event.
    Event {
        /// Its name; `message` where it has none.
        kind: String,
        /// Its text.
        data: String,
        /// The last `id` that the stream gave, with this event or before it.
        id: Option<String>,
    },
    /// After how many milliseconds to come back once the line is broken.
    Retry(u64),
}

/// An event that is too long to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {EVENT_BYTES_MAX} bytes")]
pub(crate) struct TooLong;

/// The state between two pieces of one stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parser {
    /// The line that is not ended yet.
    line: Vec<u8>,
    /// Whether a line was ended by a carriage return, to which a line feed would belong.
    is_after_cr: bool,
    /// Whether a line was ended: the mark can stand before the first alone.
    is_under_way: bool,
    kind: String,
    data: String,
    /// Whether a `data` line came, be it empty.
    has_data: bool,
    id: Option<String>,
}

impl Parser {
    /// Reads the next bytes, and tells `say` what they complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], say: &mut dyn FnMut(Said)) -> Result<(), TooLong> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.is_after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
                self.line.extend_from_slice(bytes);
                return self.check();
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.is_after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.check()?;
            self.end_line(say);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TooLong> {
        if self.line.len() + self.data.len() > EVENT_BYTES_MAX { Err(TooLong) } else { Ok(()) }
    }

    fn end_line(&mut self, say: &mut dyn FnMut(Said)) {
        let line = std::mem::take(&mut self.line);
        let mut text = line.as_slice();
        if !std::mem::replace(&mut self.is_under_way, true) {
            text = text.strip_prefix(BOM).unwrap_or(text);
        }
        if text.is_empty() {
            return self.end_event(say);
        }
        let text = String::from_utf8_lossy(text);
        // A comment is a field without a name, which is nobody's.
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.kind),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                if let Ok(retry_ms) = value.parse() {
                    say(Said::Retry(retry_ms));
                }
            }
            _ => {}
        }
    }

    fn end_event(&mut self, say: &mut dyn FnMut(Said)) {
        let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
        if std::mem::take(&mut self.has_data) {
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            say(Said::Event { kind, data, id: self.id.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(kind: &str, data: &str, id: Option<&str>) -> Said {
        Said::Event { kind: kind.into(), data: data.into(), id: id.map(str::to_owned) }
    }

    fn said(pieces: &[&[u8]]) -> Vec<Said> {
        let mut parser = Parser::default();
        let mut said = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut |what| said.push(what)).unwrap();
        }
        said
    }

    #[test]
    fn a_stream_reads_as_the_standard_has_it() {
        for (text, expected) in [
            ("data: a\n\n", vec![event("message", "a", None)]),
            ("data: a\r\rdata: b\r\n\r\n", vec![event("message", "a", None), event("message", "b", None)]),
            ("data: YHOO\ndata: +2\ndata: 10\n\n", vec![event("message", "YHOO\n+2\n10", None)]),
            ("data:a\ndata:  b\ndata\n\n", vec![event("message", "a\n b\n", None)]),
            ("data\n\ndata\ndata\n\ndata:", vec![event("message", "", None), event("message", "\n", None)]),
            (": note\n\nevent: x\n\ndata: a\n\n", vec![event("message", "a", None)]),
            ("event: status\ndata: {}\n\n", vec![event("status", "{}", None)]),
            ("id: 1\ndata: a\n\ndata: b\n\n", vec![event("message", "a", Some("1")), event("message", "b", Some("1"))]),
            ("id: 1\n\ndata: b\nid\n\n", vec![event("message", "b", Some(""))]),
            ("id: a\0b\ndata: a\n\n", vec![event("message", "a", None)]),
            ("retry: 1159\nretry: 1s\nretry:\nretry: 99999999999999999999\n\n", vec![Said::Retry(1159)]),
            ("\u{feff}data: a\n\n", vec![event("message", "a", None)]),
            ("\n\u{feff}data: a\n\n", vec![]),
            ("DATA: a\nunknown: b\n\n", vec![]),
            ("data: unfinished\n", vec![]),
            ("data: 支付\u{2028}\u{85}x\n\n", vec![event("message", "支付\u{2028}\u{85}x", None)]),
        ] {
            assert_eq!(said(&[text.as_bytes()]), expected, "{text:?}");
        }
        assert_eq!(said(&[b"data: \xff!\n\n"]), [event("message", "\u{fffd}!", None)]);
    }

    #[test]
    fn what_has_no_end_is_not_kept() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; EVENT_BYTES_MAX / 4];
        let mut refused = 0;
        for _ in 0..5 {
            refused += usize::from(parser.push(&piece, &mut |_| {}).is_err());
        }
        assert_eq!(refused, 1, "the fifth goes beyond");
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let parts: Vec<&'static [u8]> = vec![
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"data: ",
            b"data",
            b"id: 7",
            b"id",
            b"event: ttl",
            b"retry: 12",
            b":",
            b" ",
            BOM,
            "支".as_bytes(),
            b"\xe6\x94",
            b"{\"a\":1}",
        ];
        prop::collection::vec(prop::sample::select(parts), 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn any_cutting_says_the_same(stream in stream(), cuts in prop::collection::vec(0usize..400, 0..12)) {
            let whole = said(&[&stream]);
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(&said(&bytes), &whole);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
            prop_assert_eq!(&said(&pieces), &whole);
        }
    }
}
