//! An HTTP client for one listener of a server.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::CliError;
use super::args::Admin;
use super::environment::{Environment, Token};
use super::text::{duration, printable};
use crate::https;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A status is some tens of KiB.
pub(super) const JSON_MAX_BYTES: usize = 16 << 20;
/// The most bytes of an error response that are shown.
const TEXT_MAX_BYTES: usize = 400;

/// A client of one listener.
pub(super) struct Client {
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// `http://host:port`.
    url: String,
    authorization: Option<HeaderValue>,
    listener: Listener,
}

/// The listener, for messages that say what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listener {
    Admin,
    Public,
}

/// A response.
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why there is no usable response.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("{url} does not respond: {message}; is the server running, and is this {what}?")]
    Connect { url: String, message: String, what: &'static str },
    #[error("{url} did not respond within {after}")]
    Timeout { url: String, after: String },
    #[error("{url}: the response is larger than {max} bytes")]
    TooLarge { url: String, max: usize },
    #[error("{url} rejects the token (401): {what}")]
    Unauthorized { url: String, what: &'static str },
    #[error("{url}: there is no {path} (404): is this {what}, and is the server of this version?")]
    NoRoute { url: String, path: String, what: &'static str },
    #[error("{url}: {status}: {text}")]
    Status { url: String, status: StatusCode, text: String },
}

impl From<RequestError> for CliError {
    fn from(error: RequestError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Listener {
    fn place(self) -> &'static str {
        match self {
            Self::Admin => "its admin listener (ADMIN_ADDR, --admin)",
            Self::Public => "its public listener (LISTEN_ADDR, --server)",
        }
    }

    fn token(self) -> &'static str {
        match self {
            Self::Admin => "set ADMIN_TOKEN or ADMIN_TOKEN_FILE as the server has it, or use --token-file",
            Self::Public => "set MILLPOND_TOKEN to the token of a tenant, or use --token-file",
        }
    }
}

impl Client {
    /// A client of the admin listener.
    pub(super) fn admin(arguments: &Admin, environment: &Environment) -> Result<Self, CliError> {
        let url = arguments.admin.clone().unwrap_or_else(|| environment.url("ADMIN_ADDR", false));
        let token = environment.admin_token(arguments.token_file.as_deref())?;
        Self::new(&url, token.as_ref(), Listener::Admin)
    }

    pub(super) fn new(url: &str, token: Option<&Token>, listener: Listener) -> Result<Self, CliError> {
        let url = checked(url)?;
        let mut authorization = token.and_then(|token| HeaderValue::try_from(token.bearer()).ok());
        authorization.iter_mut().for_each(|value| value.set_sensitive(true));
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls = https::connector(url.starts_with("https:")).map_err(|error| {
            CliError::Failed(format!("cannot read the certificate authorities: {error}; set SSL_CERT_FILE"))
        })?;
        let connector = tls.https_or_http().enable_http1().wrap_connector(connector);
        let http = HttpClient::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, url, authorization, listener })
    }

    /// Sends a request without a body. A status other than 2xx is not an error here.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        after: Duration,
        max: usize,
    ) -> Result<Response, RequestError> {
        let url = || self.url.clone();
        let connect = |message: String| RequestError::Connect { url: url(), message, what: self.listener.place() };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url)).header(ACCEPT, "*/*");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::default()).map_err(|error| connect(error.to_string()))?;
        let exchange = async {
            let response =
                self.http.request(request).await.map_err(|error| connect(printable(&https::root_cause(&error))))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, max).collect().await.map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    RequestError::TooLarge { url: url(), max }
                } else {
                    connect(printable(&https::root_cause(&*error)))
                }
            })?;
            if head.status == StatusCode::TOO_MANY_REQUESTS || head.status == StatusCode::SERVICE_UNAVAILABLE {
                let wait = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(printable);
                let wait = wait.map(|wait| format!("; try again in {wait} s")).unwrap_or_default();
                return Err(RequestError::Status {
                    url: url(),
                    status: head.status,
                    text: format!("{}{wait}", shown(&body.to_bytes())),
                });
            }
            Ok(Response { status: head.status, body: body.to_bytes() })
        };
        let timed_out = |_| RequestError::Timeout { url: url(), after: duration(after) };
        timeout(after, exchange).await.map_err(timed_out)?
    }

    /// Sends a request, and expects a status of 2xx.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        after: Duration,
        max: usize,
    ) -> Result<Bytes, RequestError> {
        let response = self.send(method, path, after, max).await?;
        if response.status.is_success() { Ok(response.body) } else { Err(self.error(path, &response)) }
    }

    /// The error that a response of another status than 2xx stands for.
    pub(super) fn error(&self, path: &str, response: &Response) -> RequestError {
        let url = self.url.clone();
        match response.status {
            StatusCode::UNAUTHORIZED => RequestError::Unauthorized { url, what: self.listener.token() },
            StatusCode::NOT_FOUND => {
                let path = path.split('?').next().unwrap_or_default().to_owned();
                RequestError::NoRoute { url, path, what: self.listener.place() }
            }
            status => RequestError::Status { url, status, text: shown(&response.body) },
        }
    }

    /// `http://host:port`.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

/// The URL without a slash at its end. A token or password in it would be shown by `ps`.
fn checked(url: &str) -> Result<String, CliError> {
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let is_valid = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
    };
    match with_scheme.parse::<Uri>() {
        Ok(uri) if is_valid(&uri) => Ok(with_scheme.trim_end_matches('/').to_owned()),
        _ => Err(CliError::Usage(
            "expected a URL such as http://127.0.0.1:9090, without a path and without a user".to_owned(),
        )),
    }
}

/// The text of a response, for people: of a problem document (RFC 9457) its detail.
fn shown(body: &[u8]) -> String {
    let problem = serde_json::from_slice::<serde_json::Value>(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str());
    let text = detail.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    printable(text.trim()).chars().take(TEXT_MAX_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_no_path_and_no_user() {
        for (url, expected) in [
            ("127.0.0.1:9090", "http://127.0.0.1:9090"),
            ("http://localhost:9090/", "http://localhost:9090"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(checked(url).unwrap(), expected);
        }
        for bad in ["", "http://", "ftp://x", "http://user:secret@x", "http://x/y", "http://x?y", "http://x y"] {
            let error = checked(bad).unwrap_err();
            assert!(matches!(&error, CliError::Usage(text) if !text.contains("secret")), "{bad}: {error}");
        }
    }

    #[test]
    fn error_responses_are_shown_without_control_characters_and_shortened() {
        assert_eq!(shown(b" a\x1b[2J\n"), "a\u{fffd}[2J");
        assert_eq!(shown(br#"{"title":"t","detail":"too \u001b much"}"#), "too \u{fffd} much");
        assert_eq!(shown(&[b'x'; 10_000]).len(), TEXT_MAX_BYTES);
    }
}
