use serde_json::json;

use super::*;

fn text(status: &serde_json::Value, rows: Option<usize>) -> String {
    let status: Status = serde_json::from_value(status.clone()).unwrap();
    lines(&status, rows).iter().map(|line| line.text() + "\n").collect()
}

#[test]
fn a_status_without_members_and_one_with_unknown_members_are_shown() {
    assert!(text(&json!({}), None).contains("UNKNOWN STATE"));
    assert!(text(&json!({"state": "ready", "later": [1]}), None).contains("READY"));
}

#[test]
fn the_verdict_names_the_reasons_and_how_long_they_last() {
    let status = json!({"state": "not_ready", "timestamp": 200.0, "since": 80.0,
        "reasons": [{"what": "store", "detail": "403 AccessDenied", "since": 80.0}]});
    let text = text(&status, None);
    assert!(text.contains("NOT READY for 2m 0s\n  store for 2m 0s: 403 AccessDenied\n"), "{text}");
}

#[test]
fn untrusted_text_is_printable_in_every_section() {
    let evil = "x\u{1b}[2J\u{202e}\n";
    let status = json!({
        "state": evil, "time": evil, "build": {"version": evil}, "process": {"host": evil},
        "settings": {"ack": evil, "compression": evil, "store": evil},
        "reasons": [{"what": evil, "detail": evil}],
        "traffic": {"outcomes": [{"outcome": evil, "total": 1}]},
        "limits": [{"name": evil, "used": 1, "max": 2}],
        "tenants": [{"tenant": evil}],
        "rollout": {"mirror": {"url": evil}, "features": [{"name": evil}]},
        "recent_rejections": [{"time": evil, "outcome": evil, "detail": evil, "tenant": evil, "address": evil}],
    });
    let status: Status = serde_json::from_value(status).unwrap();
    for line in lines(&status, None) {
        assert!(!line.text().contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
}

#[test]
fn a_rollout_shows_what_became_of_its_requests() {
    let status = json!({"rollout": {
        "mirror": {"url": "http://a/", "percent": 10.0, "sent_total": 7, "dropped_total": 5, "failed_total": 1},
        "forward": {"url": "http://b/", "percent": 1.0, "passed_total": 3, "taken_here_total": 2, "unknown_total": 0,
            "abandoned_total": 1, "guard": "too_few_requests"}}});
    let text = text(&status, None);
    assert!(text.contains("mirror 10% to http://a/: 7 sent, 5 dropped, 1 failed"), "{text}");
    let forward = "forward 1% to http://b/: 3 passed, 2 taken here, 0 unknown, 1 abandoned, too few to judge";
    assert!(text.contains(forward), "{text}");
}

#[test]
fn rejections_take_the_rows_that_are_left() {
    let rejection = json!({"time": "t", "outcome": "invalid", "status": 400, "detail": "no JSON"});
    let status = json!({"state": "ready", "recent_rejections": vec![rejection; 100]});
    let all = text(&status, None);
    assert_eq!(all.matches("no JSON").count(), ROWS_MAX);
    let fixed = all.lines().position(|line| line.starts_with("RECENT")).unwrap();
    assert_eq!(text(&status, Some(fixed + 5)).matches("no JSON").count(), 3);
    assert_eq!(text(&status, Some(10)).matches("no JSON").count(), 0);
}

#[test]
fn failures_are_named_only_while_they_last() {
    let calm =
        json!({"state": "ready", "traffic": {"upload_failures_per_second": 0.0}, "files": {"reload_failing": []}});
    assert!(!text(&calm, None).contains("fail:"));
    let failing = json!({"traffic": {"upload_failures_per_second": 2.0, "commit_failures_per_second": 0.5},
        "files": {"reload_failing": ["TOKENS_FILE"]},
        "limits": [{"name": "spool_bytes", "used": 10.0, "max": 100.0}], "disk": {"free_bytes": 80.0, "total_bytes": 1000.0}});
    let text = text(&failing, None);
    for part in
        ["reload of TOKENS_FILE failed", "uploads that fail", "commits that fail", "less than SPOOL_MAX_BYTES needs"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_full_limit_is_a_full_bar() {
    assert_eq!(bar(1.0), format!("[{}]", "#".repeat(BAR)));
    assert_eq!(bar(0.0), format!("[{}]", ".".repeat(BAR)));
    assert!(bar(0.0001).starts_with("[#."));
}
