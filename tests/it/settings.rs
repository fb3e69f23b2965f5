//! Settings, `--help` and `--check`.

use loadtest::s3::{Fault, FaultPlan, S3Server};
use millpond::config::{SETTINGS, Settings, SettingsError};
use tracing::Level;

use crate::support::{Server, files, run};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn all_problems_are_reported_together_and_no_listener_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let env = [
        ("MAX_WORKERS", "0"),
        ("MAX_QUEUE", "ten"),
        ("MAX_QUEUE_BYTES", "256 megabytes"),
        ("OBJECT_MAX_AGE", "-1s"),
        ("COMPRESSION", "brotli"),
        ("RECORD", "line"),
        ("ACK", "never"),
        ("SPOOL_MAX_BYTES", "1MiB"),
        ("OBJECT_MAX_BYTES", "2MiB"),
        ("STORED_LINGER", "11s"),
        ("ACK_TIMEOUT", "10s"),
        ("SPOOL_DIR", "./a"),
        ("STORE_DIR", "a/"),
        ("S3_BUCKET", "s3://telemetry"),
        ("S3_PREFIX", "a//b"),
        ("AWS_REGION", "EU Central"),
        ("AWS_ENDPOINT_URL_S3", "minio:9000"),
        ("MAX_CONECTIONS", "5"),
        ("max_workers", "5"),
        ("MAX_BODY_BYTES", "2MiB"),
        ("MAX_DECODED_BYTES", "1MiB"),
        ("LISTEN_ADDR", "0.0.0.0:7071"),
        ("ADMIN_ADDR", "127.0.0.1:7071"),
        ("SHUTDOWN_GRACE", "99999999"),
        ("HEADER_TIMEOUT", "0"),
        ("RUST_LOG", "a=b=c"),
        ("UNRELATED", "x"),
    ];
    let output = run(folder.path(), &env, &[]).await;
    assert_eq!(output.status.code(), Some(64));
    let said = stderr(&output);
    // Each problem is a line that contains the name of its setting.
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let about = |name: &str| {
        lines.iter().any(|line| {
            line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name)
                && !line.contains("listening")
        })
    };
    for (name, _) in env {
        assert_eq!(about(name), name != "UNRELATED", "{name}: {said}");
    }
    for hint in
        ["did you mean MAX_CONNECTIONS?", "did you mean MAX_WORKERS?", "gzip, zstd or none", "such as 524288, 512KiB"]
    {
        assert!(said.contains(hint), "{hint}: {said}");
    }
    assert!(!said.contains("listening"), "{said}");
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "no directory was created");
}

#[tokio::test]
async fn units_are_optional_and_an_empty_value_counts_as_unset() {
    let folder = tempfile::tempdir().unwrap();
    let env = [
        ("MAX_BODY_BYTES", "524288"),
        ("MAX_DECODED_BYTES", "512KiB"),
        ("OBJECT_MAX_AGE", "200ms"),
        ("IDLE_TIMEOUT", "5m"),
        ("SHUTDOWN_GRACE", "0"),
        ("S3_BUCKET", ""),
        ("MAX_WORKERS", " 4 "),
    ];
    let output = run(folder.path(), &env, &["--check"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[tokio::test]
async fn a_limit_that_is_set_takes_precedence_over_the_default_of_another_limit() {
    let env = [
        ("MAX_DECODED_BYTES", "1KiB"),
        ("SPOOL_MAX_BYTES", "1MiB"),
        ("ACK_TIMEOUT", "100ms"),
        ("ACK", "stored"),
        ("RECORD", "payload"),
    ];
    let mut server = Server::start(&env).await;
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(1024));
    assert!(server.post_json(&long).await.refusal(413).contains("MAX_DECODED_BYTES"));
    assert_eq!(
        server.post_json(&format!("[{}{{}}]", "{},".repeat(300))).await.status,
        202,
        "ACK_TIMEOUT passes before the object is stored"
    );
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 301);
}

#[tokio::test]
async fn errors_do_not_repeat_secrets_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let env = [("AWS_ENDPOINT_URL", "ftp://user:hunter2@example.org"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let output = run(folder.path(), &env, &[]).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("AWS_ENDPOINT_URL") && !stderr(&output).contains("hunter2"));
}

#[tokio::test]
async fn help_lists_every_setting_with_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[], &["--help"]).await;
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for setting in SETTINGS {
        let line = help.lines().find(|line| line.trim_start().starts_with(&format!("{} ", setting.name)));
        assert!(
            line.is_some_and(|line| line.contains(setting.default.unwrap_or("unset"))),
            "{} in {help}",
            setting.name
        );
    }
}

#[tokio::test]
async fn unknown_arguments_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &[], &["--port", "80"]).await.status.code(), Some(64));
    assert_eq!(run(folder.path(), &[], &["--version"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn check_tests_the_store_and_deletes_its_object() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[], &["--check"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(files(folder.path()).is_empty());

    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let s3_env = s3.env();
    let env: Vec<_> = s3_env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let output = run(folder.path(), &env, &["--check"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(s3.stats().stored, 1);
    assert!(std::fs::read_dir(root.path().join("telemetry")).unwrap().next().is_none());

    s3.faults().set(FaultPlan::always(Fault::AccessDenied));
    let output = run(folder.path(), &env, &["--check"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("403 AccessDenied"), "{}", stderr(&output));
    assert!(!stderr(&output).contains(&s3.credentials().secret_key));
}

#[tokio::test]
async fn the_error_for_an_address_in_use_names_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = run(folder.path(), &[("LISTEN_ADDR", addr.as_str())], &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("LISTEN_ADDR: cannot listen on {addr}")), "{}", stderr(&output));
}

fn settings(name: &str, value: &str) -> Result<Settings, SettingsError> {
    Settings::from_vars([(name.into(), value.into())])
}

#[test]
fn an_empty_value_of_a_protective_setting_is_an_error() {
    for name in ["ADMIN_TOKEN", "ADMIN_TOKEN_FILE", "TLS_CERT", "TLS_KEY", "TOKENS_FILE", "TRUSTED_PROXIES"] {
        let error = settings(name, " ").unwrap_err().to_string();
        assert!(error.contains(&format!("{name}: expected a value")), "{error}");
    }
    assert!(settings("S3_BUCKET", "").is_ok());
}

#[test]
fn warnings_of_h2_that_a_client_can_cause_are_not_logged_by_default() {
    let enabled = |filter, level| settings("RUST_LOG", filter).unwrap().log.filter.would_enable("h2::proto", &level);
    assert!(!enabled("info", Level::WARN) && enabled("info", Level::ERROR));
    assert!(!enabled("trace", Level::WARN));
    assert!(!enabled("off", Level::ERROR));
    assert!(enabled("info,h2=debug", Level::DEBUG));
}

/// S3 takes 5 GiB in one PUT, and a segment is sealed only after the batch that fills it was added.
#[tokio::test]
async fn an_object_size_that_exceeds_one_put_is_an_error() {
    let check = |env: &[(&str, &str)]| {
        let vars = env.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Settings::from_vars(vars).map(|_| ()).map_err(|error| error.to_string())
    };
    let s3 = ("S3_BUCKET", "telemetry");
    let spool = ("SPOOL_MAX_BYTES", "100GiB");
    assert!(check(&[s3, spool, ("OBJECT_MAX_BYTES", "5GiB")]).unwrap_err().contains("5GiB limit of one PUT"));
    assert_eq!(check(&[s3, spool, ("OBJECT_MAX_BYTES", "4GiB")]), Ok(()), "with batches of the default size");
    // The lines of a batch may be 4 times as large as its body, up to the size of the queue.
    let large = [s3, spool, ("OBJECT_MAX_BYTES", "4GiB"), ("MAX_DECODED_BYTES", "512MiB"), ("MAX_QUEUE_BYTES", "3GiB")];
    assert!(check(&large).unwrap_err().contains("OBJECT_MAX_BYTES"));
    assert_eq!(check(&[s3, spool, large[2], large[3]]), Ok(()), "the default queue of 256MiB is a limit as well");
    assert_eq!(check(&large[1..]), Ok(()), "a directory accepts objects of any size");
    let frame = [("MAX_DECODED_BYTES", "2GiB"), ("MAX_QUEUE_BYTES", "8GiB")];
    assert!(check(&frame).unwrap_err().contains("under 4GiB"), "a frame's length has 32 bits");
}

fn all(vars: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::from_vars(vars.iter().map(|(name, value)| (name.into(), value.into())))
}

#[test]
fn wrong_names_and_contradictions_are_errors_that_say_what_to_change() {
    let cases: [(&[(&str, &str)], &str); 12] = [
        (&[("AWS_BUCKET", "b")], "AWS_BUCKET: unknown setting; use S3_BUCKET"),
        (&[("S3_REGION", "eu-west-1")], "S3_REGION: unknown setting; use AWS_REGION"),
        (&[("S3_ENDPOINT", "http://x")], "S3_ENDPOINT: unknown setting; use AWS_ENDPOINT_URL_S3"),
        (&[("AWS_REGON", "eu-west-1")], "did you mean AWS_REGION?"),
        (&[("AWS_SECRET_ACCES_KEY", "hunter2")], "did you mean AWS_SECRET_ACCESS_KEY?"),
        (&[("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000")], "S3_BUCKET is not: set S3_BUCKET"),
        (&[("SPOOL_MAX_BYTES", "16KiB")], "no batch would fit"),
        (&[("RUST_LOG", "verbose")], "RUST_LOG=verbose: expected a level"),
        (&[("RUST_LOG", "milpond=debug")], "did you mean millpond?"),
        (&[("RUST_LOG", "info,verbose")], "not \"verbose\""),
        (&[("ADMIN_TOKEN", "correct-horse-battery"), ("ADMIN_TOKEN_FILE", "./t")], "set only one of them"),
        (&[("ADMIN_ADDR", "0.0.0.0:9090")], "ADMIN_TOKEN is not set"),
    ];
    for (vars, expected) in cases {
        let error = all(vars).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{vars:?}: {error}");
    }
    let fine: [&[(&str, &str)]; 4] = [
        &[("AWS_BUCKET", "of-another-program"), ("S3_BUCKET", "telemetry")],
        &[("AWS_PROFILE", "p"), ("AWS_DEFAULT_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL_STS", "http://x")],
        &[("RUST_LOG", "millpond=debug,h2=off")],
        &[("ADMIN_ADDR", "0.0.0.0:9090"), ("ADMIN_TOKEN_FILE", "./t")],
    ];
    for vars in fine {
        assert_eq!(all(vars).unwrap().warnings, Vec::<String>::new(), "{vars:?}");
    }
}

#[tokio::test]
async fn ignored_settings_are_warned_about_at_start_and_by_check() {
    let bucket = ("S3_BUCKET", "telemetry");
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[bucket, ("STORE_DIR", "./x")], "STORE_DIR is ignored"),
        (&[("ACK", "memory"), ("SPOOL_DIR", "./x")], "SPOOL_DIR is ignored"),
        (&[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")], "AWS_ENDPOINT_URL is ignored"),
        (&[bucket, ("S3_TIMEOUT", "60s")], "S3_TIMEOUT exceeds SHUTDOWN_GRACE"),
        (&[("RUST_LOG", "info,milpond=debug")], "did you mean millpond?"),
        (&[("SPOOL_MAX_BYTES", "64KiB")], "SPOOL_MAX_BYTES is smaller than the largest batch"),
    ];
    for (vars, expected) in cases {
        let warnings = all(vars).unwrap().warnings;
        assert!(matches!(&warnings[..], [warning] if warning.contains(expected)), "{vars:?}: {warnings:?}");
    }
    let env = [("ACK", "memory"), ("SPOOL_DIR", "./x")];
    let mut server = Server::start(&env).await;
    server.logged("SPOOL_DIR is ignored").await;
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &env, &["--check"]).await;
    assert!(String::from_utf8(output.stdout).unwrap().contains("Warning: SPOOL_DIR is ignored"));
}

#[tokio::test]
async fn a_batch_larger_than_the_spool_is_rejected_with_413() {
    let env = [("SPOOL_MAX_BYTES", "64KiB"), ("COMPRESSION", "none"), ("RECORD", "payload")];
    let mut server = Server::start(&env).await;
    let batch = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes));
    for bytes in [533_000, 65_536] {
        assert!(server.post_json(&batch(bytes)).await.refusal(413).contains("SPOOL_MAX_BYTES"), "{bytes}");
    }
    // A small body with large lines.
    let lines = format!("[{}{{}}]", "{\"a\":1},".repeat(9_000));
    server.post("Content-Type: application/json\r\n", lines.as_bytes()).await.refusal(413);
    assert_eq!(server.post_json(&batch(56_000)).await.status, 202, "this batch fits");
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn check_counts_damaged_files_and_segments_of_exited_processes() {
    let folder = tempfile::tempdir().unwrap();
    let dead = folder.path().join("millpond-data/spool/dead");
    std::fs::create_dir_all(&dead).unwrap();
    std::fs::write(dead.join("x"), "12345").unwrap();
    let output = run(folder.path(), &[], &["--check"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("segments of exited processes 0, damaged files under dead/ 1 (5 bytes)"), "{said}");
}
