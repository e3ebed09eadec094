//! go-kit's `sd/etcdv3`: a key and a value of the caller's choice, usually `{prefix}{service}/{address}` and a URL.
//!
//! See <https://github.com/go-kit/kit/tree/master/sd/etcdv3>.

use super::{
    check::EndpointRule,
    codec::{Codec, Place, Reading, Rules},
    edit::Edits,
    opaque,
};
use crate::instance::ServiceInstance;

pub(super) struct GoKit;

impl Codec for GoKit {
    fn rules(&self) -> Rules {
        Rules { version: false, metadata: false, endpoints: EndpointRule::UrlOrHostPort, prefix_names_service: true }
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
