//! Reads what `POST /batch` asks for, and finds out which acts must wait for one another. Must not know: how an act is
//! done.

use std::collections::{BTreeSet, HashMap};

use rollcall_shared::{
    FieldError, LeaseId, Revision,
    api::{ACTS_MAX, Act},
    instance::LeaseIdError,
};
use serde_json::{Map, Value};

use crate::{faults::Faults, problem::Failure, register};

/// The acts there are.
const KINDS: [&str; 5] = ["deregister", "revoke", "edit", "register", "undo"];

/// What an act touches: two that touch the same are done in the order in which they were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Touched {
    /// A key.
    Key(String),
    /// A lease.
    Lease(LeaseId),
}

/// One act, or why it cannot be one: what is wrong with one is no matter of the others.
pub type Asked = Result<Act, Failure>;

/// Reads the body.
///
/// # Errors
/// Where it is no list of 1 to [`ACTS_MAX`] acts, each by a known name: then none of them is done.
pub fn read(body: &Value) -> Result<Vec<Asked>, Vec<FieldError>> {
    let mut faults = Faults::default();
    let body = Faults::object("", body)?;
    faults.unknown("", body, &["acts"]);
    let acts = match body.get("acts") {
        Some(Value::Array(acts)) if (1..=ACTS_MAX).contains(&acts.len()) => acts.as_slice(),
        Some(Value::Array(acts)) => {
            faults.add("/acts", format!("1 to {ACTS_MAX} acts are wanted; here are {}", acts.len()));
            &[]
        }
        Some(_) => {
            faults.add("/acts", "a list of acts is wanted");
            &[]
        }
        None => {
            faults.add("/acts", format!("missing: a list of 1 to {ACTS_MAX} acts is wanted"));
            &[]
        }
    };
    let mut asked = Vec::with_capacity(acts.len());
    for (index, act) in acts.iter().enumerate() {
        let only = act.as_object().filter(|act| act.len() == 1).and_then(|act| act.iter().next());
        match only {
            Some((kind, body)) if KINDS.contains(&kind.as_str()) => asked.push(act_of(kind, body)),
            _ => {
                let wanted = format!("an object of one member is wanted, named {}", KINDS.join(", "));
                faults.add(format!("/acts/{index}"), wanted);
            }
        }
    }
    faults.unless(asked)
}

/// Reads one act. Pointers are those of the request of its own that it stands for.
fn act_of(kind: &str, body: &Value) -> Asked {
    if kind == "register" {
        return register::read(body).map(Act::Register).map_err(Failure::unprocessable);
    }
    let object = Faults::object("", body).map_err(Failure::unprocessable)?;
    let mut faults = Faults::default();
    let missing = |name: &str| object.get(name).is_none_or(Value::is_null);
    let act = match kind {
        "deregister" => {
            faults.unknown("", object, &["key", "mod_revision"]);
            let key = faults.text("/key", object.get("key"));
            Act::Deregister { key, mod_revision: revision(&mut faults, object) }
        }
        "edit" => {
            faults.unknown("", object, &["key", "mod_revision", "instance"]);
            let key = faults.text("/key", object.get("key"));
            let mod_revision = revision(&mut faults, object);
            Act::Edit { key, mod_revision, instance: faults.edit(object.get("instance")) }
        }
        "revoke" => {
            faults.unknown("", object, &["lease", "keys"]);
            let lease = object.get("lease").and_then(Value::as_str).and_then(|text| text.parse().ok());
            if lease.is_none() {
                faults.add("/lease", format!("{LeaseIdError}"));
            }
            let keys = object.get("keys").and_then(Value::as_u64).and_then(|keys| usize::try_from(keys).ok());
            if keys.is_none() && !missing("keys") {
                faults.add("/keys", "a whole number is wanted: how many keys the lease was seen to hold");
            }
            Act::Revoke { lease: lease.unwrap_or(LeaseId(0)), keys: keys.unwrap_or_default() }
        }
        _ => {
            faults.unknown("", object, &["token"]);
            Act::Undo { token: faults.text("/token", object.get("token")) }
        }
    };
    let act = faults.unless(act).map_err(Failure::unprocessable)?;
    match &act {
        Act::Deregister { .. } | Act::Edit { .. } if missing("mod_revision") => Err(Failure::no_revision()),
        Act::Revoke { .. } if missing("keys") => Err(Failure::no_keys()),
        _ => Ok(act),
    }
}

/// The field `mod_revision`; 0 where it is missing, which is another fault than a wrong one.
fn revision(faults: &mut Faults, object: &Map<String, Value>) -> Revision {
    match object.get("mod_revision") {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_i64().filter(|revision| *revision >= 1).unwrap_or_else(|| {
            faults.add("/mod_revision", "a whole number of 1 or more is wanted");
            0
        }),
    }
}

/// Acts that must be done one after the other, each with its number.
pub type Lane<T> = Vec<(usize, T)>;

/// Puts acts that touch the same, also by way of a third, into one lane, in the order they stand in.
pub fn lanes<T>(acts: Vec<(Vec<Touched>, T)>) -> Vec<Lane<T>> {
    let mut lanes: Vec<Lane<T>> = Vec::new();
    let mut lane_of: HashMap<Touched, usize> = HashMap::new();
    for (number, (touched, act)) in acts.into_iter().enumerate() {
        let met: BTreeSet<usize> = touched.iter().filter_map(|touched| lane_of.get(touched)).copied().collect();
        let lane = met.first().copied().unwrap_or_else(|| {
            lanes.push(Vec::new());
            lanes.len() - 1
        });
        for other in met.into_iter().skip(1) {
            let joined = std::mem::take(&mut lanes[other]);
            lanes[lane].extend(joined);
            lane_of.values_mut().filter(|at| **at == other).for_each(|at| *at = lane);
        }
        lanes[lane].push((number, act));
        lane_of.extend(touched.into_iter().map(|touched| (touched, lane)));
    }
    lanes.retain(|lane| !lane.is_empty());
    for lane in &mut lanes {
        lane.sort_by_key(|(number, _)| *number);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(act: &Value) -> u16 {
        let mut asked = read(&json!({"acts": [act]})).unwrap();
        asked.pop().unwrap().map_or_else(|failure| failure.into_problem().status, |_| 200)
    }

    #[test]
    fn a_body_that_is_no_batch_is_refused_as_a_whole() {
        let undo = json!({"undo": {"token": "t"}});
        let pointers = |body: &Value| -> Vec<String> {
            read(body).map_or_else(|faults| faults.into_iter().map(|fault| fault.pointer).collect(), |_| Vec::new())
        };
        assert!(pointers(&json!({"acts": vec![&undo; ACTS_MAX]})).is_empty());
        for (body, expected) in [
            (json!([]), &[""][..]),
            (json!({}), &["/acts"]),
            (json!({"acts": {}}), &["/acts"]),
            (json!({"acts": []}), &["/acts"]),
            (json!({"acts": vec![&undo; ACTS_MAX + 1]}), &["/acts"]),
            (json!({"acts": [undo], "atomic": true}), &["/atomic"]),
            (
                json!({"acts": [undo, {"delete": {}}, 7, {}, {"undo": {}, "edit": {}}]}),
                &["/acts/1", "/acts/2", "/acts/3", "/acts/4"],
            ),
        ] {
            assert_eq!(pointers(&body), expected, "{body}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_act_is_a_matter_of_its_own() {
        for (act, expected) in [
            (json!({"deregister": {"key": "k", "mod_revision": 1}}), 200),
            (json!({"deregister": {"key": "k"}}), 428),
            (json!({"deregister": {"key": "k", "mod_revision": 0}}), 422),
            (json!({"deregister": {"key": "k", "mod_revision": "1"}}), 422),
            (json!({"deregister": {"mod_revision": 1}}), 422),
            (json!({"deregister": {"key": "k", "mod_revision": 1, "force": true}}), 422),
            (json!({"deregister": []}), 422),
            (json!({"revoke": {"lease": "7b", "keys": 0}}), 200),
            (json!({"revoke": {"lease": "7b"}}), 428),
            (json!({"revoke": {"lease": "7b", "keys": -1}}), 422),
            (json!({"revoke": {"lease": "0", "keys": 1}}), 422),
            (json!({"revoke": {"lease": "", "keys": 1}}), 422),
            (json!({"revoke": {"keys": 1}}), 422),
            (json!({"edit": {"key": "k", "mod_revision": 1, "instance": {}}}), 200),
            (json!({"edit": {"key": "k", "instance": {}}}), 428),
            (json!({"edit": {"key": "k", "mod_revision": 1}}), 422),
            (json!({"register": {}}), 422),
            (json!({"undo": {"token": "t"}}), 200),
            (json!({"undo": {}}), 422),
        ] {
            assert_eq!(status(&act), expected, "{act}");
        }
    }

    #[test]
    fn what_touches_the_same_is_done_in_order() {
        let key = |name: &str| Touched::Key(name.to_owned());
        let lease = |id| Touched::Lease(LeaseId(id));
        let acts = [
            vec![key("a")],
            vec![key("b"), lease(1)],
            vec![],
            vec![key("c")],
            vec![key("a")],
            vec![lease(1)],
            vec![key("c"), lease(1)],
            vec![key("b")],
            vec![],
        ];
        let lanes = lanes(acts.into_iter().map(|touched| (touched, ())).collect());
        let mut numbers: Vec<Vec<usize>> =
            lanes.into_iter().map(|lane| lane.into_iter().map(|(number, ())| number).collect()).collect();
        numbers.sort();
        assert_eq!(numbers, [vec![0, 4], vec![1, 3, 5, 6, 7], vec![2], vec![8]]);
    }
}
