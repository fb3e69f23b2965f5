//! Authentication: the identity of a client, found by its token, and its rate limits.
//!
//! A token comes as `Authorization: Bearer` (RFC 6750) or as `X-Api-Key`, which are checked before the body is read, or in
//! the envelope. A token in a header takes precedence, and the envelope's is then ignored.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use super::problem::Problem;
use crate::decode::Token;
use crate::headers::{X_API_KEY, bearer};
use crate::queue::{Share, retry_after};
use crate::tenants::{RateLimit, RateLimitExceeded, Tenant, Tenants};

/// Who sent a request.
#[derive(Debug, Clone)]
pub(super) enum Identity {
    /// The server has no tenants, so requests need no token.
    Anonymous,
    /// The headers have no token; the envelope may have one.
    Unauthenticated(Arc<Tenants>),
    /// The token belongs to this tenant.
    Tenant(Arc<Tenant>),
}

impl Identity {
    /// Checks the token in the headers, if there is one.
    pub(super) fn from_headers(headers: &HeaderMap, tenants: Option<&Arc<Tenants>>) -> Result<Self, Problem> {
        let Some(tenants) = tenants else { return Ok(Self::Anonymous) };
        match token(headers) {
            Some(token) => tenants.find(token).map(Self::Tenant).ok_or(Problem::UnknownToken),
            None => Ok(Self::Unauthenticated(Arc::clone(tenants))),
        }
    }

    /// Checks the token in the headers of a request without a body.
    pub(super) fn require_in_headers(headers: &HeaderMap, tenants: Option<&Arc<Tenants>>) -> Result<Self, Problem> {
        match Self::from_headers(headers, tenants)? {
            Self::Unauthenticated(_) => Err(Problem::NoToken),
            identity => Ok(identity),
        }
    }

    /// The tenant of the envelope's token, if the headers had no token. With tenants, a token that is not a string is
    /// rejected in any case.
    pub(super) fn tenant_of_envelope(&self, token: Option<Token<'_>>) -> Result<Option<Arc<Tenant>>, Problem> {
        if matches!(self, Self::Anonymous) {
            return Ok(None);
        }
        let text = token.map(|token| token.text().ok_or(Problem::InvalidToken)).transpose()?;
        let Self::Unauthenticated(tenants) = self else { return Ok(None) };
        let text = text.filter(|text| !text.is_empty()).ok_or(Problem::NoToken)?;
        tenants.find(text.as_bytes()).map(Some).ok_or(Problem::UnknownToken)
    }

    pub(super) fn tenant(&self) -> Option<&Arc<Tenant>> {
        match self {
            Self::Tenant(tenant) => Some(tenant),
            Self::Anonymous | Self::Unauthenticated(_) => None,
        }
    }

    /// The share of the queue that its reservations count against; none if it may use all of the queue.
    pub(super) fn share(&self) -> Option<&Share> {
        match self {
            Self::Anonymous => None,
            Self::Unauthenticated(tenants) => tenants.unauthenticated_share(),
            Self::Tenant(tenant) => tenant.share(),
        }
    }

    /// Counts `amount` against a rate limit of the tenant.
    pub(super) fn take(&self, limit: RateLimit, amount: usize) -> Result<(), Problem> {
        let Some(tenant) = self.tenant() else { return Ok(()) };
        tenant.rate_limiters().take(limit, amount).map_err(|over| match over {
            RateLimitExceeded::RetryAfter(wait) => {
                Problem::RateLimited { limit, retry_after: retry_after(wait.as_secs_f64(), fastrand::f64()) }
            }
            RateLimitExceeded::AboveBurst { burst } => Problem::TooLarge(format!(
                "{amount} {} exceed the tenant's burst of {burst} ({} times burst_seconds): split the batch",
                limit.unit(),
                limit.name()
            )),
        })
    }
}

/// The token in the headers. An `Authorization` of another scheme is ignored.
fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get_all(AUTHORIZATION).iter().find_map(bearer);
    let key = || headers.get(X_API_KEY).map(|value| value.as_bytes().trim_ascii());
    bearer.filter(|token| !token.is_empty()).or_else(key).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

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
    fn a_bearer_token_takes_precedence_over_an_api_key_and_its_scheme_ignores_case() {
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
