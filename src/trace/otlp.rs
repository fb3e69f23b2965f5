//! A client of a collector: OTLP over HTTP, in protobuf.
//!
//! Each export has a connection of its own, since there is at most one in a second under normal load, so no idle connection
//! can fail an export and no task is left behind.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use tokio::time::timeout;

use crate::config::TraceSettings;
use crate::https;

/// The timeout of an export, from the connection to the end of the response. OpenTelemetry's default.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of a response.
const RESPONSE_MAX_BYTES: usize = 64 * 1024;

/// Why an export failed. The text contains no header, and of the URL only what the system reports.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("cannot connect: {0}")]
    Connect(Box<dyn Error + Send + Sync>),
    #[error("{}", with_source(.0))]
    Http(#[from] hyper::Error),
    #[error("the collector responded with {0}")]
    Status(StatusCode),
    #[error("the collector did not respond within {} s", EXPORT_TIMEOUT.as_secs())]
    TimedOut,
}

fn with_source(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// The collector that receives the spans.
pub(super) struct Collector {
    url: Uri,
    headers: HeaderMap,
    resource: ResourceAttributesWithSchema,
    connector: HttpsConnector<HttpConnector>,
}

impl Collector {
    /// # Errors
    /// If the URL is https and the certificates of the system cannot be read.
    pub(super) fn new(settings: &TraceSettings) -> io::Result<Self> {
        let url = settings.url.clone();
        let mut headers = settings.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("millpond/", env!("CARGO_PKG_VERSION"))));
        let host = url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        headers.extend(host.map(|host| (HOST, host)));
        // Empty, so that the SDK adds nothing from the environment.
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", settings.service_name.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ]);
        let resource = ResourceAttributesWithSchema::from(&resource.build());
        let connector = https::connector(url.scheme_str() == Some("https"))?.https_or_http().enable_http1().build();
        Ok(Self { connector, url, headers, resource })
    }

    /// Exports spans. Returns how many of them the collector has rejected.
    pub(super) async fn export(&self, spans: Vec<SpanData>) -> Result<u64, ExportError> {
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        timeout(EXPORT_TIMEOUT, self.post(body.into())).await.unwrap_or(Err(ExportError::TimedOut))
    }

    async fn post(&self, body: Bytes) -> Result<u64, ExportError> {
        let mut connector = self.connector.clone();
        let io = tower::Service::call(&mut connector, self.url.clone()).await.map_err(ExportError::Connect)?;
        let (mut sender, connection) = http1::handshake(io).await?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        // A client that is no proxy sends the path alone.
        *request.uri_mut() = self.url.path().parse().unwrap_or_default();
        request.headers_mut().clone_from(&self.headers);
        let mut exchange = pin!(async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            if !status.is_success() {
                return Err(ExportError::Status(status));
            }
            // The spans are accepted, whatever the body holds.
            let body = Limited::new(response.into_body(), RESPONSE_MAX_BYTES).collect().await;
            let body = body.map(|body| ExportTraceServiceResponse::decode(body.to_bytes()).unwrap_or_default());
            let partial = body.unwrap_or_default().partial_success.unwrap_or_default();
            Ok(u64::try_from(partial.rejected_spans).unwrap_or_default())
        });
        tokio::select! {
            exchanged = &mut exchange => exchanged,
            // The response may have been read before the connection ended.
            _ = connection => exchange.await,
        }
    }
}
