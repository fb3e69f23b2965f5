//! A millpond to talk to, and the means to do so byte by byte.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use loadtest::s3::S3Server;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// No wait in a test is longer than this; it bounds a failure and measures nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_millpond");

/// A running server with a folder of its own.
pub(crate) struct Server {
    child: Child,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) folder: Arc<TempDir>,
    log: watch::Receiver<String>,
    reading: JoinSet<()>,
}

pub(crate) fn command(folder: &Path, env: &[(&str, &str)]) -> Command {
    prepare(Command::new(PROGRAM), folder, env)
}

pub(crate) fn prepare(mut command: Command, folder: &Path, env: &[(&str, &str)]) -> Command {
    command.env_clear().current_dir(folder).kill_on_drop(true).stdin(Stdio::null());
    // Where a program that measures its coverage writes it.
    command.envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)));
    command.envs([("LISTEN_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")]);
    command.envs(env.iter().copied());
    command
}

/// The program, which may have no more than `files` open.
fn command_with_files(files: u32, folder: &Path, env: &[(&str, &str)]) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\""), PROGRAM]);
    prepare(shell, folder, env)
}

/// Runs the program to its end.
pub(crate) async fn run(folder: &Path, env: &[(&str, &str)], arguments: &[&str]) -> Output {
    let run = command(folder, env).args(arguments).output();
    timeout(PATIENCE, run).await.expect("the program ends").expect("the program starts")
}

impl Server {
    pub(crate) async fn start(env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let command = command(folder.path(), env);
        Self::spawn(command, folder).await
    }

    /// The program alone, which need not come to serve.
    pub(crate) fn start_only(env: &[(&str, &str)]) -> (Child, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (command(folder.path(), env).stderr(Stdio::null()).spawn().unwrap(), folder)
    }

    pub(crate) async fn start_with_files(files: u32, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let command = command_with_files(files, folder.path(), env);
        Self::spawn(command, folder).await
    }

    pub(crate) async fn start_with_umask(umask: &str, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("umask {umask} && exec \"$0\""), PROGRAM]);
        let command = prepare(shell, folder.path(), env);
        Self::spawn(command, folder).await
    }

    /// Starts another process in the folder of this one.
    pub(crate) async fn start_beside(&self, env: &[(&str, &str)]) -> Self {
        let command = command(self.folder.path(), env);
        Self::spawn_in(command, Arc::clone(&self.folder)).await
    }

    async fn spawn(command: Command, folder: TempDir) -> Self {
        Self::spawn_in(command, Arc::new(folder)).await
    }

    pub(crate) async fn spawn_in(mut command: Command, folder: Arc<TempDir>) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, mut log) = watch::channel(String::new());
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|log| *log += &(line + "\n"));
            }
        });
        let started = log.wait_for(|log| log.contains("storing objects"));
        let text = timeout(PATIENCE, started).await.expect("the server starts").map(|log| log.clone());
        let text = text.unwrap_or_else(|_| panic!("the server ended at its start: {}", log.borrow().clone()));
        // In a log of JSON they stand in quotes.
        let text = text.replace("\",\"addr\":\"", " addr=").replace('"', " ");
        let (public, admin) = (addr(&text, " listening addr="), addr(&text, "admin listening addr="));
        Self { child, public, admin, folder, log, reading }
    }

    pub(crate) async fn start_with_s3(s3: &S3Server, env: &[(&str, &str)]) -> Self {
        let s3_env = s3.env();
        let both: Vec<_> = s3_env.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain(env.iter().copied()).collect();
        Self::start(&both).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())).expect("it runs");
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end; the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let code = timeout(PATIENCE, self.child.wait()).await.expect("the server ends").unwrap().code();
        // The last lines of the log may still be on their way.
        timeout(PATIENCE, self.reading.join_next()).await.expect("the log ends");
        code
    }

    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended().await
    }

    pub(crate) fn log(&self) -> String {
        self.log.borrow().clone()
    }

    pub(crate) async fn has_logged(&self, text: &str) {
        let mut log = self.log.clone();
        timeout(PATIENCE, log.wait_for(|log| log.contains(text))).await.expect("it is logged").unwrap();
    }

    pub(crate) async fn logged(&mut self, text: &str) {
        timeout(PATIENCE, self.log.wait_for(|log| log.contains(text))).await.expect("it is logged").unwrap();
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection(TcpStream::connect(self.public).await.unwrap())
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: &[u8]) -> Answer {
        let mut connection = self.connect().await;
        connection.write(request).await;
        connection.answer().await.expect("an answer")
    }

    pub(crate) async fn post(&self, headers: &str, body: &[u8]) -> Answer {
        self.send(&post(headers, body)).await
    }

    pub(crate) async fn post_json(&self, body: &str) -> Answer {
        self.post("Content-Type: application/json\r\n", body.as_bytes()).await
    }

    pub(crate) async fn ready(&self) -> (u16, String) {
        let answer = get(self.admin, "/ready").await;
        (answer.status, answer.text())
    }

    pub(crate) async fn metrics(&self) -> BTreeMap<String, f64> {
        let text = get(self.admin, "/metrics").await.text();
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    pub(crate) async fn metric(&self, name: &str) -> f64 {
        *self.metrics().await.get(name).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Waits until a metric is as it should be.
    pub(crate) async fn metric_is(&self, name: &str, good: impl Fn(f64) -> bool) {
        until(name, async || good(self.metric(name).await)).await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The most memory that was resident since the start or since [`forget_peak`](Self::forget_peak), in KiB.
    pub(crate) fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The peak counts from what is resident now.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }

    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        objects(&self.folder.path().join("millpond-data/objects"))
    }

    /// Every line of every object in the directory store.
    pub(crate) fn lines(&self) -> Vec<String> {
        lines(&self.folder.path().join("millpond-data/objects"))
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap()));
    // One that has just ended and was not waited for yet takes it as well.
    pid.into_iter().for_each(|pid| kill_process(pid, signal).unwrap());
}

/// Waits on a condition that only asking can tell.
pub(crate) async fn until(what: &str, mut good: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !good().await {
        assert!(Instant::now() < deadline, "in vain waited for: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn addr(log: &str, before: &str) -> SocketAddr {
    let line = log.lines().find_map(|line| line.split_once(before)).unwrap_or_else(|| panic!("no {before:?} in {log}"));
    line.1.split_whitespace().next().unwrap().parse().unwrap()
}

/// Every file under `root`.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect();
    found.sort();
    found
}

/// Every object under `root`: what readers see, who pass over names that begin with a dot.
pub(crate) fn objects(root: &Path) -> Vec<PathBuf> {
    let mut found = files(root);
    found.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'));
    found
}

pub(crate) fn lines(root: &Path) -> Vec<String> {
    let mut text = String::new();
    for object in objects(root) {
        text += &unpacked(&object.display().to_string(), &std::fs::read(&object).unwrap());
    }
    text.lines().map(str::to_owned).collect()
}

pub(crate) fn unpacked(key: &str, bytes: &[u8]) -> String {
    let mut text = Vec::new();
    if key.ends_with(".ndjson.gz") {
        MultiGzDecoder::new(bytes).read_to_end(&mut text).unwrap();
    } else if key.ends_with(".ndjson.zst") {
        zstd::stream::copy_decode(bytes, &mut text).unwrap();
    } else {
        assert!(key.ends_with(".ndjson"), "{key} is no object");
        text.extend_from_slice(bytes);
    }
    String::from_utf8(text).unwrap()
}

pub(crate) fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST /v1/payloads HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub(crate) async fn get(addr: SocketAddr, path: &str) -> Answer {
    let mut connection = Connection(TcpStream::connect(addr).await.unwrap());
    connection.write(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes()).await;
    connection.answer().await.expect("an answer")
}

/// A connection on which nothing is done that the test does not say.
pub(crate) struct Connection<S = TcpStream>(pub(crate) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next answer; none when the connection is closed before one.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        let mut byte = [0; 1];
        while !head.ends_with(b"\r\n\r\n") {
            match timeout(PATIENCE, self.0.read(&mut byte)).await.expect("an answer or the end") {
                Ok(0) | Err(_) => return None,
                Ok(_) => head.push(byte[0]),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        Some(Answer { status, headers, body })
    }

    /// Posts one payload after the other until the server goes; those that it acknowledged. Any other answer is a 503.
    pub(crate) async fn post_until_the_end(mut self, payload: impl Fn(usize) -> String) -> Vec<String> {
        let mut acknowledged = Vec::new();
        for n in 0.. {
            let payload = payload(n);
            if self.0.write_all(&post("", payload.as_bytes())).await.is_err() {
                break;
            }
            match self.answer().await {
                Some(answer) if answer.status == 202 => acknowledged.push(payload),
                Some(answer) => assert_eq!(answer.status, 503),
                None => break,
            }
        }
        acknowledged
    }

    /// Whether the server closes the connection without another word.
    pub(crate) async fn closed(&mut self) -> bool {
        let mut byte = [0; 1];
        matches!(timeout(PATIENCE, self.0.read(&mut byte)).await.expect("the end"), Ok(0) | Err(_))
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// That this is a refusal as RFC 9457 has it, and what it says.
    pub(crate) fn refusal(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(!problem["title"].as_str().unwrap().is_empty());
        problem["detail"].as_str().unwrap().to_owned()
    }
}
