//! A server's log: copied, and searched for its addresses and for handovers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, watch};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) public: Option<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
    /// It serves with the listeners of another process.
    pub(super) took_over: bool,
    /// Another process serves with its listeners.
    pub(super) handed_over: bool,
}

#[derive(Clone)]
pub(super) struct Log {
    found: watch::Sender<Logged>,
    file: Option<Arc<Mutex<File>>>,
}

impl Log {
    pub(super) async fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = match path {
            Some(path) => {
                let file = File::create(path).await.with_context(|| format!("making the log {}", path.display()))?;
                Some(Arc::new(Mutex::new(file)))
            }
            None => None,
        };
        Ok(Self { found: watch::Sender::new(Logged::default()), file })
    }

    pub(super) fn addresses(&self) -> watch::Receiver<Logged> {
        self.found.subscribe()
    }

    /// Copies all lines. If the log cannot be written, reading goes on: otherwise the server would block.
    pub(super) async fn copy(self, from: impl AsyncRead + Unpin) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line).await, Ok(read) if read > 0) {
            self.found.send_if_modified(|found| note(&String::from_utf8_lossy(&line), found));
            match &self.file {
                Some(file) => {
                    let mut file = file.lock().await;
                    let _ = file.write_all(&line).await;
                    let _ = file.flush().await;
                }
                None => {
                    let _ = std::io::Write::write_all(&mut std::io::stderr(), &line);
                }
            }
            line.clear();
        }
    }
}

/// Takes the address in a line, as `listening addr=…` or `admin listening addr=…`, and that of a handover.
fn note(line: &str, found: &mut Logged) -> bool {
    let said = |what: &str| line.contains(what);
    if said("took over the listeners") || said("handed over the listeners") {
        found.took_over |= said("took over the listeners");
        found.handed_over |= said("handed over the listeners");
        return true;
    }
    let Some((before, address)) = line.split_once("listening addr=") else { return false };
    let end = address.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(address.len());
    let Ok(address) = address[..end].trim_matches('"').parse() else { return false };
    let slot = if before.trim_end().ends_with("admin") { &mut found.admin } else { &mut found.public };
    *slot = Some(address);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_and_both_sides_of_a_handover_are_found() {
        let mut found = Logged::default();
        assert!(note("INFO millpond: admin listening addr=127.0.0.1:9090\n", &mut found));
        assert_eq!(found.public, None);
        assert!(note("INFO millpond: listening addr=127.0.0.1:8080 workers=2\n", &mut found));
        assert!(!note("INFO listening soon\n", &mut found));
        assert_eq!(found.admin, Some(SocketAddr::from(([127, 0, 0, 1], 9090))));
        assert_eq!(found.public, Some(SocketAddr::from(([127, 0, 0, 1], 8080))));
        assert!(note("INFO millpond::handover: took over the listeners\n", &mut found));
        assert!(found.took_over && !found.handed_over);
        assert!(note("INFO millpond::handover::offer: handed over the listeners\n", &mut found));
        assert!(found.handed_over);
    }
}
