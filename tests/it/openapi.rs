//! docs/openapi.yaml describes the server: every request that it lists gets the documented status, headers and body.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{Answer, Connection, Server, until};
use crate::tokens::TokensFile;

/// A request of `x-examples`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    /// One of [`Servers`].
    server: String,
    status: u16,
    query: Option<String>,
    /// The name of an example of the request body.
    body: Option<String>,
    /// The content type; JSON if it is absent.
    #[serde(rename = "type")]
    content_type: Option<String>,
    /// `accepted` for the last job that the server accepted, or any text instead of a receipt.
    job: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    framing: Option<Framing>,
    header_lines: Option<usize>,
    /// The request is repeated until it gets the status.
    #[serde(default)]
    eventually: bool,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
enum Framing {
    #[serde(rename = "no length")]
    NoLength,
    #[serde(rename = "incomplete body")]
    IncompleteBody,
    #[serde(rename = "incomplete headers")]
    IncompleteHeaders,
}

/// The configurations that the examples name.
struct Servers {
    by_name: BTreeMap<&'static str, Server>,
    _tokens: TokensFile,
    _spool: TempDir,
}

impl Servers {
    async fn start() -> Self {
        let tokens = TokensFile::new(&[
            ("acme", &["token-of-acme-0001"], "{}"),
            ("slow", &["token-of-slow-0001"], r#"{"requests_per_second":1}"#),
        ]);
        // Files in dead/ count against the limit, so this spool is full.
        let spool = tempfile::tempdir().unwrap();
        std::fs::create_dir(spool.path().join("dead")).unwrap();
        std::fs::write(spool.path().join("dead/x.seg"), vec![0; 64 << 10]).unwrap();
        let full = [("SPOOL_DIR", spool.path().to_str().unwrap()), ("SPOOL_MAX_BYTES", "64KiB")];
        let strict = [("MAX_BODY_BYTES", "64"), ("ACK_MAX", "disk"), ("HEADER_TIMEOUT", "1s"), ("BODY_TIMEOUT", "1s")];
        let away = [
            ("S3_BUCKET", "telemetry"),
            ("S3_TIMEOUT", "1s"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"),
        ];
        let by_name = BTreeMap::from([
            ("open", Server::start(&[("OBJECT_MAX_AGE", "200ms")]).await),
            ("strict", Server::start(&strict).await),
            ("full", Server::start(&full).await),
            ("tenants", tokens.start(&[("ADMIN_TOKEN", "admin-token-for-tests")]).await),
            ("away", Server::start(&away).await),
        ]);
        Self { by_name, _tokens: tokens, _spool: spool }
    }
}

struct Document(Value);

impl Document {
    fn read() -> Self {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml")).unwrap();
        Self(serde_saphyr::from_str(&text).unwrap())
    }

    /// The value, or what it refers to.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.trim_start_matches('#')).expect("the reference exists"),
            None => value,
        }
    }

    fn operations(&self) -> impl Iterator<Item = (&str, &str, &Value)> {
        let paths = self.0["paths"].as_object().unwrap();
        paths.iter().flat_map(|(path, item)| {
            let methods =
                item.as_object().unwrap().iter().filter(|(method, _)| matches!(method.as_str(), "get" | "post"));
            methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
    }

    fn assert_valid(&self, what: &str, schema: &Value, instance: &Value) {
        let schema = json!({"components": self.0["components"], "allOf": [schema]});
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let errors: Vec<_> = validator.iter_errors(instance).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{what}: {errors:?} in {instance}");
    }

    /// The response has the documented headers and the documented body.
    fn assert_response(&self, what: &str, response: &Value, answer: &Answer) {
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let header = self.resolve(header);
            match answer.headers.get(&name.to_ascii_lowercase()) {
                Some(value) => self.assert_valid(&format!("{what}: {name}"), &header["schema"], &json!(value)),
                None => assert!(header["required"] != json!(true), "{what}: no header {name}"),
            }
        }
        let content_type = answer.header("content-type").split(';').next().unwrap();
        if response["x-body"] == json!("optional") && answer.text().is_empty() {
            return;
        }
        let media = &response["content"][content_type];
        assert!(media.is_object(), "{what}: {content_type} is not documented");
        let body = if content_type.ends_with("json") { answer.json() } else { json!(answer.text()) };
        self.assert_valid(what, &media["schema"], &body);
    }
}

/// The request as it is sent.
fn request(path: &str, method: &str, operation: &Value, example: &Example, address: SocketAddr) -> Vec<u8> {
    let kind = example.content_type.as_deref().unwrap_or("application/json");
    let content = &operation["requestBody"]["content"];
    let body = example.body.as_ref().map(|name| {
        let examples = if content[kind].is_object() { &content[kind] } else { &content["application/json"] };
        match &examples["examples"][name]["value"] {
            Value::Null => panic!("there is no example {name} of {kind}"),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        }
    });
    let query = example.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut head = format!("{} {path}{query} HTTP/1.1\r\n", method.to_uppercase());
    if !example.headers.contains_key("Host") {
        head += &format!("Host: {address}\r\n");
    }
    for (name, value) in &example.headers {
        head += &format!("{name}: {value}\r\n");
    }
    for n in 0..example.header_lines.unwrap_or_default() {
        head += &format!("X-{n}: 1\r\n");
    }
    if let Some(body) = &body {
        head += &format!("Content-Type: {kind}\r\n");
        let missing = usize::from(example.framing == Some(Framing::IncompleteBody));
        if example.framing != Some(Framing::NoLength) {
            head += &format!("Content-Length: {}\r\n", body.len() + missing);
        }
    }
    if example.framing != Some(Framing::IncompleteHeaders) {
        head += "\r\n";
    }
    (head + &body.unwrap_or_default()).into_bytes()
}

#[tokio::test]
async fn every_documented_request_gets_the_documented_response() {
    let document = Document::read();
    let servers = Servers::start().await;
    let mut accepted: BTreeMap<&str, String> = BTreeMap::new();
    for (path, method, operation) in document.operations() {
        let is_admin = operation["tags"] == json!(["admin"]);
        let receipt = document.0["paths"][path][method]["parameters"][0]["example"].as_str().unwrap_or_default();
        for value in operation["x-examples"].as_array().expect("examples") {
            let what = format!("{method} {path} {value}");
            let example: Example = serde_json::from_value(value.clone()).unwrap();
            let (name, server) = servers.by_name.get_key_value(example.server.as_str()).expect(&what);
            let address = if is_admin { server.admin } else { server.public };
            let job = match example.job.as_deref() {
                Some("accepted") => &accepted[name],
                Some(text) => text,
                None => receipt,
            };
            let bytes = request(&path.replace("{job}", job), method, operation, &example, address);
            let mut answer = send(address, &bytes).await;
            if example.eventually {
                until(&what, async || {
                    answer = send(address, &bytes).await;
                    answer.status == example.status
                })
                .await;
            }
            assert_eq!(answer.status, example.status, "{what}: {}", answer.text());
            let response = document.resolve(&operation["responses"][example.status.to_string()]);
            document.assert_response(&what, response, &answer);
            if method == "post" && answer.status < 300 {
                accepted.insert(*name, answer.json()["job"].as_str().unwrap().to_owned());
            }
        }
    }
}

async fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut connection = Connection(TcpStream::connect(address).await.unwrap());
    connection.write(bytes).await;
    connection.answer().await.expect("a response")
}

#[test]
fn every_documented_status_and_body_has_a_request_or_a_reason() {
    let document = Document::read();
    for (path, method, operation) in document.operations() {
        let examples: Vec<Example> = serde_json::from_value(operation["x-examples"].clone()).unwrap();
        let sent: BTreeSet<String> = examples.iter().map(|example| example.status.to_string()).collect();
        let reasons = operation["x-not-tested"].as_object();
        let is_excused = |key: &str| reasons.is_some_and(|reasons| reasons.contains_key(key));
        for status in operation["responses"].as_object().unwrap().keys() {
            assert!(
                sent.contains(status) || is_excused(status) || is_excused("*"),
                "{method} {path}: no request for {status}"
            );
        }
        for (kind, media) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            for name in media["examples"].as_object().unwrap().keys() {
                let is_sent = |example: &Example| {
                    example.body.as_ref() == Some(name)
                        && example.content_type.as_deref().unwrap_or("application/json") == kind
                };
                assert!(examples.iter().any(is_sent) || is_excused("*"), "{method} {path}: {kind} {name} is not sent");
            }
        }
    }
}

#[test]
fn every_documented_response_body_matches_its_schema() {
    let document = Document::read();
    for (path, method, operation) in document.operations() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            for (kind, media) in document.resolve(response)["content"].as_object().into_iter().flatten() {
                let what = format!("{method} {path} {status} {kind}");
                let named = media["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
                for example in named.chain(media.get("example")) {
                    document.assert_valid(&what, &media["schema"], example);
                }
            }
        }
    }
}
