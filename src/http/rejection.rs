//! Connections that are rejected before a request of them was read.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;

use super::problem::Problem;
use super::request_id::RequestId;
use crate::headers::X_REQUEST_ID;
use crate::metrics::Outcome;
use crate::server::Rejection;

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::TooManyConnections => Self::TooManyConnections,
            Rejection::TooManyFromAddress => Self::TooManyFromAddress,
            Rejection::SlowHeaders => Self::SlowHeaders,
        }
    }
}

/// The response to a connection that is rejected before a request of it was read, for the public and the admin listener.
pub fn render_rejection(rejection: Rejection) -> Vec<u8> {
    let (problem, id) = (Problem::from(rejection), RequestId::new());
    let mut headers = HeaderMap::new();
    let (body, _) = problem.write(&id, &mut headers, u64::default);
    headers.insert(CONTENT_LENGTH, body.len().into());
    headers.insert(X_REQUEST_ID, id.into());
    let mut response = format!("HTTP/1.1 {}\r\n", problem.status()).into_bytes();
    for (name, value) in &headers {
        response.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    response.extend_from_slice(b"\r\n");
    response.extend_from_slice(&body);
    response
}

/// How a rejected connection is counted.
pub fn rejection_outcome(rejection: Rejection) -> Outcome {
    Problem::from(rejection).outcome()
}
