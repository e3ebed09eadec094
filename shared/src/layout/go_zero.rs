//! go-zero: `{prefix}{service}/{lease or id}` holds a bare `host:port`.
//!
//! See <https://github.com/zeromicro/go-zero/tree/master/core/discov>.

use super::{
    check::EndpointRule,
    codec::{Codec, Place, Reading, Rules},
    edit::Edits,
    opaque,
};
use crate::instance::ServiceInstance;

pub(super) struct GoZero;

impl Codec for GoZero {
    fn rules(&self) -> Rules {
        Rules { version: false, metadata: false, endpoints: EndpointRule::HostPort, prefix_names_service: true }
    }

    fn read(&self, place: &Place<'_>, value: &[u8]) -> Result<Reading, String> {
        opaque::read(place, value)
    }

    fn write(&self, instance: &ServiceInstance) -> String {
        opaque::write(instance)
    }

    fn edit(&self, value: &[u8], before: &ServiceInstance, edited: &ServiceInstance) -> Result<Edits, String> {
        Ok(opaque::edit(value, before, edited))
    }
}
