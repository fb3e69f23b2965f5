//! Who sends a request: found by its token, and held to its limits.
//!
//! A token is taken from `Authorization: Bearer` (RFC 6750), else from `X-Api-Key`, before the body is read; else from the
//! envelope. Where there is one in a header, that in the envelope is not looked at.

use std::sync::Arc;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::Problem;
use crate::decode::Token;
use crate::queue::Share;
use crate::tenants::{RateLimit, RateLimitExceeded, Tenant, Tenants};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// What a sender over a limit is told to wait at the least, in seconds, before jitter.
const SHORTEST_SECS: f64 = 1.0;

/// Who sends.
#[derive(Debug, Clone)]
pub(super) enum Sender {
    /// Anybody: there are no tenants.
    Anybody,
    /// Nobody yet: the envelope may say who.
    Unnamed(Arc<Tenants>),
    /// A tenant.
    Tenant(Arc<Tenant>),
}

impl Sender {
    /// Whoever the headers say.
    pub(super) fn of(headers: &HeaderMap, tenants: Option<&Arc<Tenants>>) -> Result<Self, Problem> {
        let Some(tenants) = tenants else { return Ok(Self::Anybody) };
        match token(headers) {
            Some(token) => tenants.find(token).map(Self::Tenant).ok_or(Problem::UnknownToken),
            None => Ok(Self::Unnamed(Arc::clone(tenants))),
        }
    }

    /// Whoever the headers say; refused if they do not.
    pub(super) fn in_headers(headers: &HeaderMap, tenants: Option<&Arc<Tenants>>) -> Result<Self, Problem> {
        match Self::of(headers, tenants)? {
            Self::Unnamed(_) => Err(Problem::NoToken),
            sender => Ok(sender),
        }
    }

    /// Whoever the envelope says, for a request whose headers did not say. A token that is no string is refused, whoever
    /// sends it, unless anybody may send.
    pub(super) fn in_envelope(&self, token: Option<Token<'_>>) -> Result<Option<Arc<Tenant>>, Problem> {
        if matches!(self, Self::Anybody) {
            return Ok(None);
        }
        let text = token.map(|token| token.text().ok_or(Problem::TokenNoString)).transpose()?;
        let Self::Unnamed(tenants) = self else { return Ok(None) };
        let text = text.filter(|text| !text.is_empty()).ok_or(Problem::NoToken)?;
        tenants.find(text.as_bytes()).map(Some).ok_or(Problem::UnknownToken)
    }

    pub(super) fn tenant(&self) -> Option<&Tenant> {
        match self {
            Self::Tenant(tenant) => Some(tenant),
            Self::Anybody | Self::Unnamed(_) => None,
        }
    }

    /// What it may hold of the queue; none if that is all of it.
    pub(super) fn share(&self) -> Option<&Share> {
        match self {
            Self::Anybody => None,
            Self::Unnamed(tenants) => tenants.unauthenticated_share(),
            Self::Tenant(tenant) => tenant.share(),
        }
    }

    /// A tenant's own share, once it is known who sends.
    pub(super) fn tenant_share(&self) -> Option<&Share> {
        self.tenant().and_then(Tenant::share)
    }

    /// Counts `amount` against a limit of the tenant's, if it is known who that is.
    pub(super) fn take(&self, limit: RateLimit, amount: usize) -> Result<(), Problem> {
        let Some(tenant) = self.tenant() else { return Ok(()) };
        tenant.rate_limiters().take(limit, amount).map_err(|over| match over {
            RateLimitExceeded::RetryAfter(wait) => {
                let secs = wait.as_secs_f64().max(SHORTEST_SECS) * (1.0 + fastrand::f64() / 2.0);
                Problem::OverRate { limit, retry_after: secs.ceil() as u64 }
            }
            RateLimitExceeded::AboveBurst { burst: most } => Problem::TooLarge(format!(
                "{amount} is more than the {most} that this tenant may ever send at once (its {} times burst_seconds): \
                 split the batch",
                limit.name()
            )),
        })
    }
}

/// What an `Authorization` holds behind `Bearer` (RFC 6750, 2.1); none of another scheme.
pub(crate) fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The token that the headers bear. An authorization of another scheme is not for us.
fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get_all(AUTHORIZATION).iter().find_map(bearer);
    let key = || headers.get(X_API_KEY).map(|value| value.as_bytes().trim_ascii());
    bearer.filter(|token| !token.is_empty()).or_else(key).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        // `collect` into a map keeps the last value of a name alone.
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| {
            map.append(name, value);
        });
        token(&map).map(|token| String::from_utf8(token.to_owned()).unwrap())
    }

    #[test]
    fn a_token_is_a_bearers_whatever_the_case_of_the_scheme_or_else_an_api_key() {
        for scheme in ["Bearer t", "bearer t", "BEARER   t "] {
            assert_eq!(of(&[("authorization", scheme)]).as_deref(), Some("t"), "{scheme}");
        }
        assert_eq!(of(&[("x-api-key", "k")]).as_deref(), Some("k"));
        assert_eq!(of(&[("x-api-key", "k"), ("authorization", "Bearer t")]).as_deref(), Some("t"));
        assert_eq!(of(&[("authorization", "Basic eDp5"), ("x-api-key", "k")]).as_deref(), Some("k"));
        assert_eq!(of(&[("authorization", "Basic eDp5"), ("authorization", "Bearer t")]).as_deref(), Some("t"));
        for none in ["Bearer", "Bearer ", "Bearert", "Basic t", "", "t"] {
            assert_eq!(of(&[("authorization", none)]), None, "{none}");
        }
        assert_eq!(of(&[("x-api-key", " ")]), None);
    }
}
