//! JSON as Go's `encoding/json` writes it and as it reads it into a struct.
//!
//! Owns: Go's escapes, its `null` for what is nil, and its rules for fields (any case, the last one wins, `null`
//! changes nothing). Must not know: which layout has which fields. See <https://pkg.go.dev/encoding/json>.

use std::collections::BTreeMap;

use crate::json::{self, Member, Node, Value};

/// Writes JSON without a needless byte.
pub(super) struct Writer {
    out: String,
    /// Whether what would mean something in HTML is escaped: Go does so unless told not to, sonic does not.
    html: bool,
}

impl Writer {
    /// As `json.Marshal` writes.
    pub(super) fn go() -> Self {
        Self { out: String::new(), html: true }
    }

    /// As sonic writes, which Hertz uses.
    pub(super) fn sonic() -> Self {
        Self { out: String::new(), html: false }
    }

    /// What `written` looks like.
    pub(super) fn write(mut self, written: &dyn Write) -> String {
        written.write(&mut self);
        self.out
    }

    /// An object with its members in this order.
    pub(super) fn object(&mut self, members: &[(&str, &dyn Write)]) {
        self.separated('{', members.iter(), '}', |writer, (name, value)| writer.member(name, *value));
    }

    fn member(&mut self, name: &str, value: &dyn Write) {
        self.text(name);
        self.out.push(':');
        value.write(self);
    }

    fn separated<T>(&mut self, open: char, parts: impl Iterator<Item = T>, close: char, write: impl Fn(&mut Self, T)) {
        self.out.push(open);
        for (index, part) in parts.enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            write(self, part);
        }
        self.out.push(close);
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' | '\\' => self.out.extend(['\\', char]),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\0'..'\u{20}' => self.unicode(char),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if self.html => self.unicode(char),
                _ => self.out.push(char),
            }
        }
        self.out.push('"');
    }

    fn unicode(&mut self, char: char) {
        self.out.push_str("\\u");
        for shift in [12, 8, 4, 0] {
            self.out.push(char::from_digit((u32::from(char) >> shift) & 15, 16).expect("four bits are one digit"));
        }
    }
}

/// What can be written as JSON.
pub(super) trait Write {
    fn write(&self, writer: &mut Writer);
}

impl Write for str {
    fn write(&self, writer: &mut Writer) {
        writer.text(self);
    }
}

impl Write for String {
    fn write(&self, writer: &mut Writer) {
        writer.text(self);
    }
}

impl Write for i64 {
    fn write(&self, writer: &mut Writer) {
        writer.out.push_str(&self.to_string());
    }
}

impl<T: Write> Write for Option<T> {
    fn write(&self, writer: &mut Writer) {
        match self {
            Some(value) => value.write(writer),
            None => writer.out.push_str("null"),
        }
    }
}

impl<T: Write> Write for Vec<T> {
    fn write(&self, writer: &mut Writer) {
        writer.separated('[', self.iter(), ']', |writer, value| value.write(writer));
    }
}

impl<T: Write> Write for BTreeMap<String, T> {
    fn write(&self, writer: &mut Writer) {
        writer.separated('{', self.iter(), '}', |writer, (name, value)| writer.member(name, value));
    }
}

/// JSON that is written already.
pub(super) struct Verbatim<'a>(pub(super) &'a str);

impl Write for Verbatim<'_> {
    fn write(&self, writer: &mut Writer) {
        writer.out.push_str(self.0);
    }
}

/// The members that Go takes for the field `name`, in their order.
pub(super) fn fields<'n, 'a>(object: &'n Node<'a>, name: &str) -> impl DoubleEndedIterator<Item = &'n Member<'a>> {
    let members: &[Member<'_>] = match &object.value {
        Value::Object(members) => members,
        _ => &[],
    };
    members.iter().filter(move |member| member.name.eq_ignore_ascii_case(name))
}

/// Reads `value` as one JSON object.
pub(super) fn object(value: &[u8]) -> Result<Node<'_>, String> {
    let node = json::parse(value).map_err(|error| format!("the value is no JSON: {error}"))?;
    match node.value {
        Value::Object(_) => Ok(node),
        other => Err(format!("the value is {} where an object belongs", other.kind())),
    }
}

fn mismatch(name: &str, value: &Value<'_>, wanted: &str) -> String {
    format!("`{name}` is {} where {wanted} belongs", value.kind())
}

/// A node as Go reads it into a string: `null` is the empty one.
fn as_text(name: &str, node: &Node<'_>) -> Result<String, String> {
    match &node.value {
        Value::Text(text) => Ok(text.clone().into_owned()),
        Value::Null => Ok(String::new()),
        other => Err(mismatch(name, other, "a string")),
    }
}

/// The string field `name`; empty where it is missing.
pub(super) fn text(object: &Node<'_>, name: &str) -> Result<String, String> {
    let mut text = String::new();
    for member in fields(object, name).filter(|member| member.node.value != Value::Null) {
        text = as_text(name, &member.node)?;
    }
    Ok(text)
}

/// The integer field `name`; 0 where it is missing.
pub(super) fn integer(object: &Node<'_>, name: &str) -> Result<i64, String> {
    let mut integer = 0;
    for member in fields(object, name).filter(|member| member.node.value != Value::Null) {
        integer = match &member.node.value {
            Value::Number(digits) => {
                digits.parse().map_err(|_| format!("`{name}` is {digits} where a whole number belongs"))?
            }
            other => return Err(mismatch(name, other, "a number")),
        };
    }
    Ok(integer)
}

/// The field `name` that holds strings by name; `None` where it is missing or `null`.
pub(super) fn text_map(object: &Node<'_>, name: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    let mut map = None;
    for member in fields(object, name) {
        match &member.node.value {
            Value::Null => map = None,
            Value::Object(members) => {
                let map = map.get_or_insert_with(BTreeMap::new);
                for member in members {
                    let text = as_text(&format!("{name}.{}", member.name), &member.node)?;
                    map.insert(member.name.clone().into_owned(), text);
                }
            }
            other => return Err(mismatch(name, other, "an object")),
        }
    }
    Ok(map)
}

/// The field `name` that lists something, each read by `read`; `None` where it is missing or `null`.
pub(super) fn list<T>(
    object: &Node<'_>,
    name: &str,
    read: impl Fn(&Node<'_>) -> Result<T, String>,
) -> Result<Option<Vec<T>>, String> {
    let mut list = None;
    for member in fields(object, name) {
        list = match &member.node.value {
            Value::Null => None,
            Value::List(nodes) => Some(nodes.iter().map(&read).collect::<Result<_, _>>()?),
            other => return Err(mismatch(name, other, "a list")),
        };
    }
    Ok(list)
}

/// The field `name` that lists strings; `None` where it is missing or `null`.
pub(super) fn text_list(object: &Node<'_>, name: &str) -> Result<Option<Vec<String>>, String> {
    list(object, name, |node| as_text(name, node))
}

/// A node as Go reads it into a pointer to a struct: `null` is nil.
pub(super) fn pointer<T>(
    name: &str,
    node: &Node<'_>,
    read: impl FnOnce(&Node<'_>) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match &node.value {
        Value::Null => Ok(None),
        Value::Object(_) => read(node).map(Some),
        other => Err(mismatch(name, other, "an object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        let text = "a<b>&c \"q\" \\ / é 😀\u{2028}\u{2029}\u{8}\u{c}\n\r\t\0\u{1f}\u{7f}";
        assert_eq!(
            Writer::go().write(&text.to_owned()),
            "\"a\\u003cb\\u003e\\u0026c \\\"q\\\" \\\\ / é 😀\\u2028\\u2029\\b\\f\\n\\r\\t\\u0000\\u001f\u{7f}\""
        );
        assert_eq!(Writer::sonic().write(&"<&>\u{2028}".to_owned()), "\"<&>\u{2028}\"");
    }

    #[test]
    fn fields_are_found_in_any_case_and_the_last_one_wins() {
        let node = object(br#"{"NAME":"a","name":"b","Name":null,"m":{"a":"1"},"M":{"b":null},"w":3}"#).unwrap();
        assert_eq!(text(&node, "name").unwrap(), "b");
        assert_eq!(text(&node, "version").unwrap(), "");
        assert_eq!(integer(&node, "w").unwrap(), 3);
        let map = text_map(&node, "m").unwrap().unwrap();
        assert_eq!(map, BTreeMap::from([("a".into(), "1".into()), ("b".into(), String::new())]));
        assert_eq!(text(&node, "w").unwrap_err(), "`w` is a number where a string belongs");
    }
}
