//! Values that are nothing but an endpoint: what go-kit and go-zero have in common.

use super::{
    codec::{Place, Reading},
    edit::Edits,
};
use crate::instance::ServiceInstance;

/// The instance whose endpoint is all of `value`.
pub(super) fn read(place: &Place<'_>, value: &[u8]) -> Result<Reading, String> {
    let endpoint = str::from_utf8(value).map_err(|_| "the value is no UTF-8, so it is no address".to_owned())?;
    if endpoint.is_empty() {
        return Err("the value is empty, where an address belongs".to_owned());
    }
    Ok(Reading { instance: instance(place, place.id.to_owned(), endpoint), warnings: Vec::new() })
}

/// The instance under `place` that answers at `endpoint`.
pub(super) fn instance(place: &Place<'_>, id: String, endpoint: &str) -> ServiceInstance {
    ServiceInstance {
        id,
        name: place.service.to_owned(),
        endpoints: vec![endpoint.to_owned()],
        ..ServiceInstance::default()
    }
}

/// The one endpoint of `instance`.
pub(super) fn write(instance: &ServiceInstance) -> String {
    instance.endpoints.first().cloned().unwrap_or_default()
}

/// Puts the new endpoint where the old one stands.
pub(super) fn edit(value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Edits {
    let mut edits = Edits::default();
    if before.endpoints != edited.endpoints {
        let begin = value.len() - value.trim_ascii_start().len();
        let span = match before.endpoints.first() {
            // A hand-written client's address may have whitespace around it, which no endpoint has.
            Some(endpoint) if endpoint.len() < value.len() => begin..begin + endpoint.len(),
            _ => 0..value.len(),
        };
        edits.replace(span, write(edited));
    }
    edits
}
