//! JSON with the place of every part, read as leniently as Go's `encoding/json` reads it.
//!
//! Owns: the grammar, and where each value stands in the bytes, so that an edit can leave all others alone. Must not
//! know: what any of it means. Unlike `serde_json` it takes lone surrogates and invalid UTF-8 inside strings (both
//! become U+FFFD) and keeps members that stand twice, because the programs that read these values do.

use std::{borrow::Cow, fmt, ops::Range};

/// How deep lists and objects may stand in one another. Go stops at 10,000; no framework comes near either.
const DEPTH_MAX: usize = 256;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node<'a> {
    /// Its bytes, without the whitespace around them.
    pub(crate) span: Range<usize>,
    pub(crate) value: Value<'a>,
}

/// What stands there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool,
    /// Its text as it stands.
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Object(Vec<Member<'a>>),
}

impl Value<'_> {
    /// What it is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "`null`",
            Self::Bool => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// A name and its value in an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member<'a> {
    pub(crate) name: Cow<'a, str>,
    /// Where the name's opening quote stands.
    pub(crate) start: usize,
    pub(crate) node: Node<'a>,
}

/// Bytes that are no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonError {
    at: usize,
    what: &'static str,
}

impl fmt::Display for JsonError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at byte {}", self.what, self.at)
    }
}

/// Reads `bytes` as one JSON value.
pub(crate) fn parse(bytes: &[u8]) -> Result<Node<'_>, JsonError> {
    let mut parser = Parser { bytes, at: 0 };
    let node = parser.value(0)?;
    parser.space();
    if parser.at == bytes.len() { Ok(node) } else { Err(parser.error("something follows the value")) }
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, what: &'static str) -> JsonError {
        JsonError { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("no JSON value begins so"));
        }
        self.at += word.len();
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>, JsonError> {
        self.space();
        let start = self.at;
        if depth > DEPTH_MAX {
            return Err(self.error("the value is nested too deep"));
        }
        let value = match self.peek() {
            None => return Err(self.error("the JSON ends too early")),
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::Text(self.text()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?),
            Some(b't') => self.word("true").map(|()| Value::Bool)?,
            Some(b'f') => self.word("false").map(|()| Value::Bool)?,
            Some(b'n') => self.word("null").map(|()| Value::Null)?,
            Some(_) => return Err(self.error("no JSON value begins so")),
        };
        Ok(Node { span: start..self.at, value })
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, JsonError> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.error("a member's name is missing"));
            }
            let name = self.text()?;
            self.space();
            if !self.take(b':') {
                return Err(self.error("a `:` is missing"));
            }
            let node = self.value(depth + 1)?;
            members.push(Member { name, start, node });
            self.space();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.error("a `,` or `}` is missing"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value<'a>, JsonError> {
        self.at += 1;
        let mut nodes = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Value::List(nodes));
        }
        loop {
            nodes.push(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(Value::List(nodes));
            }
            if !self.take(b',') {
                return Err(self.error("a `,` or `]` is missing"));
            }
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.error("a digit is missing")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(str::from_utf8(&self.bytes[start..self.at]).expect("digits and signs are ASCII"))
    }

    fn text(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.at += 1;
        let mut text = Cow::Borrowed("");
        loop {
            let start = self.at;
            while let Some(byte) = self.peek()
                && byte >= b' '
                && byte != b'"'
                && byte != b'\\'
            {
                self.at += 1;
            }
            append(&mut text, &self.bytes[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.to_mut().push(self.escape()?);
                }
                Some(_) => return Err(self.error("a control character stands in a string")),
                None => return Err(self.error("a string has no end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let byte = self.peek().ok_or_else(|| self.error("a string has no end"))?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                let after = self.at;
                if (0xd800..0xdc00).contains(&first) && self.take(b'\\') && self.take(b'u') {
                    let second = self.hex()?;
                    if (0xdc00..0xe000).contains(&second) {
                        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                }
                // A half without its other half; what follows stands for itself.
                self.at = after;
                char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => {
                self.at -= 1;
                return Err(self.error("no such escape"));
            }
        })
    }

    fn hex(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.error("a hexadecimal digit is missing"))?;
            self.at += 1;
        }
        Ok(code)
    }
}

/// Adds `bytes` to `text`, with U+FFFD for each byte that is in no UTF-8, as Go does.
fn append<'a>(text: &mut Cow<'a, str>, mut bytes: &'a [u8]) {
    loop {
        match str::from_utf8(bytes) {
            Ok("") => return,
            Ok(valid) if text.is_empty() => return *text = Cow::Borrowed(valid),
            Ok(valid) => return text.to_mut().push_str(valid),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                text.to_mut().push_str(str::from_utf8(valid).expect("checked up to here"));
                text.to_mut().push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[1..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &[u8]) -> String {
        match parse(json).unwrap().value {
            Value::Text(text) => text.into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn strings_read_as_go_reads_them() {
        assert_eq!(text(br#""a\u003cb \"\\\/\b\f\n\r\t\u00e9""#), "a<b \"\\/\u{8}\u{c}\n\r\té");
        assert_eq!(text(br#""\ud83d\ude00""#), "😀");
        assert_eq!(text(br#""\ud83d\u0041\udc00\ud83d""#), "\u{fffd}A\u{fffd}\u{fffd}");
        assert_eq!(text(b"\"a\xff\xe2\x80b\""), "a\u{fffd}\u{fffd}\u{fffd}b");
    }

    #[test]
    fn every_part_knows_its_place() {
        let json = br#" { "a" : [ 1 , -2.5e+3 ] , "a":null}"#;
        let Value::Object(members) = parse(json).unwrap().value else { panic!() };
        let Value::List(nodes) = &members[0].node.value else { panic!() };
        assert_eq!(&json[members[0].start..members[0].node.span.end], br#""a" : [ 1 , -2.5e+3 ]"#);
        assert_eq!(&json[nodes[1].span.clone()], b"-2.5e+3");
        assert_eq!((&*members[1].name, &members[1].node.value), ("a", &Value::Null));
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        let wrong: [&[u8]; 22] = [
            b"",
            b" ",
            b"{",
            b"[",
            b"{]",
            b"{a:1}",
            b"{\"a\"}",
            b"{\"a\":1,}",
            b"[1,]",
            b"[1 2]",
            b"\"a",
            b"\"\n\"",
            b"\"\\x\"",
            b"\"\\u12g4\"",
            b"01",
            b"-",
            b"1.",
            b"1e",
            b"nul",
            b"null null",
            b"\xef\xbb\xbf1",
            b"'a'",
        ];
        for json in wrong {
            assert!(parse(json).is_err(), "{:?}", String::from_utf8_lossy(json));
        }
        assert_eq!(parse(b"[1,]").unwrap_err().to_string(), "no JSON value begins so at byte 3");
        let deep = |depth| parse("[".repeat(depth).as_bytes()).unwrap_err().what;
        assert_eq!(deep(10), "the JSON ends too early");
        assert_eq!(deep(100_000), "the value is nested too deep");
    }
}
