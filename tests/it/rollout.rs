//! `ROLLOUT_FILE`: features and variants, in the requests, the stored lines, the metrics and the status, and its reload.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Answer, Server, get, run, until};
use crate::tokens::TokensFile;
use crate::two_versions::RolloutFile;

fn tenants() -> TokensFile {
    TokensFile::new(&[("acme", &["acme-token"], "{}"), ("shop", &["shop-token"], "{}")])
}

async fn start(tokens: &TokensFile, rollout: &RolloutFile) -> Server {
    let path = rollout.path();
    tokens.start(&[("ROLLOUT_FILE", path.to_str().unwrap())]).await
}

async fn post(server: &Server, query: &str, token: &str) -> Answer {
    let body = r#"[{"n":1}]"#;
    let head = format!("POST /v1/payloads{query} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n");
    let head = format!("{head}Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n", body.len());
    server.send(format!("{head}{body}").as_bytes()).await
}

async fn status(server: &Server) -> Value {
    serde_json::from_str(&get(server.admin, "/v1/status").await.text()).unwrap()
}

#[tokio::test]
async fn a_feature_that_is_off_for_a_tenant_is_rejected_by_its_name_and_the_others_have_it() {
    let plan = json!({"features": {
        "ack_stored": {"percent": 0, "tenants": ["acme"]},
        "receipts": {"percent": 100, "except": ["shop"]},
    }});
    let (tokens, rollout) = (tenants(), RolloutFile::new(&plan.to_string()));
    let server = start(&tokens, &rollout).await;
    let stored = post(&server, "?ack=stored", "acme-token").await;
    assert_eq!(stored.status, 200);
    let off = post(&server, "?ack=stored", "shop-token").await.refusal(403);
    assert!(off.contains("ack_stored is switched off") && off.contains("ROLLOUT_FILE"), "{off}");
    // The token of an envelope is known only after the body was read.
    let body = r#"{"token":"shop-token","data":[{"n":1}]}"#;
    let head = format!("POST /?ack=stored HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let off = server.send(format!("{head}{body}").as_bytes()).await.refusal(403);
    assert!(off.contains("ack_stored is switched off"), "{off}");

    let job = stored.json()["job"].as_str().unwrap().to_owned();
    let without = post(&server, "", "shop-token").await;
    assert_eq!((without.status, &without.json()["job"], &without.json()["ack"]), (202, &Value::Null, &"disk".into()));
    let look_up = async |token: &str| {
        let head = format!("GET /v1/jobs/{job} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
        server.send(head.as_bytes()).await
    };
    assert_eq!(look_up("acme-token").await.status, 200);
    let off = look_up("shop-token").await.refusal(403);
    assert!(off.contains("receipts is switched off"), "{off}");
    assert_eq!(server.metric("millpond_requests_total{outcome=\"not_allowed\",route=\"payloads\"}").await, 2.0);
    assert!(server.log().contains("tenant=\"shop\"") && !server.log().contains("shop-token"), "{}", server.log());

    rollout.put(&server, &json!({}).to_string()).await;
    assert_eq!(post(&server, "?ack=stored", "shop-token").await.status, 200, "features that are not listed are on");
    assert!(post(&server, "", "shop-token").await.json()["job"].is_string());
}

#[tokio::test]
async fn every_batch_of_a_variant_has_its_name_in_the_lines_the_metrics_and_the_status() {
    let plan = json!({"variants": [{"name": "b", "percent": 100}]});
    let (tokens, rollout) = (tenants(), RolloutFile::new(&plan.to_string()));
    let mut server = start(&tokens, &rollout).await;
    assert_eq!(post(&server, "", "acme-token").await.status, 202);
    assert_eq!(server.post_json(r#"{"token":"shop-token","data":[{"n":2}]}"#).await.status, 202);
    assert_eq!(post(&server, "?ack=none", "acme-token").await.status, 400);
    assert_eq!(post(&server, "", "unknown-token").await.status, 403, "of an unknown client");
    let metrics = server.metrics().await;
    let batches =
        |result: &str| metrics[&format!("millpond_variant_batches_total{{result=\"{result}\",variant=\"b\"}}")];
    assert_eq!((batches("accepted"), batches("rejected")), (2.0, 1.0));
    assert_eq!(metrics["millpond_variant_request_seconds_count{variant=\"b\"}"], 3.0);
    until("the status has the counts", async || status(&server).await["rollout"]["variants"][0]["accepted_total"] == 2)
        .await;
    assert_eq!(status(&server).await["rollout"]["variants"][0]["percent"], 100.0);

    rollout.put(&server, &json!({"variants": [{"name": "c", "percent": 100}]}).to_string()).await;
    assert_eq!(post(&server, "", "acme-token").await.status, 202);
    let metrics = server.metrics().await;
    assert_eq!(metrics["millpond_variant_batches_total{result=\"accepted\",variant=\"c\"}"], 1.0);
    assert!(!metrics.keys().any(|name| name.contains("variant=\"b\"")), "a removed variant has no series");
    assert_eq!(server.stop().await, Some(0));
    let mut lines: Vec<(Value, Value)> = server
        .lines()
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["tenant"].clone(), line["variant"].clone()))
        .collect();
    lines.sort_by_key(|line| format!("{line:?}"));
    assert_eq!(
        lines,
        [("acme", "b"), ("acme", "c"), ("shop", "b")].map(|(tenant, variant)| (tenant.into(), variant.into()))
    );
}

#[tokio::test]
async fn an_invalid_plan_keeps_the_previous_one_and_is_shown_until_it_is_corrected() {
    let plan = json!({"features": {"receipts": {"percent": 0}}});
    let rollout = RolloutFile::new(&plan.to_string());
    let path = rollout.path();
    let mut server = Server::start(&[("ROLLOUT_FILE", path.to_str().unwrap())]).await;
    let is_off = async |server: &Server| server.post_json("[{}]").await.json()["job"].is_null();
    assert!(is_off(&server).await);
    rollout.write(r#"{"features": {"receipts": {"percent": 101}}}"#);
    server.signal(Signal::HUP);
    server.logged("reload failed; keeping the previous version").await;
    assert!(server.log().contains("features.receipts.percent: expected a number from 0 to 100"), "{}", server.log());
    assert!(is_off(&server).await);
    until("the status says so", async || status(&server).await["files"]["reload_failing"] == json!(["ROLLOUT_FILE"]))
        .await;
    assert_eq!(server.metric("millpond_reload_failures_total{file=\"ROLLOUT_FILE\"}").await, 1.0);
    // The server's own address, which is known only since it listens.
    rollout.write(
        &json!({"mirror": {"url": format!("http://127.0.0.1:{}", server.public.port()), "percent": 1}}).to_string(),
    );
    server.signal(Signal::HUP);
    server.logged("mirror.url is an address of this server").await;
    rollout.write(&crate::two_versions::forward(server.admin, 1, "request"));
    server.signal(Signal::HUP);
    server.logged("forward.url is an address of this server").await;
    rollout.put(&server, &json!({"features": {"receipts": {"percent": 100}}}).to_string()).await;
    assert!(!is_off(&server).await);
    assert_eq!(server.metric("millpond_reload_failing{file=\"ROLLOUT_FILE\"}").await, 0.0);
    let features = json!([{"name": "receipts", "percent": 100.0, "tenants": 0, "except": 0}]);
    until("the status shows it", async || status(&server).await["rollout"]["features"] == features).await;
}

#[tokio::test]
async fn a_plan_that_is_invalid_at_the_start_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    for (text, expected) in [
        (r#"{"mirror": {"url": "http://127.0.0.1:18080", "percent": 1}}"#, "mirror.url is an address of this server"),
        (
            r#"{"forward": {"url": "http://localhost:18081", "percent": 1, "by": "tenant"}}"#,
            "LISTEN_ADDR or ADMIN_ADDR",
        ),
        ("{\"mirrors\": {}}", "mirrors: unknown member"),
        ("", "line 1"),
    ] {
        std::fs::write(folder.path().join("rollout.json"), text).unwrap();
        let env =
            [("ROLLOUT_FILE", "rollout.json"), ("LISTEN_ADDR", "127.0.0.1:18080"), ("ADMIN_ADDR", "127.0.0.1:18081")];
        for arguments in [&["serve"][..], &["check"]] {
            let output = run(folder.path(), &env, arguments).await;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(64), "{arguments:?}: {text}");
            assert!(text.contains("ROLLOUT_FILE=") && text.contains(expected), "{arguments:?}: {text}");
        }
    }
}

#[tokio::test]
async fn tenants_that_do_not_exist_are_warned_of_at_the_start_in_a_check_and_at_a_reload() {
    const WARNING: &str = "are not in TOKENS_FILE";
    let plan = json!({"features": {"receipts": {"percent": 5, "tenants": ["acme", "nosuch"]}}});
    let (tokens, rollout) = (tenants(), RolloutFile::new(&plan.to_string()));
    let server = start(&tokens, &rollout).await;
    assert!(server.log().contains("features.receipts.tenants has tenants that are not in TOKENS_FILE"));
    assert!(server.log().contains("nosuch"), "{}", server.log());
    let (path, plan) = (tokens.path(), rollout.path());
    let env = [("TOKENS_FILE", path.to_str().unwrap()), ("ROLLOUT_FILE", plan.to_str().unwrap())];
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &env, &["check"]).await;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains(WARNING) && output.status.success(), "{text}");
    rollout.put(&server, &json!({"features": {"receipts": {"percent": 5, "except": ["shop"]}}}).to_string()).await;
    assert_eq!(server.log().matches(WARNING).count(), 1, "these exist");
    rollout.put(&server, &json!({"features": {"receipts": {"percent": 5, "except": ["shap"]}}}).to_string()).await;
    assert_eq!(server.log().matches(WARNING).count(), 2);
}
