//! Hand-written clients: `{prefix}{name}` or `{prefix}{name}/{id}` holds a bare address or `{"ID":1,"IP":"host:port"}`.

use super::{
    check::{EndpointRule, is_host_and_port},
    codec::{Codec, Place, Reading, Rules},
    edit::Edits,
    go_json, opaque,
};
use crate::{
    instance::ServiceInstance,
    json::{self, Node, Value},
};

pub(super) struct Plain;

/// The id that the value says, as text.
fn id(root: &Node<'_>) -> Result<Option<String>, String> {
    let Some(member) = go_json::fields(root, "ID").next_back() else { return Ok(None) };
    match &member.node.value {
        Value::Number(digits) => Ok(Some((*digits).to_owned())),
        Value::Text(text) => Ok((!text.is_empty()).then(|| text.clone().into_owned())),
        Value::Null => Ok(None),
        other => Err(format!("`ID` is {} where a number or a string belongs", other.kind())),
    }
}

/// Whether `value` is meant to be an object.
fn is_object(value: &[u8]) -> bool {
    value.trim_ascii_start().starts_with(b"{")
}

impl Codec for Plain {
    fn rules(&self) -> Rules {
        Rules { version: false, metadata: false, endpoints: EndpointRule::HostPort, prefix_names_service: false }
    }

    fn read(&self, place: &Place<'_>, value: &[u8]) -> Result<Reading, String> {
        let mut warnings = Vec::new();
        let (id, address) = if is_object(value) {
            let root = go_json::object(value)?;
            let address = go_json::text(&root, "IP")?;
            if address.is_empty() {
                return Err("the value has no `IP`, so there is nothing to call".to_owned());
            }
            let id = id(&root)?;
            if let Some(id) = &id
                && place.key != format!("{}{}", place.prefix, place.service)
                && id != place.id
            {
                warnings.push(format!("the value says the id is {id}, which is not what the key says"));
            }
            (id, address)
        } else {
            let text = str::from_utf8(value).map_err(|_| "the value is no UTF-8, so it is no address".to_owned())?;
            let text = text.trim_ascii();
            if text.is_empty() {
                return Err("the value is empty, where an address belongs".to_owned());
            }
            if let Ok(node) = json::parse(text.as_bytes()) {
                return Err(format!("the value is {}, where an address or an object belongs", node.value.kind()));
            }
            if text.chars().any(|char| char.is_whitespace() || char.is_control()) {
                return Err("the value is text that is no address".to_owned());
            }
            (None, text.to_owned())
        };
        if !is_host_and_port(&address) {
            warnings.push(format!("{address} is no host:port"));
        }
        let id = id.unwrap_or_else(|| place.id.to_owned());
        Ok(Reading { instance: opaque::instance(place, id, &address), warnings })
    }

    fn write(&self, instance: &ServiceInstance) -> String {
        opaque::write(instance)
    }

    fn edit(&self, value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Result<Edits, String> {
        if !is_object(value) {
            return Ok(opaque::edit(value, before, edited));
        }
        let root = go_json::object(value)?;
        let mut edits = Edits::default();
        if let ([address], true) = (&*edited.endpoints, before.endpoints != edited.endpoints) {
            edits.set(&root, "IP", address);
        }
        Ok(edits)
    }
}
