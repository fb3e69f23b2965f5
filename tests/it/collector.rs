//! A collector that receives spans over OTLP and decodes them, or misbehaves.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::support::PATIENCE;

/// What the collector does with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// Accepts all spans.
    Accept,
    /// Accepts all but one span of each export.
    RejectOne,
    /// Accepts all spans, with a body that is no protobuf.
    AcceptWithGarbage,
    /// Responds with 500.
    Fail,
    /// Never responds.
    Hang,
    /// Sends bytes that are no HTTP.
    Garbage,
}

/// What has been received.
#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    headers: HeaderMap,
    exports: usize,
    /// All bodies.
    bytes: Vec<u8>,
}

pub(crate) struct Collector {
    pub(crate) addr: SocketAddr,
    received: Arc<watch::Sender<Received>>,
    _serving: JoinSet<()>,
}

impl Collector {
    pub(crate) async fn start(behavior: Behavior) -> Self {
        Self::start_with(behavior, None).await
    }

    pub(crate) async fn start_with(behavior: Behavior, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let received = Arc::new(watch::Sender::new(Received::default()));
        let (sender, mut serving) = (Arc::clone(&received), JoinSet::new());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (sender, tls) = (Arc::clone(&sender), tls.clone());
                connections.spawn(async move {
                    if behavior == Behavior::Garbage {
                        sender.send_modify(|received| received.exports += 1);
                        stream.write_all(b"\x16\x03garbage\r\n\r\n").await.unwrap();
                        return;
                    }
                    match tls {
                        None => serve(stream, behavior, sender).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, behavior, sender).await;
                            }
                        }
                    }
                });
            }
        });
        Self { addr, received, _serving: serving }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The spans, as soon as `complete` is true of them.
    pub(crate) async fn spans(&self, complete: impl Fn(&Spans) -> bool) -> Spans {
        let mut receiver = self.received.subscribe();
        let waiting = receiver.wait_for(|received| complete(&Spans(received.spans.clone())));
        let spans = timeout(PATIENCE, waiting).await.map(|received| Spans(received.unwrap().spans.clone()));
        spans.unwrap_or_else(|_| panic!("not all spans arrive: {:?}", self.received.borrow().spans))
    }

    /// What has arrived.
    pub(crate) fn now(&self) -> Spans {
        Spans(self.received.borrow().spans.clone())
    }

    /// Waits for an export, whatever its outcome.
    pub(crate) async fn export(&self) {
        let mut receiver = self.received.subscribe();
        timeout(PATIENCE, receiver.wait_for(|received| received.exports > 0)).await.expect("an export").unwrap();
    }

    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        self.received.borrow().resource.clone()
    }

    pub(crate) fn headers(&self) -> HeaderMap {
        self.received.borrow().headers.clone()
    }

    pub(crate) fn has_received(&self, text: &str) -> bool {
        self.received.borrow().bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    behavior: Behavior,
    sender: Arc<watch::Sender<Received>>,
) {
    let service = service_fn(|request| export(request, behavior, Arc::clone(&sender)));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // The client may close the connection at any time.
    let _: hyper::Result<()> = connection.await;
}

async fn export(
    request: Request<Incoming>,
    behavior: Behavior,
    sender: Arc<watch::Sender<Received>>,
) -> hyper::Result<Response<Full<Bytes>>> {
    assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("POST", "/v1/traces"));
    let headers = request.headers().clone();
    let body = request.into_body().collect().await?.to_bytes();
    let decoded = ExportTraceServiceRequest::decode(body.clone()).expect("an export is protobuf");
    let is_received = !matches!(behavior, Behavior::Fail | Behavior::Hang);
    sender.send_modify(|received| {
        received.exports += 1;
        received.headers = headers;
        received.bytes.extend_from_slice(&body);
        for resource_spans in decoded.resource_spans {
            received.resource = attributes(&resource_spans.resource.unwrap().attributes);
            if is_received {
                received.spans.extend(resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
    });
    let mut response = Response::new(Full::default());
    match behavior {
        Behavior::Accept => {}
        Behavior::RejectOne => {
            let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "one is bad".to_owned() };
            let message = ExportTraceServiceResponse { partial_success: Some(partial) };
            *response.body_mut() = message.encode_to_vec().into();
        }
        Behavior::AcceptWithGarbage => *response.body_mut() = Bytes::from_static(b"\xff\xff\xffgarbage").into(),
        Behavior::Fail => *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR,
        Behavior::Hang | Behavior::Garbage => std::future::pending().await,
    }
    Ok(response)
}

/// Received spans.
#[derive(Debug, Clone)]
pub(crate) struct Spans(pub(crate) Vec<Span>);

impl Spans {
    pub(crate) fn named(&self, name: &str) -> Vec<&Span> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    pub(crate) fn only(&self, name: &str) -> &Span {
        let named = self.named(name);
        assert_eq!(named.len(), 1, "{name}: {named:?}");
        named[0]
    }

    pub(crate) fn by_id(&self) -> HashMap<Vec<u8>, &Span> {
        self.0.iter().map(|span| (span.span_id.clone(), span)).collect()
    }
}

/// The ids of the parent and of the links.
pub(crate) fn ancestors(span: &Span) -> Vec<Vec<u8>> {
    let links = span.links.iter().map(|link| link.span_id.clone());
    std::iter::once(span.parent_span_id.clone()).chain(links).collect()
}

pub(crate) fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}
