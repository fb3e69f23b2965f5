//! The command line: usage, help, completions, `job`, `profile` and `drain`.

use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::scripted_s3::ScriptedS3;
use crate::support::{Server, run};

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn url(address: impl std::fmt::Display) -> String {
    format!("http://{address}")
}

/// Runs a command and returns its output with its exit code.
pub(crate) async fn millpond(env: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, Output) {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), env, arguments).await;
    (output.status.code(), output)
}

const COMMANDS: [&[&str]; 12] = [
    &["serve"],
    &["check"],
    &["top"],
    &["spool"],
    &["spool", "ls"],
    &["spool", "show"],
    &["spool", "export"],
    &["spool", "requeue"],
    &["job"],
    &["profile"],
    &["drain"],
    &["completions"],
];

#[tokio::test]
async fn every_command_has_help_with_an_example_and_its_exit_codes() {
    for command in COMMANDS {
        let (code, output) = millpond(&[], &[command, &["--help"]].concat()).await;
        let help = stdout(&output);
        assert_eq!(code, Some(0), "{command:?}");
        assert!(help.contains("Usage: millpond ") && help.contains("Example"), "{help}");
        let has_codes = ["  0   ", "  1   ", "  64  "].iter().all(|code| help.contains(code));
        assert!(has_codes || matches!(command, ["spool" | "completions"]), "{help}");
        let (_, as_words) = millpond(&[], &[&["help"], command].concat()).await;
        assert_eq!(stdout(&as_words), help, "{command:?}");
    }
}

#[tokio::test]
async fn invalid_arguments_exit_with_64_and_say_what_is_wrong() {
    let cases: [(&[&str], &str); 13] = [
        (&["--port", "80"], "Settings are environment variables"),
        (&["tob"], "top"),
        (&["serve", "now"], "now"),
        (&["--check", "top"], "--check"),
        (&["top", "--json"], "--once"),
        (&["job"], "<JOB>"),
        (&["job", "x.0"], "expected a receipt"),
        (&["profile", "--seconds", "0"], "1..=60"),
        (&["profile", "--seconds", "9999"], "1..=60"),
        (&["drain", "--wait", "--timeout", "soon"], "such as 200ms, 60s"),
        (&["spool", "show", "x"], "UUIDv7"),
        (&["completions", "csh"], "bash, zsh, fish"),
        (&["top", "--admin", "http://user:hunter2@127.0.0.1"], "without a user"),
    ];
    for (arguments, expected) in cases {
        let (code, output) = millpond(&[], arguments).await;
        let said = stderr(&output);
        assert_eq!((code, output.stdout.len()), (Some(64), 0), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn serve_and_check_are_the_same_as_no_argument_and_as_the_option() {
    for arguments in [&["check"][..], &["--check"]] {
        let (code, output) = millpond(&[], arguments).await;
        assert!(code == Some(0) && stdout(&output).contains("The settings are valid"), "{}", stderr(&output));
    }
    for arguments in [&["serve"][..], &[]] {
        let (code, output) = millpond(&[("MAX_WORKERS", "0")], arguments).await;
        assert!(code == Some(64) && stderr(&output).contains("MAX_WORKERS"), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn completions_know_every_command_and_bash_can_parse_its_script() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, output) = millpond(&[], &["completions", shell]).await;
        let script = stdout(&output);
        assert_eq!(code, Some(0), "{shell}");
        for command in COMMANDS {
            assert!(script.contains(command.last().unwrap()), "{shell} {command:?}");
        }
        if shell == "bash" {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).await.unwrap();
            assert!(bash.wait().await.unwrap().success());
        }
    }
}

#[tokio::test]
async fn job_asks_the_server_and_then_the_spool_of_this_machine() {
    let store = tempfile::tempdir().unwrap();
    let blocked = store.path().join("store");
    // A file prevents the creation of the store's folder.
    std::fs::write(&blocked, b"").unwrap();
    let spool = store.path().join("spool");
    let spool = spool.to_str().unwrap();
    let env = [("SPOOL_DIR", spool), ("STORE_DIR", blocked.to_str().unwrap()), ("OBJECT_MAX_AGE", "20ms")];
    let mut server = Server::start(&env).await;
    let job = server.post_json("{\"n\":1}").await.json()["job"].as_str().unwrap().to_owned();
    let public = url(server.public);
    let arguments = ["job", &job, "--server", &public];
    let (code, output) = millpond(&[("SPOOL_DIR", spool)], &arguments).await;
    assert!(code == Some(0) && stdout(&output).contains("state   spooled"), "{}", stderr(&output));

    std::fs::remove_file(&blocked).unwrap();
    let (code, output) = millpond(&[], &[&arguments[..], &["--wait", "60s", "--json"]].concat()).await;
    let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code, &state["job"], &state["state"]), (Some(0), &job.clone().into(), &"stored".into()));
    assert!(state["object"].as_str().unwrap().ends_with(".ndjson.gz"));

    std::fs::remove_dir_all(&blocked).unwrap();
    std::fs::write(&blocked, b"").unwrap();
    let job = server.post_json("{\"n\":2}").await.json()["job"].as_str().unwrap().to_owned();
    server.signal(Signal::KILL);
    server.ended().await;
    let (code, output) = millpond(&[("SPOOL_DIR", spool)], &["job", &job, "--server", &public]).await;
    let (said, told) = (stdout(&output), stderr(&output));
    assert!(
        code == Some(0) && said.contains("state   spooled") && said.contains("next process adopts"),
        "{said}{told}"
    );
    assert!(told.contains("does not respond") && told.contains("LISTEN_ADDR"), "{told}");
    let unknown = job.replace(".0", ".7");
    let (code, output) = millpond(&[("SPOOL_DIR", spool)], &["job", &unknown, "--server", &public]).await;
    assert!(code == Some(1) && stderr(&output).contains("has no job 7"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_token_is_read_from_the_environment_or_a_file_and_is_never_shown() {
    const TOKEN: &str = "correct-horse-battery";
    let server = Server::start(&[("ADMIN_TOKEN", TOKEN)]).await;
    let admin = url(server.admin);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let file = file.to_str().unwrap();
    let once = ["top", "--once", "--admin", &admin];
    let with_file = [&once[..], &["--token-file", file]].concat();
    for (env, arguments, expected) in [
        (vec![], &once[..], Some(1)),
        (vec![("ADMIN_TOKEN", "wrong-wrong-wrong-wrong")], &once[..], Some(1)),
        (vec![("ADMIN_TOKEN", TOKEN)], &once[..], Some(0)),
        (vec![("ADMIN_TOKEN_FILE", file)], &once[..], Some(0)),
        (vec![], &with_file[..], Some(0)),
    ] {
        let (code, output) = millpond(&env, arguments).await;
        let said = stdout(&output) + &stderr(&output);
        assert_eq!(code, expected, "{env:?}: {said}");
        assert!(!said.contains(TOKEN) && !said.contains("wrong-wrong"), "{said}");
        assert!(code == Some(0) || said.contains("set ADMIN_TOKEN or ADMIN_TOKEN_FILE"), "{said}");
    }
}

#[tokio::test]
async fn a_command_without_a_server_says_which_setting_to_check() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for arguments in [&["top", "--once"][..], &["profile"], &["drain"]] {
        let (code, output) = millpond(&[("ADMIN_ADDR", &free)], arguments).await;
        let said = stderr(&output);
        assert!(
            code == Some(1) && said.contains("refused") && said.contains("ADMIN_ADDR") && said.contains(&free),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_profile_is_written_whole_with_mode_0600_or_not_at_all() {
    let body = "not really a profile";
    let server = ScriptedS3::start(move |head| {
        let status =
            if head.starts_with("GET /debug/pprof/profile?seconds=3 ") { "200 OK" } else { "501 Not Implemented" };
        let body = if status == "200 OK" { body } else { "no heap profile in this build \x1b[2J" };
        Some(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let admin = url(server.addr);
    let output = run(folder.path(), &[], &["profile", "--seconds", "3", "--admin", &admin]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let file = folder.path().join("millpond-cpu.pb.gz");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), body);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let output = run(folder.path(), &[], &["profile", "--heap", "--out", "x", "--admin", &admin]).await;
    let said = stderr(&output);
    assert!(output.status.code() == Some(1) && said.contains("501") && said.contains("no heap profile"), "{said}");
    assert!(!said.contains('\x1b'), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn drain_waits_until_everything_is_stored_or_the_timeout_has_passed() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    std::fs::write(&store, b"").unwrap();
    let mut server = Server::start(&[("STORE_DIR", store.to_str().unwrap())]).await;
    assert_eq!(server.post_json("{}").await.status, 202);
    let admin = url(server.admin);
    let (code, output) = millpond(&[], &["drain", "--wait", "--timeout", "2s", "--admin", &admin]).await;
    let said = stderr(&output);
    assert!(code == Some(1) && said.contains("not drained within") && said.contains("1 job"), "{said}");
    assert_eq!(server.post_json("{}").await.status, 503);

    std::fs::remove_file(&store).unwrap();
    let (code, output) = millpond(&[], &["drain", "--wait", "--admin", &admin]).await;
    assert!(code == Some(0) && stdout(&output).contains("Drained"), "{}", stderr(&output));
    let (code, _) = millpond(&[], &["drain", "--admin", &admin]).await;
    assert_eq!(code, Some(0), "it may be repeated");
    assert_eq!(server.stop().await, Some(0));
}
