//! What the end of a call says of the instance, and of whether the call was carried out. Pure.

use std::{error::Error, time::Duration};

use http::{HeaderMap, Response, StatusCode};

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

/// How long the caller gives the call, with all its tries, as
/// [`grpc-timeout`](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests) says it.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = said.split_at_checked(said.len().checked_sub(1)?)?;
    let count: u32 = (digits.len() <= 8).then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_hours(count.into()),
        "M" => Duration::from_mins(count.into()),
        "S" => Duration::from_secs(count.into()),
        "m" => Duration::from_millis(count.into()),
        "u" => Duration::from_micros(count.into()),
        "n" => Duration::from_nanos(count.into()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_a_caller_gives_is_read() {
        let said =
            |said: &str| timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), said.parse().unwrap())]));
        assert_eq!(said("2H"), Some(Duration::from_hours(2)));
        assert_eq!(said("3M"), Some(Duration::from_mins(3)));
        assert_eq!(said("4S"), Some(Duration::from_secs(4)));
        assert_eq!(said("500m"), Some(Duration::from_millis(500)));
        assert_eq!(said("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(said("1n"), Some(Duration::from_nanos(1)));
        for wrong in ["", "S", "1", "1x", "-1S", "100000000S", "1.5S"] {
            assert_eq!(said(wrong), None, "{wrong:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

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
