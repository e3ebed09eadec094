//! What the end of a call says of the instance, and of whether the call was carried out. Pure.

use std::error::Error;

use http::{Response, StatusCode};

use crate::call::tries::Failure;

/// The code `UNAVAILABLE` as it stands in a header.
const UNAVAILABLE: &[u8] = b"14";

/// Whether the answer is that the server is not available: gRPC's `UNAVAILABLE` without a message before it, or an HTTP
/// status that [stands for it](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
pub(super) fn is_unavailable<B>(response: &Response<B>) -> bool {
    if response.status() == StatusCode::OK {
        return response.headers().get("grpc-status").is_some_and(|code| code.as_bytes() == UNAVAILABLE);
    }
    matches!(response.status(), StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// What a transport's error says.
pub(super) fn failure(error: &tonic::transport::Error) -> Failure {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return Failure::Refused;
        }
        if error.is::<tonic::TimeoutExpired>() {
            return Failure::Final;
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>()
            && hyper.is_canceled()
        {
            // The connection was closed before it took the request.
            return Failure::Unsent;
        }
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            let unsent = h2.is_remote()
                && match h2.reason() {
                    // RFC 9113, 8.7: nothing of it was processed.
                    Some(h2::Reason::REFUSED_STREAM) => h2.is_reset(),
                    // A server that ends names the last stream it takes; this one came after it.
                    Some(h2::Reason::NO_ERROR) => h2.is_go_away(),
                    _ => false,
                };
            return if unsent { Failure::Unsent } else { Failure::Broken };
        }
        next = error.source();
    }
    Failure::Broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_is_told_from_other_answers() {
        let answer = |status: u16, code: Option<&str>| {
            let mut response = Response::builder().status(status);
            if let Some(code) = code {
                response = response.header("grpc-status", code);
            }
            is_unavailable(&response.body(()).unwrap())
        };
        assert!(answer(200, Some("14")));
        assert!(answer(503, None));
        assert!(answer(502, None));
        for (status, code) in [(200, None), (200, Some("0")), (200, Some("4")), (404, None), (500, None)] {
            assert!(!answer(status, code), "{status} {code:?}");
        }
    }
}
