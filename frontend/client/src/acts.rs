//! The bodies of requests that write, as the `Serialize` of their types has them, and what a batch is answered.
//!
//! Written and read here because these few are all that is ever sent: the page is loaded before anything is seen, and
//! what serde makes of them is several times the size. The tests hold both to each other.

use std::collections::BTreeMap;

use rollcall_shared::api::{
    ACTS_MAX, Act, ActAnswer, ActResult, BODY_BYTES_MAX, BatchAnswer, EditRequest, InstanceEdit, KeepAlive, Problem,
    RegisterRequest,
};
#[cfg(any(test, feature = "js"))]
use rollcall_shared::{FieldError, ServiceInstance};
use serde::Deserialize;

use crate::json::{self, Unreadable, Verbatim, quote};

/// How many bytes stand around the acts of a batch, and between two.
const AROUND: usize = r#"{"acts":[]}"#.len();

/// The body of `POST /instances`.
pub(crate) fn register(request: &RegisterRequest) -> String {
    let mut out = String::new();
    write_register(request, &mut out);
    out
}

/// The body of `PUT /instances`.
pub(crate) fn edit(request: &EditRequest) -> String {
    let mut out = String::from("{\"instance\":");
    write_edit(&request.instance, &mut out);
    out.push('}');
    out
}

/// The body of `POST /batch`.
pub(crate) fn batch(acts: &[Act]) -> String {
    let mut out = String::from("{\"acts\":[");
    for (index, act) in acts.iter().enumerate() {
        out.push_str(if index == 0 { "" } else { "," });
        write_act(act, &mut out);
    }
    out.push_str("]}");
    out
}

/// Parts `acts` into batches that the server takes: neither too many nor too large. An act that is too large by itself
/// has a batch of its own, which the server refuses.
pub fn batches(acts: &[Act]) -> Vec<&[Act]> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, AROUND);
    let mut written = String::new();
    for (index, act) in acts.iter().enumerate() {
        written.clear();
        write_act(act, &mut written);
        let with_comma = written.len() + 1;
        if index > start && (index - start == ACTS_MAX || bytes + with_comma > BODY_BYTES_MAX) {
            parts.push(&acts[start..index]);
            (start, bytes) = (index, AROUND);
        }
        bytes += with_comma;
    }
    if start < acts.len() {
        parts.push(&acts[start..]);
    }
    parts
}

/// Instances as a JSON list, each as a record has it.
#[cfg(any(test, feature = "js"))]
pub(crate) fn instances<'a>(instances: impl Iterator<Item = &'a ServiceInstance>) -> String {
    let mut out = String::from("[");
    for (index, instance) in instances.enumerate() {
        out.push_str(if index == 0 { "" } else { "," });
        let mut fields = Fields::open(&mut out);
        fields.text("id", Some(&instance.id));
        fields.text("name", Some(&instance.name));
        fields.text("version", Some(&instance.version));
        fields.map("metadata", Some(&instance.metadata));
        fields.list("endpoints", Some(&instance.endpoints));
        fields.close();
    }
    out.push(']');
    out
}

/// What is wrong with a request, as a JSON list.
#[cfg(any(test, feature = "js"))]
pub(crate) fn errors(errors: &[FieldError]) -> String {
    let mut out = String::from("[");
    for (index, error) in errors.iter().enumerate() {
        out.push_str(if index == 0 { "" } else { "," });
        let mut fields = Fields::open(&mut out);
        fields.text("pointer", Some(&error.pointer));
        fields.text("detail", Some(&error.detail));
        fields.close();
    }
    out.push(']');
    out
}

/// Reads what `acts` were answered.
pub(crate) fn results(text: &str, acts: &[Act]) -> Result<BatchAnswer, Unreadable> {
    #[derive(Deserialize)]
    struct Rows<'a> {
        #[serde(borrow)]
        results: Vec<Row<'a>>,
    }
    #[derive(Deserialize)]
    struct Row<'a> {
        status: u16,
        #[serde(borrow, default)]
        answer: Option<Verbatim<'a>>,
        #[serde(default)]
        problem: Option<Problem>,
    }
    let rows: Rows<'_> = json::read(text)?;
    if rows.results.len() != acts.len() {
        return Err(Unreadable::at_the_end(text));
    }
    let result = |(row, act): (Row<'_>, &Act)| match (row.problem, row.answer) {
        (Some(problem), _) => Ok(ActResult::Refused { status: row.status, problem: Box::new(problem) }),
        (None, Some(Verbatim(answer))) => {
            let answer = match act {
                Act::Deregister { .. } => ActAnswer::Deregistered(json::read(answer)?),
                Act::Revoke { .. } => ActAnswer::Revoked(json::read(answer)?),
                Act::Edit { .. } => ActAnswer::Edited(json::read(answer)?),
                Act::Register(_) | Act::Undo { .. } => ActAnswer::Registered(json::read(answer)?),
            };
            Ok(ActResult::Done { status: row.status, answer })
        }
        (None, None) => Err(Unreadable::at_the_end(text)),
    };
    let results = rows.results.into_iter().zip(acts).map(result).collect::<Result<_, _>>()?;
    Ok(BatchAnswer { results })
}

fn write_act(act: &Act, out: &mut String) {
    let key_at = |kind: &str, key: &str, mod_revision: i64, out: &mut String| {
        out.push_str(kind);
        quote(key, out);
        out.push_str(",\"mod_revision\":");
        out.push_str(&mod_revision.to_string());
    };
    match act {
        Act::Deregister { key, mod_revision } => key_at("{\"deregister\":{\"key\":", key, *mod_revision, out),
        Act::Revoke { lease, keys } => {
            out.push_str("{\"revoke\":{\"lease\":");
            quote(&lease.to_string(), out);
            out.push_str(",\"keys\":");
            out.push_str(&keys.to_string());
        }
        Act::Edit { key, mod_revision, instance } => {
            key_at("{\"edit\":{\"key\":", key, *mod_revision, out);
            out.push_str(",\"instance\":");
            write_edit(instance, out);
        }
        Act::Register(request) => {
            out.push_str("{\"register\":");
            write_register(request, out);
            out.push('}');
            return;
        }
        Act::Undo { token } => {
            out.push_str("{\"undo\":{\"token\":");
            quote(token, out);
        }
    }
    out.push_str("}}");
}

fn write_register(request: &RegisterRequest, out: &mut String) {
    let RegisterRequest { layout, instance, ttl_s, keep_alive } = request;
    out.push_str("{\"layout\":");
    quote(layout.as_str(), out);
    out.push_str(",\"instance\":");
    let mut fields = Fields::open(out);
    fields.text("id", instance.id.as_deref());
    fields.text("name", Some(&instance.name));
    fields.text("version", Some(&instance.version));
    fields.map("metadata", Some(&instance.metadata));
    fields.list("endpoints", Some(&instance.endpoints));
    fields.close();
    out.push_str(",\"ttl_s\":");
    out.push_str(&ttl_s.map_or_else(|| "null".to_owned(), |ttl_s| ttl_s.to_string()));
    if let Some(keep_alive) = keep_alive {
        out.push_str(match keep_alive {
            KeepAlive::Caller => ",\"keep_alive\":\"caller\"",
            KeepAlive::Server => ",\"keep_alive\":\"server\"",
        });
    }
    out.push('}');
}

fn write_edit(instance: &InstanceEdit, out: &mut String) {
    let mut fields = Fields::open(out);
    fields.text("id", instance.id.as_deref());
    fields.text("name", instance.name.as_deref());
    fields.text("version", instance.version.as_deref());
    fields.map("metadata", instance.metadata.as_ref());
    fields.list("endpoints", instance.endpoints.as_deref());
    fields.close();
}

/// An object that is being written, of the fields that are there.
struct Fields<'a> {
    out: &'a mut String,
    is_first: bool,
}

impl<'a> Fields<'a> {
    fn open(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, is_first: true }
    }

    fn close(self) {
        self.out.push('}');
    }

    fn name(&mut self, name: &str) {
        self.out.push_str(if self.is_first { "" } else { "," });
        self.is_first = false;
        quote(name, self.out);
        self.out.push(':');
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.name(name);
            quote(text, self.out);
        }
    }

    fn map(&mut self, name: &str, map: Option<&BTreeMap<String, String>>) {
        let Some(map) = map else { return };
        self.name(name);
        let mut fields = Fields::open(self.out);
        for (name, text) in map {
            fields.text(name, Some(text));
        }
        fields.close();
    }

    fn list(&mut self, name: &str, list: Option<&[String]>) {
        let Some(list) = list else { return };
        self.name(name);
        self.out.push('[');
        for (index, text) in list.iter().enumerate() {
            self.out.push_str(if index == 0 { "" } else { "," });
            quote(text, self.out);
        }
        self.out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use rollcall_shared::{
        Layout, LeaseId,
        api::{BatchRequest, InstanceDraft},
    };
    use serde_json::{Value, json};

    use super::*;

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn metadata() -> BTreeMap<String, String> {
        [("a\"".to_owned(), "b\n".to_owned()), ("c".to_owned(), String::new())].into()
    }

    fn registrations() -> Vec<RegisterRequest> {
        let instance = InstanceDraft {
            id: Some("i\"1".into()),
            name: "支付".into(),
            version: "v1".into(),
            metadata: metadata(),
            endpoints: vec!["http://a:1".into(), "grpc://a:2".into()],
        };
        let ttls = [(Some(15), Some(KeepAlive::Server)), (Some(9_000_000_000), Some(KeepAlive::Caller)), (None, None)];
        ttls.into_iter()
            .flat_map(|(ttl_s, keep_alive)| {
                [instance.clone(), InstanceDraft::default()].map(|instance| RegisterRequest {
                    layout: Layout::GoMicro,
                    instance,
                    ttl_s,
                    keep_alive,
                })
            })
            .collect()
    }

    fn edits() -> Vec<InstanceEdit> {
        let all = InstanceEdit {
            id: Some("i".into()),
            name: Some("支付".into()),
            version: Some(String::new()),
            metadata: Some(metadata()),
            endpoints: Some(vec!["http://a:1".into(), "\\".into()]),
        };
        vec![
            InstanceEdit::default(),
            InstanceEdit { metadata: Some(BTreeMap::new()), ..InstanceEdit::default() },
            InstanceEdit { endpoints: Some(Vec::new()), ..InstanceEdit::default() },
            all,
        ]
    }

    fn acts() -> Vec<Act> {
        let mut acts = vec![
            Act::Deregister { key: "/m/a\"/1".into(), mod_revision: i64::MAX },
            Act::Revoke { lease: LeaseId(-1), keys: 3 },
            Act::Undo { token: "t\u{1}".into() },
        ];
        acts.extend(registrations().into_iter().map(Act::Register));
        acts.extend(edits().into_iter().map(|instance| Act::Edit { key: "k".into(), mod_revision: 7, instance }));
        acts
    }

    #[test]
    fn what_is_sent_is_what_serde_would_send() {
        for request in registrations() {
            assert_eq!(parsed(&register(&request)), serde_json::to_value(&request).unwrap());
        }
        for instance in edits() {
            let request = EditRequest { instance };
            assert_eq!(parsed(&edit(&request)), serde_json::to_value(&request).unwrap());
        }
        for acts in [acts(), Vec::new()] {
            assert_eq!(parsed(&batch(&acts)), serde_json::to_value(BatchRequest { acts }).unwrap());
        }
    }

    #[test]
    fn lists_are_written_as_serde_writes_them() {
        let instance = ServiceInstance {
            id: "i\"1".into(),
            name: "支付".into(),
            version: "v\\1".into(),
            metadata: metadata(),
            endpoints: vec!["http://a:1".into(), "grpc://a:2".into()],
        };
        for list in [vec![], vec![instance.clone()], vec![instance, ServiceInstance::default()]] {
            assert_eq!(parsed(&instances(list.iter())), serde_json::to_value(&list).unwrap());
        }
        for list in [vec![], vec![FieldError::new("/a/0", "b\n"), FieldError::new("", "")]] {
            assert_eq!(parsed(&errors(&list)), serde_json::to_value(&list).unwrap());
        }
    }

    #[test]
    fn what_a_batch_is_answered_reads_as_serde_json_reads_it() {
        let record = json!({"key": "/m/h/8", "source": "/m/", "layout": "kratos", "service": "h", "lease": null,
            "create_revision": 1, "mod_revision": 2,
            "instance": {"id": "8", "name": "h\"", "version": "", "metadata": {}, "endpoints": []}});
        let problem =
            json!({"type": "about:blank", "title": "Conflict", "status": 409, "detail": "d", "record": record});
        let instance = InstanceEdit::default;
        let acts = [
            Act::Deregister { key: "k".into(), mod_revision: 1 },
            Act::Revoke { lease: LeaseId(1), keys: 2 },
            Act::Edit { key: "k".into(), mod_revision: 1, instance: instance() },
            Act::Edit { key: "k".into(), mod_revision: 1, instance: instance() },
            Act::Register(registrations().remove(0)),
            Act::Undo { token: "t".into() },
            Act::Undo { token: "t".into() },
        ];
        let answer = json!({"results": [
            {"status": 200, "answer": {"deleted": record, "undo": "t"}},
            {"status": 200, "answer": {"revoked": "000000000000007b", "deleted": ["a", "b"]}},
            {"status": 200, "answer": {"record": record, "undo": "t"}},
            {"status": 200, "answer": {"record": record, "undo": null}},
            {"status": 201, "answer": {"record": record, "lease": "000000000000007b"}},
            {"status": 200, "answer": {"record": record, "lease": null}},
            {"status": 409, "problem": problem},
        ]});
        for text in [answer.to_string(), serde_json::to_string_pretty(&answer).unwrap()] {
            let read = results(&text, &acts).unwrap();
            assert_eq!(read, serde_json::from_str(&text).unwrap());
            assert!(results(&text, &acts[1..]).is_err(), "as many results as acts");
        }
        assert!(results(r#"{"results":[{"status":200}]}"#, &acts[..1]).is_err());
        assert!(results(r#"{"results":[{"status":200,"answer":{"undo":"t"}}]}"#, &acts[..1]).is_err());
    }

    #[test]
    fn what_is_too_much_for_one_batch_is_parted() {
        assert!(batches(&[]).is_empty());
        let undo = |bytes: usize| Act::Undo { token: "t".repeat(bytes) };
        let lengths = |acts: &[Act]| batches(acts).iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&vec![undo(1); ACTS_MAX]), [ACTS_MAX]);
        assert_eq!(lengths(&vec![undo(1); 2 * ACTS_MAX + 1]), [ACTS_MAX, ACTS_MAX, 1]);
        let large = vec![undo(BODY_BYTES_MAX / 3); 7];
        assert_eq!(lengths(&large), [2, 2, 2, 1]);
        assert_eq!(lengths(&[undo(1), undo(BODY_BYTES_MAX), undo(1)]), [1, 1, 1]);
        let mixed: Vec<Act> = (0..700).map(undo).collect();
        let parts = batches(&mixed);
        assert_eq!(parts.concat(), mixed);
        for part in parts {
            assert!(batch(part).len() <= BODY_BYTES_MAX && part.len() <= ACTS_MAX);
        }
    }
}
