//! Reads what `PUT /instances` asks for. Must not know: what stands there now.

use rollcall_shared::{
    FieldError,
    api::{EditRequest, InstanceEdit},
};
use serde_json::Value;

use crate::faults::Faults;

/// Reads the body.
///
/// # Errors
/// Every field that is missing, of the wrong kind or unknown.
pub fn read(body: &Value) -> Result<EditRequest, Vec<FieldError>> {
    let mut faults = Faults::default();
    let body = Faults::object("", body)?;
    faults.unknown("", body, &["instance"]);
    let instance: InstanceEdit = faults.edit(body.get("instance"));
    faults.unless(EditRequest { instance })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_given_is_read_and_what_is_not_stays_open() {
        assert_eq!(read(&json!({"instance": {}})).unwrap(), EditRequest::default());
        let body = json!({"instance": {"id": "1", "name": "a", "version": "", "metadata": {}, "endpoints": []}});
        assert_eq!(serde_json::to_value(read(&body).unwrap()).unwrap(), body);
    }

    #[test]
    fn every_fault_is_told_where_it_is() {
        for (body, expected) in [
            (json!([]), &[""][..]),
            (json!({}), &["/instance"]),
            (json!({"instance": null}), &["/instance"]),
            (json!({"instance": {}, "ttl_s": 1}), &["/ttl_s"]),
            (json!({"instance": {"weight": 1}}), &["/instance/weight"]),
            (
                json!({"instance": {"metadata": null, "endpoints": null}}),
                &["/instance/metadata", "/instance/endpoints"],
            ),
            (json!({"instance": {"version": null, "id": 1}}), &["/instance/id", "/instance/version"]),
            (
                json!({"instance": {"metadata": {"a/b": 1}, "endpoints": [2]}}),
                &["/instance/metadata/a~1b", "/instance/endpoints/0"],
            ),
        ] {
            let faults = read(&body).unwrap_err();
            assert_eq!(faults.iter().map(|fault| &*fault.pointer).collect::<Vec<_>>(), expected, "{body}");
        }
    }
}
