//! `millpond top`: as text, as JSON, and live in a real terminal (tmux).

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::cli::{millpond, stderr, stdout, url};
use crate::scripted_s3::ScriptedS3;
use crate::support::{Server, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_millpond");

/// A terminal in a tmux of its own.
struct Terminal {
    folder: TempDir,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The server of this socket, which is this test's.
        let kill = ["-S", self.socket().to_str().unwrap(), "kill-server"].map(str::to_owned);
        let _: std::io::Result<_> = std::process::Command::new("tmux").args(kill).stderr(Stdio::null()).status();
    }
}

impl Terminal {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("tmux")
    }

    /// A shell in a terminal of 120 columns and 60 rows.
    async fn start() -> Self {
        let terminal = Self { folder: tempfile::tempdir().unwrap() };
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "60", "env PS1='$ ' /bin/sh"]).await;
        terminal.tmux(&["set-option", "-g", "remain-on-exit", "on"]).await;
        terminal.shows("$").await;
        terminal
    }

    async fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.socket()).args(arguments).env_remove("TMUX").stdin(Stdio::null());
        let output = command.output().await.expect("tmux is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).await
    }

    async fn run(&self, command: &str) {
        self.tmux(&["send-keys", "-l", command]).await;
        self.press("Enter").await;
    }

    async fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]).await;
    }

    async fn resize(&self, columns: &str, rows: &str) {
        self.tmux(&["resize-window", "-x", columns, "-y", rows]).await;
    }

    async fn shows(&self, text: &str) {
        until(&format!("{text:?} on the screen"), async || self.screen().await.contains(text)).await;
    }

    async fn hides(&self, text: &str) {
        until(&format!("no {text:?} on the screen"), async || !self.screen().await.contains(text)).await;
    }

    /// Starts the view, and says in the shell with which code it ended.
    async fn top(&self, admin: &str) {
        self.run("echo be''fore").await;
        self.shows("before").await;
        self.run(&format!("{PROGRAM} top --admin {admin}; echo ended-$?")).await;
        self.shows("q exits").await;
    }

    /// The view has ended with this code, and the terminal is as before: its screen, its echo, and its lines.
    async fn is_restored(&self, code: i32) {
        self.shows(&format!("ended-{code}")).await;
        self.shows("before").await;
        assert!(!self.screen().await.contains("LEDGER"), "{}", self.screen().await);
        self.run(
            "stty -a | tr ' ;' '\\n\\n' | grep -x -e icanon -e echo -e -icanon -e -echo | tr '\\n' ,; echo mo''des",
        )
        .await;
        self.shows("modes").await;
        let screen = self.screen().await;
        assert!(screen.lines().any(|line| line == "icanon,echo,modes"), "{screen}");
        assert_eq!(self.tmux(&["display-message", "-p", "#{cursor_flag}#{alternate_on}"]).await.trim(), "10");
    }
}

/// The number after `name` in the ledger, on a screen.
fn ledger(screen: &str, name: &str) -> u64 {
    let line = screen.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    line.map_or(0, |jobs| jobs.replace(',', "").parse().unwrap())
}

/// Sends batches until it is dropped. Every tenth is rejected.
fn load(server: &Server) -> JoinSet<()> {
    let mut sending = JoinSet::new();
    let public = server.public;
    sending.spawn(async move {
        let mut connection = crate::support::Connection(tokio::net::TcpStream::connect(public).await.unwrap());
        for n in 0_u64.. {
            let body = if n % 10 == 9 { "no json".to_owned() } else { format!("[{{\"n\":{n}}},{{}}]") };
            connection.write(&crate::support::post("Content-Type: application/json\r\n", body.as_bytes())).await;
            if connection.answer().await.is_none() {
                return;
            }
        }
    });
    sending
}

#[tokio::test]
async fn one_snapshot_is_printed_as_text_or_as_the_json_of_the_server() {
    let server = Server::start(&[]).await;
    assert_eq!(server.post_json("[{},{}]").await.status, 202);
    assert_eq!(server.post_json("no json").await.status, 400);
    let admin = url(server.admin);
    // Without a terminal it is the same without --once.
    for arguments in [&["top", "--once", "--admin", &admin][..], &["top", "--admin", &admin]] {
        until("the values", async || {
            let (code, output) = millpond(&[("TERM", "xterm")], arguments).await;
            let text = stdout(&output);
            assert!(code == Some(0) && text.contains("READY") && !text.contains('\x1b'), "{text}{}", stderr(&output));
            ledger(&text, "accepted") == 1 && text.contains("RECENT REJECTIONS") && text.contains("invalid")
        })
        .await;
    }
    let (code, output) = millpond(&[], &["top", "--once", "--json", "--admin", &admin]).await;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code, &status["ledger"]["accepted"]["payloads"]), (Some(0), &2.into()));
    assert!(status["process"]["pid"] == server.pid() && status["latency"]["accepted"].get("p99").is_some(), "{status}");
}

#[tokio::test]
async fn a_live_view_moves_follows_the_size_of_the_terminal_and_restores_it() {
    let server = Server::start(&[]).await;
    let sending = load(&server);
    let terminal = Terminal::start().await;
    terminal.top(&url(server.admin)).await;
    let mut seen = Vec::new();
    until("values that move", async || {
        let jobs = ledger(&terminal.screen().await, "accepted");
        if jobs > 0 && seen.last().is_none_or(|last| jobs > *last) {
            seen.push(jobs);
        }
        seen.len() >= 3
    })
    .await;
    for text in
        ["READY", "LEDGER", "TRAFFIC", "OUTCOME", "LATENCY", "LIMITS", "queue jobs", "PACKING", "RECENT REJECTIONS"]
    {
        terminal.shows(text).await;
    }
    terminal.resize("50", "12").await;
    terminal.hides("LATENCY").await;
    terminal.shows("q exits").await;
    let screen = terminal.screen().await;
    assert!(screen.contains("LEDGER") && screen.lines().count() <= 12, "{screen}");
    terminal.resize("120", "60").await;
    terminal.shows("RECENT REJECTIONS").await;
    // Other keys do nothing.
    terminal.press("x").await;
    terminal.press("q").await;
    terminal.is_restored(0).await;
    drop(sending);
}

#[tokio::test]
async fn ctrl_c_and_sigterm_restore_the_terminal() {
    let server = Server::start(&[]).await;
    for is_key in [true, false] {
        let terminal = Terminal::start().await;
        terminal.top(&url(server.admin)).await;
        if is_key {
            terminal.press("C-c").await;
        } else {
            let children = terminal.tmux(&["list-panes", "-F", "#{pane_pid}"]).await;
            let shell: u32 = children.trim().parse().unwrap();
            let found = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
            let pid = rustix::process::Pid::from_raw(found.trim().parse().unwrap()).unwrap();
            rustix::process::kill_process(pid, Signal::TERM).unwrap();
        }
        terminal.is_restored(0).await;
    }
}

#[tokio::test]
async fn a_restart_of_the_server_shows_as_stale_and_then_as_the_new_process() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let env = [("ADMIN_ADDR", free.as_str())];
    let mut first = Server::start(&env).await;
    let terminal = Terminal::start().await;
    terminal.top(&url(first.admin)).await;
    terminal.shows(&format!("pid {},", first.pid())).await;
    assert_eq!(first.stop().await, Some(0));
    terminal.shows("STALE for").await;
    terminal.shows("reconnecting").await;
    terminal.shows("LEDGER").await;
    let second = Server::start(&env).await;
    terminal.shows(&format!("pid {},", second.pid())).await;
    terminal.hides("STALE").await;
    terminal.press("q").await;
    terminal.is_restored(0).await;
}

/// What clients send reaches the terminal without control characters.
#[tokio::test]
async fn untrusted_text_cannot_send_commands_to_the_terminal() {
    let evil = r"evil\u001b]0;owned\u0007\u001b[2J\u202e\u009b31m\r\n";
    let row = format!(
        r#"{{"time":"t","outcome":"{evil}","status":400,"detail":"{evil}","tenant":"{evil}","address":"{evil}"}}"#
    );
    let body = format!(
        r#"{{"state":"not_ready","reasons":[{{"what":"store","detail":"{evil}"}}],"tenants":[{{"tenant":"{evil}"}}],"recent_rejections":[{row}]}}"#
    );
    let server = ScriptedS3::start(move |_| {
        Some(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    })
    .await;
    let admin = url(server.addr);
    let (code, output) = millpond(&[], &["top", "--once", "--admin", &admin]).await;
    let text = stdout(&output);
    assert!(code == Some(0) && text.matches("evil").count() >= 4, "{text}");
    assert!(!text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");

    let terminal = Terminal::start().await;
    terminal.top(&admin).await;
    terminal.shows("evil").await;
    assert!(terminal.screen().await.contains("NOT READY"), "the screen was not cleared");
    assert!(!terminal.tmux(&["display-message", "-p", "#{pane_title}"]).await.contains("owned"));
    terminal.press("q").await;
    terminal.is_restored(0).await;
}
