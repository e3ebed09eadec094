//! What stands in the edit form, read into an edit, and put together with what changed meanwhile.
//!
//! Pure. What cannot stand on a line of its own (a key with `=`, a value of several lines) is not offered and stays.

use std::collections::{BTreeMap, BTreeSet};

use rollcall_shared::{FieldError, Layout, ServiceInstance, api::InstanceEdit};

use crate::{
    aftermath::{WEIGHT, can_drain, knows_weight},
    draft::{Field, endpoints, metadata},
    words,
};

/// The form's fields, in their order.
pub const FIELDS: [Field; 4] = [Field::Weight, Field::Version, Field::Endpoints, Field::Metadata];

/// What is typed, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EditDraft {
    /// The version.
    pub version: String,
    /// The endpoints, one a line.
    pub endpoints: String,
    /// The metadata, `key=value` a line, without the weight where that has a field of its own.
    pub metadata: String,
    /// The weight; empty for none.
    pub weight: String,
}

/// Whether a layout's form has this field.
pub fn offers(layout: Layout, field: Field) -> bool {
    let carries = layout.carries();
    match field {
        Field::Version => carries.version,
        Field::Metadata => carries.metadata,
        Field::Weight => knows_weight(layout),
        Field::Endpoints => !carries.id_is_address,
        _ => false,
    }
}

fn has_field(layout: Layout, name: &str) -> bool {
    name == WEIGHT && knows_weight(layout)
}

/// Whether a pair reads back from a line as it was.
fn fits(name: &str, value: &str) -> bool {
    !name.is_empty()
        && !name.contains('=')
        && ![name, value].iter().any(|part| part.contains(['\n', '\r']) || part.trim() != *part)
}

impl EditDraft {
    /// The form as it opens on an instance.
    pub fn of(layout: Layout, instance: &ServiceInstance) -> Self {
        let mut lines = String::new();
        for (name, value) in &instance.metadata {
            if fits(name, value) && !has_field(layout, name) {
                for part in [name, "=", value, "\n"] {
                    lines.push_str(part);
                }
            }
        }
        let weight = instance.metadata.get(WEIGHT).filter(|_| knows_weight(layout));
        Self {
            version: instance.version.clone(),
            endpoints: instance.endpoints.join("\n"),
            metadata: lines,
            weight: weight.cloned().unwrap_or_default(),
        }
    }

    /// The field's text.
    pub fn slot(&self, field: Field) -> &String {
        match field {
            Field::Version => &self.version,
            Field::Endpoints => &self.endpoints,
            Field::Weight => &self.weight,
            _ => &self.metadata,
        }
    }

    /// The field's text, to be changed.
    pub fn slot_mut(&mut self, field: Field) -> &mut String {
        match field {
            Field::Version => &mut self.version,
            Field::Endpoints => &mut self.endpoints,
            Field::Weight => &mut self.weight,
            _ => &mut self.metadata,
        }
    }

    /// What is to be another one in `before`, or everything that is wrong with it.
    pub fn edit(&self, layout: Layout, before: &ServiceInstance) -> Result<InstanceEdit, Vec<FieldError>> {
        let base = Self::of(layout, before);
        let mut errors = Vec::new();
        let mut edit = InstanceEdit::default();
        let touched = |field| offers(layout, field) && self.slot(field) != base.slot(field);
        if touched(Field::Version) {
            edit.version = Some(self.version.trim().to_owned());
        }
        if touched(Field::Endpoints) {
            edit.endpoints = Some(endpoints(&self.endpoints));
        }
        if touched(Field::Weight) || touched(Field::Metadata) {
            match self.metadata_over(layout, before) {
                Ok(metadata) => edit.metadata = Some(metadata),
                Err(error) => errors.push(error),
            }
        }
        let weight = self.weight.trim();
        let least = u32::from(!can_drain(layout));
        let is_weight = weight.is_empty() || weight.parse::<u32>().is_ok_and(|weight| weight >= least);
        if touched(Field::Weight) && !is_weight {
            let why = if can_drain(layout) { words::WEIGHT_WRONG } else { words::WEIGHT_WRONG_10 };
            errors.push(FieldError::new("/instance/metadata/weight", why.text()));
        }
        let after = edit.over(before);
        errors.extend(layout.check_edit(before, &after));
        // What was typed may mean what stands there already.
        edit.version = edit.version.filter(|version| *version != before.version);
        edit.endpoints = edit.endpoints.filter(|endpoints| *endpoints != before.endpoints);
        edit.metadata = edit.metadata.filter(|metadata| *metadata != before.metadata);
        if errors.is_empty() { Ok(edit) } else { Err(errors) }
    }

    fn metadata_over(&self, layout: Layout, before: &ServiceInstance) -> Result<BTreeMap<String, String>, FieldError> {
        let mut pairs = metadata(&self.metadata)?;
        if knows_weight(layout) {
            if pairs.contains_key(WEIGHT) {
                return Err(FieldError::new("/instance/metadata", words::WEIGHT_HAS_A_FIELD.text()));
            }
            let weight = self.weight.trim();
            if !weight.is_empty() {
                pairs.insert(WEIGHT.to_owned(), weight.to_owned());
            }
        }
        let kept = before.metadata.iter().filter(|(name, value)| !fits(name, value) && !has_field(layout, name));
        pairs.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
        Ok(pairs)
    }

    /// What was typed over `base`, put over `theirs`: what they changed and nobody typed over is taken. The fields that
    /// both changed, to different things, keep what was typed and are named.
    pub fn merged(&self, layout: Layout, base: &ServiceInstance, theirs: &ServiceInstance) -> (Self, Vec<Field>) {
        let (base_text, their_text) = (Self::of(layout, base), Self::of(layout, theirs));
        let mut merged = self.clone();
        let mut disputed = Vec::new();
        for field in FIELDS {
            let (mine, was, now) = (self.slot(field), base_text.slot(field), their_text.slot(field));
            if mine == now || was == now {
                continue;
            }
            if mine == was {
                merged.slot_mut(field).clone_from(now);
            } else if field != Field::Metadata {
                disputed.push(field);
            } else if let Some((lines, is_disputed)) = merged_lines(mine, was, now) {
                merged.metadata = lines;
                disputed.extend(is_disputed.then_some(field));
            } else {
                disputed.push(field);
            }
        }
        (merged, disputed)
    }
}

/// Lines of metadata of which both sides changed some, and whether both changed the same one to different things.
/// `None` where what was typed does not read.
fn merged_lines(mine: &str, was: &str, now: &str) -> Option<(String, bool)> {
    let (mine, was, now) = (metadata(mine).ok()?, metadata(was).ok()?, metadata(now).ok()?);
    let names: BTreeSet<&String> = mine.keys().chain(now.keys()).collect();
    let (mut lines, mut is_disputed) = (String::new(), false);
    for name in names {
        let (mine, was, now) = (mine.get(name), was.get(name), now.get(name));
        is_disputed |= mine != was && now != was && mine != now;
        if let Some(value) = if mine == was { now } else { mine } {
            for part in [name, "=", value, "\n"] {
                lines.push_str(part);
            }
        }
    }
    Some((lines, is_disputed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(version: &str, metadata: &[(&str, &str)]) -> ServiceInstance {
        ServiceInstance {
            id: "1".into(),
            name: "pay".into(),
            version: version.into(),
            metadata: metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            endpoints: vec!["http://10.0.0.1:80".into()],
        }
    }

    #[test]
    fn nothing_typed_is_nothing_edited() {
        let odd = [("a=b", "x"), ("lines", "1\n2"), (" space ", "x "), ("weight", "abc"), ("zone", "a"), ("", "x")];
        for layout in Layout::ALL {
            let before = instance("v1", &odd);
            let draft = EditDraft::of(layout, &before);
            assert_eq!(draft.edit(layout, &before), Ok(InstanceEdit::default()), "{layout}");
        }
    }

    #[test]
    fn what_fits_no_line_stays_beside_what_is_edited() {
        let before = instance("v1", &[("lines", "1\n2"), ("weight", "30"), ("zone", "a")]);
        let mut draft = EditDraft::of(Layout::Kratos, &before);
        assert_eq!((&*draft.metadata, &*draft.weight), ("zone=a\n", "30"));
        draft.metadata = "zone=b\nnew=x=y".into();
        draft.weight = " 0 ".into();
        let after = draft.edit(Layout::Kratos, &before).unwrap();
        assert_eq!(after.version, None);
        let expected = [("lines", "1\n2"), ("new", "x=y"), ("weight", "0"), ("zone", "b")];
        assert_eq!(after.metadata, Some(instance("", &expected).metadata));
    }

    #[test]
    fn what_is_wrong_stands_at_its_field() {
        let before = instance("v1", &[]);
        let draft = EditDraft::of(Layout::Kratos, &before);
        let cases = [
            (EditDraft { weight: "-1".into(), ..draft.clone() }, Field::Weight),
            (EditDraft { weight: "0.5".into(), ..draft.clone() }, Field::Weight),
            (EditDraft { metadata: "weight=3".into(), ..draft.clone() }, Field::Metadata),
            (EditDraft { metadata: "nothing".into(), ..draft.clone() }, Field::Metadata),
            (EditDraft { endpoints: "10.0.0.1".into(), ..draft.clone() }, Field::Endpoints),
            (EditDraft { endpoints: String::new(), ..draft }, Field::Endpoints),
        ];
        for (draft, field) in cases {
            let errors = draft.edit(Layout::Kratos, &before).unwrap_err();
            assert_eq!(Field::of_pointer(&errors[0].pointer), field, "{errors:?}");
        }
    }

    #[test]
    fn a_weight_of_0_is_no_drain_where_it_reads_as_10() {
        for (layout, weight, is_right) in [
            (Layout::Kratos, "0", true),
            (Layout::Kitex, "0", false),
            (Layout::Hertz, "0", false),
            (Layout::Kitex, "1", true),
        ] {
            let before = instance("", &[]);
            let draft = EditDraft { weight: weight.into(), ..EditDraft::of(layout, &before) };
            assert_eq!(draft.edit(layout, &before).is_ok(), is_right, "{layout} {weight}");
        }
        assert!(!offers(Layout::GoMicro, Field::Weight) && offers(Layout::Hertz, Field::Weight));
    }

    #[test]
    fn what_both_changed_keeps_what_was_typed_and_is_named() {
        let base = instance("v1", &[("a", "1"), ("b", "1"), ("weight", "10")]);
        let theirs = instance("v2", &[("a", "2"), ("b", "1"), ("weight", "20")]);
        let draft = EditDraft::of(Layout::Kratos, &base);
        assert_eq!(draft.merged(Layout::Kratos, &base, &theirs), (EditDraft::of(Layout::Kratos, &theirs), vec![]));
        let mine = EditDraft { metadata: "a=1\nb=3".into(), weight: "0".into(), ..draft.clone() };
        let (merged, disputed) = mine.merged(Layout::Kratos, &base, &theirs);
        assert_eq!((&*merged.version, &*merged.metadata, &*merged.weight), ("v2", "a=2\nb=3\n", "0"));
        assert_eq!(disputed, [Field::Weight]);
        let mine = EditDraft { metadata: "a=3\nb=1".into(), ..draft.clone() };
        let (merged, disputed) = mine.merged(Layout::Kratos, &base, &theirs);
        assert_eq!((&*merged.metadata, disputed), ("a=3\nb=1\n", vec![Field::Metadata]));
        let mine = EditDraft { metadata: "unreadable".into(), ..draft };
        let (merged, disputed) = mine.merged(Layout::Kratos, &base, &theirs);
        assert_eq!((&*merged.metadata, disputed), ("unreadable", vec![Field::Metadata]));
    }
}
