//! What is kept of a request so that it can be sent to another server.

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::headers::{X_API_KEY, X_FORWARDED_FOR, X_REQUEST_ID};

/// Marks a copy: it is neither copied nor forwarded again.
pub(crate) const MILLPOND_MIRROR: HeaderName = HeaderName::from_static("millpond-mirror");
/// Marks a forwarded request: it is neither copied nor forwarded again.
pub(crate) const MILLPOND_FORWARDED: HeaderName = HeaderName::from_static("millpond-forwarded");
const ONE: HeaderValue = HeaderValue::from_static("1");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("millpond/", env!("CARGO_PKG_VERSION")));

/// What a server interprets of a request for a batch.
static KEPT: [HeaderName; 5] = [CONTENT_TYPE, CONTENT_ENCODING, AUTHORIZATION, X_API_KEY, X_REQUEST_ID];
/// Those of them that carry tokens.
static TOKENS: [HeaderName; 2] = [AUTHORIZATION, X_API_KEY];
/// The most bytes that are kept of a request besides its body. One with more is neither copied nor forwarded.
const KEPT_MAX_BYTES: usize = 8 * 1024;

/// The head of a request for a batch. It shares no memory with the connection's read buffer.
#[derive(Debug, Clone)]
pub(crate) struct Original {
    path_and_query: Uri,
    headers: HeaderMap,
    client: Option<IpAddr>,
    bytes: usize,
}

/// Whether another millpond has sent a request with these headers.
pub(crate) fn is_relayed(headers: &HeaderMap) -> bool {
    headers.contains_key(MILLPOND_MIRROR) || headers.contains_key(MILLPOND_FORWARDED)
}

impl Original {
    /// What is kept of a request; `None` if that is too much.
    pub(crate) fn of(request: &Parts, client: Option<IpAddr>) -> Option<Self> {
        let (path, query) = (request.uri.path(), request.uri.query());
        let kept = || KEPT.iter().flat_map(|name| request.headers.get_all(name).iter().map(move |value| (name, value)));
        let bytes: usize = kept().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let bytes = bytes + path.len() + query.map_or(0, str::len);
        if bytes > KEPT_MAX_BYTES {
            return None;
        }
        let path_and_query = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        let mut headers = HeaderMap::with_capacity(KEPT.len());
        for (name, value) in kept() {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
        Some(Self { path_and_query: path_and_query.parse().ok()?, headers, client, bytes })
    }

    /// The memory that it uses, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The head of the forwarded request to the server at `url`. It says which client the request is of, as this server sees
    /// it: what the client has written into `X-Forwarded-For` is not passed on.
    pub(super) fn forwarded(&self, url: &Uri) -> Parts {
        let mut head = self.head(url);
        head.headers.insert(MILLPOND_FORWARDED, ONE);
        let client = self.client.and_then(|client| HeaderValue::try_from(client.to_string()).ok());
        head.headers.extend(client.map(|client| (X_FORWARDED_FOR, client)));
        head
    }

    /// The head of a copy for the server at `url`, with the tokens in headers if `tokens`.
    pub(super) fn copy(&self, url: &Uri, tokens: bool) -> Parts {
        let mut head = self.head(url);
        head.headers.insert(MILLPOND_MIRROR, ONE);
        if !tokens {
            TOKENS.iter().for_each(|name| {
                head.headers.remove(name);
            });
        }
        head
    }

    fn head(&self, url: &Uri) -> Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = Method::POST;
        // A client that is no proxy sends the path alone.
        head.uri = self.path_and_query.clone();
        head.headers.clone_from(&self.headers);
        head.headers.insert(USER_AGENT, AGENT);
        let host = url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        head.headers.extend(host.map(|host| (HOST, host)));
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::post("/v1/payloads?ack=stored");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn text(head: &Parts) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut lines: Vec<String> =
            head.headers.iter().map(line).filter(|line| !line.starts_with("user-agent")).collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_forwarded_request_has_what_the_server_interprets_and_the_client_as_this_server_sees_it() {
        let request = request(&[
            ("host", "here"),
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
            ("authorization", "Bearer t"),
            ("x-api-key", "k"),
            ("x-request-id", "r"),
            ("x-forwarded-for", "203.0.113.9"),
            ("connection", "close"),
            ("cookie", "c"),
        ]);
        let original = Original::of(&request, Some([192, 0, 2, 1].into())).unwrap();
        let url = "http://there:8080/".parse().unwrap();
        let head = original.forwarded(&url);
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/v1/payloads?ack=stored"));
        let common = ["content-encoding: gzip", "content-type: application/json", "host: there:8080"];
        let forwarded =
            ["authorization: Bearer t", "millpond-forwarded: 1", "x-api-key: k", "x-forwarded-for: 192.0.2.1"];
        let mut expected = [&common[..], &forwarded, &["x-request-id: r"]].concat();
        expected.sort_unstable();
        assert_eq!(text(&head), expected);
        let mut expected = [&common[..], &["millpond-mirror: 1", "x-request-id: r"]].concat();
        expected.sort_unstable();
        assert_eq!(text(&original.copy(&url, false)), expected, "a copy has no token");
        let mut expected = [&expected[..], &["authorization: Bearer t", "x-api-key: k"]].concat();
        expected.sort_unstable();
        assert_eq!(text(&original.copy(&url, true)), expected);
    }

    #[test]
    fn a_request_with_too_much_to_keep_is_not_sent_on() {
        assert!(Original::of(&request(&[("authorization", &"x".repeat(KEPT_MAX_BYTES / 2))]), None).is_some());
        assert!(Original::of(&request(&[("authorization", &"x".repeat(KEPT_MAX_BYTES))]), None).is_none());
        assert!(Original::of(&request(&[("cookie", &"x".repeat(KEPT_MAX_BYTES))]), None).is_some());
    }

    #[test]
    fn either_mark_is_recognized() {
        assert!(is_relayed(&request(&[("Millpond-Mirror", "1")]).headers));
        assert!(is_relayed(&request(&[("Millpond-Forwarded", "0")]).headers));
        assert!(!is_relayed(&request(&[]).headers));
    }
}
