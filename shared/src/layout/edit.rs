//! Changes to parts of a value that leave every other byte as it is.
//!
//! Owns: which bytes a changed field touches. Must not know: which layout has which fields.

use std::{collections::BTreeMap, ops::Range};

use super::go_json::{Write, Writer, fields};
use crate::json::{Member, Node, Value};

/// Spans of a value and what is to stand there instead.
#[derive(Debug, Default)]
pub(super) struct Edits {
    splices: Vec<(Range<usize>, String)>,
}

/// Writes `text` over whatever stood there, for metadata in which all values are strings.
pub(super) fn string(_: &Value<'_>, text: &str) -> String {
    Writer::go().write(&text.to_owned())
}

impl Edits {
    /// Puts `text` where `span` stands.
    pub(super) fn replace(&mut self, span: Range<usize>, text: String) {
        self.splices.push((span, text));
    }

    /// `value` with everything done.
    pub(super) fn apply(mut self, value: &[u8]) -> Vec<u8> {
        // Stable, so that what is put in at one place stays in its order; and before what is taken out there.
        self.splices.sort_by_key(|(span, _)| (span.start, span.end));
        let mut out = Vec::with_capacity(value.len());
        let mut at = 0;
        for (span, text) in self.splices {
            out.extend_from_slice(&value[at..span.start]);
            out.extend_from_slice(text.as_bytes());
            at = span.end;
        }
        out.extend_from_slice(&value[at..]);
        out
    }

    /// Adds the field `name` at the end of `object`.
    fn append(&mut self, object: &Node<'_>, name: &str, value: &str) {
        let Value::Object(members) = &object.value else { return };
        let at = members.last().map_or(object.span.start + 1, |member| member.node.span.end);
        let first = members.is_empty() && self.splices.iter().all(|(span, _)| *span != (at..at));
        let comma = if first { "" } else { "," };
        self.replace(at..at, format!("{comma}{}:{value}", Writer::go().write(&name.to_owned())));
    }

    /// Sets the field `name` of `object`, a string or a list.
    pub(super) fn set(&mut self, object: &Node<'_>, name: &str, value: &dyn Write) {
        let text = Writer::go().write(value);
        // Go lets a `null` stand for "unchanged" in a string, and for nothing in a list.
        let deciding = |member: &&Member<'_>| !matches!(member.node.value, Value::Null);
        let is_list = text.starts_with('[');
        let member = fields(object, name).rfind(|member| is_list || deciding(member));
        match member.or_else(|| fields(object, name).next_back()) {
            Some(member) => self.replace(member.node.span.clone(), text),
            None => self.append(object, name, &text),
        }
    }

    /// Makes the strings by name in the field `name` of `object` those of `edited`, where they differ from `before`.
    ///
    /// `rewrite` writes a new text over an old value.
    pub(super) fn set_map(
        &mut self,
        object: &Node<'_>,
        name: &str,
        before: &BTreeMap<String, String>,
        edited: &BTreeMap<String, String>,
        rewrite: fn(&Value<'_>, &str) -> String,
    ) {
        if before == edited {
            return;
        }
        let fields: Vec<_> = fields(object, name).collect();
        // Go merges what stands twice; a `null` lets it begin anew.
        let begin = fields.iter().rposition(|member| member.node.value == Value::Null).map_or(0, |index| index + 1);
        let mut maps: Vec<(&Node<'_>, &[Member<'_>])> = fields[begin..]
            .iter()
            .filter_map(|member| match &member.node.value {
                Value::Object(members) => Some((&member.node, &**members)),
                _ => None,
            })
            .collect();
        let Some(last) = maps.pop() else {
            let text = Writer::go().write(edited);
            return match fields.last() {
                Some(member) => self.replace(member.node.span.clone(), text),
                None => self.append(object, name, &text),
            };
        };
        for (node, members) in maps {
            // What is set in an earlier one and changed goes from there, and is put into the last.
            let kept = |name: &str| edited.get(name).is_some() && edited.get(name) == before.get(name);
            self.rewrite_members(node, members, kept, &[], |_| None);
        }
        let (node, members) = last;
        let added: Vec<(&str, String)> = edited
            .iter()
            .filter(|(name, text)| {
                before.get(*name) != Some(text) && members.iter().all(|member| member.name != name.as_str())
            })
            .map(|(name, text)| (name.as_str(), Writer::go().write(text)))
            .collect();
        self.rewrite_members(
            node,
            members,
            |name| edited.contains_key(name),
            &added,
            |member| {
                let text = edited.get(&*member.name)?;
                (before.get(&*member.name) != Some(text)).then(|| rewrite(&member.node.value, text))
            },
        );
    }

    /// Takes out of an object what `kept` does not keep, writes anew what `rewritten` gives, and puts in `added`:
    /// where Go would, in an object sorted by name, and at the end of any other.
    fn rewrite_members(
        &mut self,
        node: &Node<'_>,
        members: &[Member<'_>],
        kept: impl Fn(&str) -> bool,
        added: &[(&str, String)],
        rewritten: impl Fn(&Member<'_>) -> Option<String>,
    ) {
        let first_kept = members.iter().position(|member| kept(&member.name));
        for (index, member) in members.iter().enumerate() {
            if kept(&member.name) {
                if let Some(text) = rewritten(member) {
                    self.replace(member.node.span.clone(), text);
                }
            } else if first_kept.is_some_and(|first| first < index) {
                self.replace(members[index - 1].node.span.end..member.node.span.end, String::new());
            } else {
                // Up to the next one, which may go too; the last of an object that loses all ends where it ends.
                let end = members.get(index + 1).map_or(member.node.span.end, |next| next.start);
                self.replace(member.start..end, String::new());
            }
        }
        let sorted = members.is_sorted_by(|one, next| one.name < next.name);
        let written = |(name, text): &(&str, String)| format!("{}:{text}", Writer::go().write(&(*name).to_owned()));
        let Some(first_kept) = first_kept else {
            let at = members.first().map_or(node.span.start + 1, |member| member.start);
            let text: Vec<_> = added.iter().map(written).collect();
            return self.replace(at..at, text.join(","));
        };
        for member in added {
            let before = |other: &&Member<'_>| kept(&other.name) && (!sorted || *other.name < *member.0);
            if let Some(other) = members.iter().rfind(before) {
                let at = other.node.span.end;
                self.replace(at..at, format!(",{}", written(member)));
            } else {
                let at = members[first_kept].start;
                self.replace(at..at, format!("{},", written(member)));
            }
        }
    }
}
