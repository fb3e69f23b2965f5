//! The header `traceparent` of W3C Trace Context: `version-trace_id-parent_id-flags`, in lower-case hexadecimal digits.

use axum::http::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanId, TraceId};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The length in version 00. Later versions may append fields, each after a hyphen.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;

/// Marks a byte that is no digit.
const INVALID: u8 = 0x10;
/// The value of each lower-case hexadecimal digit.
static DIGITS: [u8; 256] = {
    let mut values = [INVALID; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// The context of the client's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceParent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) is_sampled: bool,
}

/// The client's context. An invalid header, or more than one, counts as none.
pub(super) fn of(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { parse(value.as_bytes()) }
}

fn parse(text: &[u8]) -> Option<TraceParent> {
    let (fields, rest) = text.split_at_checked(LENGTH)?;
    let fields: &[u8; LENGTH] = fields.try_into().ok()?;
    let are_separated = fields[2] == b'-' && fields[35] == b'-' && fields[52] == b'-';
    let version = hex(&fields[..2])?;
    let is_complete = rest.is_empty() || version > 0 && rest[0] == b'-';
    if !are_separated || !is_complete || version == 0xff {
        return None;
    }
    let (high, low, span) = (hex(&fields[3..19])?, hex(&fields[19..35])?, hex(&fields[36..52])?);
    let flags = hex(&fields[53..])?;
    let trace = u128::from(high) << 64 | u128::from(low);
    (trace != 0 && span != 0).then(|| TraceParent {
        trace: TraceId::from(trace),
        span: SpanId::from(span),
        is_sampled: flags & u64::from(SAMPLED) != 0,
    })
}

/// At most 16 digits. Without a branch for each digit, because every request with a `traceparent` pays for this.
fn hex(digits: &[u8]) -> Option<u64> {
    let (mut value, mut all) = (0, 0);
    for digit in digits {
        let digit = DIGITS[usize::from(*digit)];
        value = value << 4 | u64::from(digit);
        all |= digit;
    }
    (all < INVALID).then_some(value)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use opentelemetry::propagation::TextMapPropagator;
    use opentelemetry::trace::TraceContextExt;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (TRACEPARENT, value.parse().unwrap())).fold(HeaderMap::new(), |mut map, (k, v)| {
            map.append(k, v);
            map
        })
    }

    #[test]
    fn the_ids_and_the_sampled_flag_are_read() {
        let parent = of(&headers(&[VALID])).unwrap();
        assert_eq!(parent.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((parent.span.to_string().as_str(), parent.is_sampled), ("b7ad6b7169203331", true));
        for (flags, is_sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            assert_eq!(parse(VALID.replace("-01", &format!("-{flags}")).as_bytes()).unwrap().is_sampled, is_sampled);
        }
    }

    #[test]
    fn a_later_version_may_have_more_fields() {
        let later = VALID.replacen("00", "cc", 1);
        for valid in [later.clone(), format!("{later}-"), format!("{later}-what-the-future-will-be-like")] {
            assert!(parse(valid.as_bytes()).is_some(), "{valid}");
        }
        assert!(parse(format!("{later}.x").as_bytes()).is_none());
    }

    #[test]
    fn invalid_and_repeated_headers_are_ignored() {
        for invalid in [
            "",
            "00",
            &VALID[..54],
            &format!("{VALID}-"),
            &format!("{VALID}0"),
            &VALID.replacen("00", "ff", 1),
            &VALID.replacen("00", "0g", 1),
            &VALID.to_uppercase(),
            &VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            &VALID.replace('-', "_"),
            &VALID.replace("-01", "-0x"),
            &"0".repeat(55),
            &"x".repeat(100_000),
        ] {
            assert_eq!(of(&headers(&[invalid])), None, "{invalid}");
        }
        assert_eq!(of(&headers(&[VALID, VALID])), None);
        assert_eq!(of(&HeaderMap::new()), None);
    }

    proptest! {
        /// The propagator of OpenTelemetry's SDK is laxer: it accepts any length of the flags, and more.
        #[test]
        fn what_is_accepted_is_what_the_sdk_reads(text in "(00|01|cc|ff|0A)-[0-9a-fA]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{2}(-x)?") {
            let map = HashMap::from([("traceparent".to_owned(), text.clone())]);
            let context = TraceContextPropagator::new().extract(&map);
            let expected = context.span().span_context().clone();
            if let Some(parent) = parse(text.as_bytes()) {
                prop_assert_eq!((parent.trace, parent.span), (expected.trace_id(), expected.span_id()));
                prop_assert_eq!(parent.is_sampled, expected.is_sampled());
            }
        }
    }
}
