//! JSON read into the types of `rollcall_shared::api`, by their own `Deserialize`, and nothing more.
//!
//! The answers of the API hold no fractions. A reader that knows none, and words no messages about what it met instead,
//! is a fifth of the size of `serde_json` with its tables for floating point, and the page is loaded before anything is
//! seen. What is read is the same; the tests hold both readers to it.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor},
    forward_to_deserialize_any,
};

/// How deep values may lie in one another.
const DEPTH_MAX: u8 = 64;

/// Text that is not what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not what was expected at byte {at}")]
pub(crate) struct Unreadable {
    at: usize,
}

impl Unreadable {
    /// All of `text` is JSON, and something is missing.
    pub(crate) fn at_the_end(text: &str) -> Self {
        Self { at: text.len() }
    }
}

impl de::Error for Unreadable {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self { at: 0 }
    }
}

/// Reads one value.
pub(crate) fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Unreadable> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let value = T::deserialize(&mut reader).map_err(|_| Unreadable { at: reader.at })?;
    if reader.peek().is_some() {
        return Err(reader.wrong());
    }
    Ok(value)
}

/// The name by which [`Verbatim`] asks for what stands there.
const VERBATIM: &str = "Verbatim";

/// A value as it stands, to be read once it is known what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verbatim<'a>(pub(crate) &'a str);

impl<'de: 'a, 'a> Deserialize<'de> for Verbatim<'a> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Verbatim<'de>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a value")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Verbatim(text))
            }
        }
        input.deserialize_newtype_struct(VERBATIM, Text)
    }
}

/// Writes a text as JSON has it.
pub(crate) fn quote(text: &str, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                out.push('\\');
                out.push(char);
            }
            '\0'..='\u{1f}' => {
                let code = char as usize;
                out.push_str("\\u00");
                out.push(char::from(DIGITS[code >> 4]));
                out.push(char::from(DIGITS[code & 15]));
            }
            _ => out.push(char),
        }
    }
    out.push('"');
}

struct Reader<'de> {
    text: &'de str,
    at: usize,
    depth: u8,
}

impl<'de> Reader<'de> {
    fn wrong(&self) -> Unreadable {
        Unreadable { at: self.at }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    /// Steps over `byte` where it comes next.
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.take(byte) { Ok(()) } else { Err(self.wrong()) }
    }

    fn word(&mut self, word: &str) -> bool {
        self.peek();
        let is_next = self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word));
        self.at += if is_next { word.len() } else { 0 };
        is_next
    }

    fn string(&mut self) -> Result<Cow<'de, str>, Unreadable> {
        self.expect(b'"')?;
        let start = self.at;
        let mut owned = String::new();
        let mut copied = start;
        loop {
            match self.byte().ok_or(self.wrong())? {
                b'"' => {
                    let rest = self.text.get(copied..self.at).ok_or(self.wrong())?;
                    self.at += 1;
                    return Ok(if copied == start {
                        Cow::Borrowed(rest)
                    } else {
                        owned.push_str(rest);
                        Cow::Owned(owned)
                    });
                }
                b'\\' => {
                    owned.push_str(self.text.get(copied..self.at).ok_or(self.wrong())?);
                    self.at += 1;
                    let escaped = self.escape()?;
                    owned.push(escaped);
                    copied = self.at;
                }
                0..=0x1f => return Err(self.wrong()),
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, Unreadable> {
        let byte = self.byte().ok_or(self.wrong())?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex()?;
                let low = self.text.get(self.at..).and_then(|rest| rest.strip_prefix("\\u"));
                match (high, low.and_then(|rest| u32::from_str_radix(rest.get(..4)?, 16).ok())) {
                    (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                        self.at += 6;
                        char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                    }
                    _ => char::from_u32(high),
                }
                // Half of a pair is no character.
                .unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err(self.wrong()),
        })
    }

    fn hex(&mut self) -> Result<u32, Unreadable> {
        let digits = self.text.get(self.at..self.at + 4).ok_or(self.wrong())?;
        let code = u32::from_str_radix(digits, 16).map_err(|_| self.wrong())?;
        self.at += 4;
        Ok(code)
    }

    /// A whole number.
    fn integer(&mut self) -> Result<i64, Unreadable> {
        self.peek();
        let start = self.at;
        while let Some(b'-' | b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        let digits = self.text.get(start..self.at).and_then(|digits| digits.parse().ok());
        match (digits, self.byte()) {
            (Some(integer), byte) if !matches!(byte, Some(b'.' | b'e' | b'E')) => Ok(integer),
            _ => Err(self.wrong()),
        }
    }

    fn enter(&mut self) -> Result<(), Unreadable> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(self.wrong()) } else { Ok(()) }
    }

    /// Steps over a value of any kind.
    fn skip(&mut self) -> Result<(), Unreadable> {
        match self.peek().ok_or(self.wrong())? {
            b'"' => drop(self.string()?),
            open @ (b'[' | b'{') => {
                self.enter()?;
                self.at += 1;
                let close = if open == b'[' { b']' } else { b'}' };
                let mut is_first = true;
                while !self.take(close) {
                    if !is_first {
                        self.expect(b',')?;
                    }
                    is_first = false;
                    if open == b'{' {
                        self.string()?;
                        self.expect(b':')?;
                    }
                    self.skip()?;
                }
                self.depth -= 1;
            }
            b't' | b'f' | b'n' => {
                if !(self.word("true") || self.word("false") || self.word("null")) {
                    return Err(self.wrong());
                }
            }
            _ => {
                let start = self.at;
                while let Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') = self.byte() {
                    self.at += 1;
                }
                if self.at == start {
                    return Err(self.wrong());
                }
            }
        }
        Ok(())
    }
}

/// One after the other, in `[ ]` or `{ }`.
struct Members<'a, 'de> {
    reader: &'a mut Reader<'de>,
    close: u8,
    is_first: bool,
}

impl<'a, 'de> Members<'a, 'de> {
    fn enter(reader: &'a mut Reader<'de>, open: u8, close: u8) -> Result<Self, Unreadable> {
        reader.expect(open)?;
        reader.enter()?;
        Ok(Self { reader, close, is_first: true })
    }

    /// Whether another one follows.
    fn next(&mut self) -> Result<bool, Unreadable> {
        if self.reader.take(self.close) {
            self.reader.depth -= 1;
            return Ok(false);
        }
        if !self.is_first {
            self.reader.expect(b',')?;
        }
        self.is_first = false;
        Ok(true)
    }
}

impl<'de> SeqAccess<'de> for Members<'_, 'de> {
    type Error = Unreadable;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Unreadable> {
        if self.next()? { seed.deserialize(&mut *self.reader).map(Some) } else { Ok(None) }
    }
}

impl<'de> MapAccess<'de> for Members<'_, 'de> {
    type Error = Unreadable;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unreadable> {
        if self.next()? { seed.deserialize(&mut *self.reader).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unreadable> {
        self.reader.expect(b':')?;
        seed.deserialize(&mut *self.reader)
    }
}

/// A variant: its name alone, or an object whose one member it is.
struct Variant<'a, 'de> {
    reader: &'a mut Reader<'de>,
    is_object: bool,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Unreadable;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Unreadable> {
        let name = seed.deserialize(&mut *self.reader)?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Unreadable;

    fn unit_variant(self) -> Result<(), Unreadable> {
        if self.is_object { Err(self.reader.wrong()) } else { Ok(()) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Unreadable> {
        if !self.is_object {
            return Err(self.reader.wrong());
        }
        self.reader.expect(b':')?;
        let value = seed.deserialize(&mut *self.reader)?;
        self.reader.expect(b'}')?;
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Unreadable> {
        Err(self.reader.wrong())
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Unreadable> {
        Err(self.reader.wrong())
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Unreadable;

    /// Nothing that is read here leaves open what it is.
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unreadable> {
        Err(self.wrong())
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        if self.word("true") {
            visitor.visit_bool(true)
        } else if self.word("false") {
            visitor.visit_bool(false)
        } else {
            Err(self.wrong())
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_i64(self.integer()?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_i64(self.integer()?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_i64(self.integer()?)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_i64(self.integer()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        match self.string()? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_str(&text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        if self.word("null") { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        if name == VERBATIM {
            self.peek();
            let start = self.at;
            self.skip()?;
            return visitor.visit_borrowed_str(self.text.get(start..self.at).ok_or(self.wrong())?);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_seq(Members::enter(self, b'[', b']')?)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_map(Members::enter(self, b'{', b'}')?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        let is_object = self.take(b'{');
        visitor.visit_enum(Variant { reader: self, is_object })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use rollcall_shared::{
        RegistryEvent,
        api::{DeregisterAnswer, LeaseAnswer, Problem, ServicesAnswer, StatusEvent, TtlEvent},
    };
    use serde::de::DeserializeOwned;

    use super::*;

    const RECORD: &str = r#"{"key":"/microservices/h/8\n\"\u00e9\ud83d\ude00\udc00","source":"/microservices/","layout":"kratos",
        "service":"h","lease":"694d81417acd4a0e","create_revision":12,"mod_revision":9007199254740993,
        "instance":{"id":"8","name":"h","version":"","metadata":null,"endpoints":["http://a:1","grpc://a:2"],"x":[1.5e3,{"y":[]}]}}"#;

    fn same<T: DeserializeOwned + PartialEq + Debug>(text: &str) {
        // A lone half of a pair is an error there and U+FFFD here, as browsers read it.
        let known = text.replace("\\udc00", "\u{fffd}");
        assert_eq!(read::<T>(text).unwrap(), serde_json::from_str::<T>(&known).unwrap(), "{text}");
    }

    #[test]
    fn what_the_server_says_reads_as_serde_json_reads_it() {
        same::<RegistryEvent>(&format!(
            r#"{{"type":"snapshot","reason":"connected","revisions":{{"/microservices/":12}},"records":[{RECORD}],"part":0,"more":false}}"#
        ));
        same::<RegistryEvent>(&format!(
            r#"{{"changes":[{{"put":{RECORD}}},{{"delete":{{"key":"k","service":"s","last":{RECORD}}}}}],"revision":4,"after":3,"source":"s/","type":"delta","more":null}}"#
        ));
        same::<RegistryEvent>(r#"{"type":"progress","revisions":{}}"#);
        same::<RegistryEvent>(r#"{"type":"cause","key":"k","revision":-4,"cause":"expired","evidence":""}"#);
        same::<StatusEvent>(r#" { "etcd" : "unreachable" , "for_s" : 7 } "#);
        same::<TtlEvent>(
            r#"{"at_ms":1700000000000,"leases":[{"lease":"7b","granted_s":15,"remaining_s":0,"new":true}]}"#,
        );
        same::<DeregisterAnswer>(&format!(r#"{{"deleted":{RECORD},"undo":"t"}}"#));
        same::<LeaseAnswer>(r#"{"lease":"7b","granted_ttl_s":15,"remaining_ttl_s":3,"keys":["a","b"]}"#);
        same::<Problem>(
            r#"{"type":"about:blank","title":"t","status":422,"detail":"d","errors":[{"pointer":"/a","detail":"b"}]}"#,
        );
        same::<ServicesAnswer>(
            r#"{"cursor":"c","revisions":{"a/":1},"services":[{"name":"n","instances":1,"malformed":0,"layouts":["go-micro"],"versions":[]}]}"#,
        );
        let malformed = r#","instance":null,"malformed":"why","raw_base64":"/w=="}"#;
        let record = format!("{}{malformed}", &RECORD[..RECORD.find(",\n        \"instance\"").unwrap()]);
        same::<rollcall_shared::Record>(&record);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in [
            "",
            "{",
            r#"{"etcd":"live"}"#,
            r#"{"etcd":"live","for_s":1.5}"#,
            r#"{"etcd":"live","for_s":-1}"#,
            r#"{"etcd":"away","for_s":1}"#,
            r#"{"etcd":"live","for_s":1}x"#,
            r#"{"etcd":"live" "for_s":1}"#,
            r#"{"etcd":"li\ve","for_s":1}"#,
            r#"{"etcd":"live","for_s":1,"x":}"#,
        ] {
            assert!(read::<StatusEvent>(text).is_err(), "{text}");
            assert!(serde_json::from_str::<StatusEvent>(text).is_err(), "{text}");
        }
        let deep = format!(r#"{{"etcd":"live","for_s":1,"x":{}}}"#, "[".repeat(100_000));
        assert!(read::<StatusEvent>(&deep).is_err());
    }

    #[test]
    fn a_quoted_text_reads_back() {
        for text in ["", "a\"b\\c\n\u{0}\u{1f}\u{7f}é😀</script>"] {
            let mut out = String::new();
            quote(text, &mut out);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}
