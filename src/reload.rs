//! Reloads files when the operator requests it (SIGHUP) or when they have changed.
//!
//! Files are polled, because that detects every kind of change (writes, renames, changed symbolic links) on every file
//! system.

use std::fmt::Display;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::audit;

const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The number of polls that read an invalid version again before it is reported as an error. The files may be incomplete,
/// such as a new certificate whose key is not copied yet.
const RETRIES_MAX: u32 = 3;

/// Requests reloads of all watched files.
#[derive(Debug, Clone, Default)]
pub struct Reload(watch::Sender<()>);

impl Reload {
    /// Reloads all watched files, changed or not.
    pub fn request(&self) {
        tracing::info!(target: audit::TARGET, "SIGHUP: reloading TOKENS_FILE, ROLLOUT_FILE, TLS_CERT and TLS_KEY, if they are set");
        self.0.send_replace(());
    }

    /// Watches the files at `paths`. A caller that reads them after this call misses no change. Blocks on the disk.
    pub fn watch(&self, paths: Vec<PathBuf>) -> WatchedFiles {
        let versions = versions(&paths);
        let requests = self.0.subscribe();
        WatchedFiles { paths, versions, retries_left: 0, is_failing: false, metrics: None, requests }
    }
}

/// The content of a file; `None` if it has more than `max` bytes, of which no more are read.
pub(crate) fn read_at_most(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= max).then_some(content))
}

/// Files, with their versions at the last poll.
#[derive(Debug)]
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    versions: Vec<Option<Version>>,
    /// The number of polls that still read an invalid version again.
    retries_left: u32,
    /// Whether the last reload failed.
    is_failing: bool,
    metrics: Option<ReloadMetrics>,
    requests: watch::Receiver<()>,
}

/// What is counted of the reloads of one setting's files.
#[derive(Debug, Clone)]
pub struct ReloadMetrics {
    /// Failed reloads.
    pub failures: IntCounter,
    /// 1 if the last reload failed, so that an earlier version is in force.
    pub failing: IntGauge,
}

/// Identifies a version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// The time of change of the inode, which a copy cannot preserve.
    changed: (i64, i64),
}

impl Version {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// The current versions; `None` for a file that does not exist.
fn versions(paths: &[PathBuf]) -> Vec<Option<Version>> {
    paths.iter().map(|path| std::fs::metadata(path).ok().as_ref().map(Version::of)).collect()
}

impl WatchedFiles {
    /// Reports reloads to `metrics`.
    pub fn report_to(&mut self, metrics: ReloadMetrics) {
        self.metrics = Some(metrics);
    }

    /// Calls `read` on a blocking thread whenever the files have changed or a reload is requested. If it fails, the caller
    /// keeps the previous version. The failure is logged as an error once: at once if the reload was requested, else when the
    /// retries are used up.
    ///
    /// Returns only if it cannot continue; then the process has to exit.
    pub async fn run<E: Display>(mut self, mut read: impl FnMut() -> Result<(), E> + Send + 'static) -> io::Error {
        let mut requests = self.requests.clone();
        loop {
            let is_requested = tokio::select! {
                () = sleep(POLL_INTERVAL) => false,
                request = requests.changed() => match request {
                    Ok(()) => true,
                    Err(closed) => return io::Error::other(closed),
                },
            };
            let polled = spawn_blocking(move || {
                self.poll(is_requested, &mut read);
                (self, read)
            });
            (self, read) = match polled.await {
                Ok(returned) => returned,
                Err(error) => return io::Error::other(error),
            };
        }
    }

    /// Reads the files if they have changed since the last poll, were invalid then, or a reload is requested.
    fn poll<E: Display>(&mut self, is_requested: bool, read: impl FnOnce() -> Result<(), E>) {
        // Before they are read, so that the next poll detects a change in between.
        let versions = versions(&self.paths);
        let is_changed = versions != self.versions;
        let is_retry = self.is_failing && self.retries_left > 0;
        if !is_changed && !is_requested && !is_retry {
            return;
        }
        self.versions = versions;
        let Err(error) = read() else {
            self.is_failing = false;
            self.metrics.iter().for_each(|metrics| metrics.failing.set(0));
            return tracing::info!(target: audit::TARGET, files = ?self.paths, is_requested, "reloaded");
        };
        self.retries_left = match (is_requested, is_changed) {
            (true, _) => 0,
            (false, true) => RETRIES_MAX,
            (false, false) => self.retries_left.saturating_sub(1),
        };
        if self.retries_left == 0 {
            if let Some(ReloadMetrics { failures, failing }) = &self.metrics {
                failures.inc();
                failing.set(1);
            }
            tracing::error!(target: audit::TARGET, files = ?self.paths, is_requested, %error, "reload failed; keeping the previous version");
        } else if !self.is_failing {
            tracing::info!(files = ?self.paths, %error, "changed files are not valid yet; trying again");
        }
        self.is_failing = true;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn watch_file(path: &Path) -> WatchedFiles {
        Reload::default().watch(vec![path.to_owned()])
    }

    /// The number of times that one poll reads the file.
    fn reads(files: &mut WatchedFiles, is_requested: bool) -> usize {
        let mut reads = 0;
        files.poll(is_requested, || {
            reads += 1;
            Err("bad")
        });
        reads
    }

    #[test]
    fn an_invalid_version_is_read_again_a_limited_number_of_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let mut files = watch_file(&path);
        assert_eq!(reads(&mut files, false), 0, "nothing has changed");
        std::fs::write(&path, "three").unwrap();
        let polls = |files: &mut WatchedFiles| (0..10).map(|_| reads(files, false)).collect::<Vec<_>>();
        assert_eq!(polls(&mut files), [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(polls(&mut files), [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], "a deleted file is a change");
        assert_eq!([reads(&mut files, true), reads(&mut files, false)], [1, 0], "a requested reload is not retried");
    }

    #[test]
    fn invalid_files_are_an_error_only_after_the_retries() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        [&cert, &key].iter().for_each(|path| std::fs::write(path, "old").unwrap());
        let mut files = Reload::default().watch(vec![cert.clone(), key.clone()]);
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            std::fs::write(&cert, "newer").unwrap();
            files.poll(false, || Err("no pair"));
            files.poll(false, || Err("no pair"));
            std::fs::write(&key, "newer").unwrap();
            files.poll(false, || Ok::<_, &str>(()));
            assert!(!log.text().contains("ERROR") && log.text().contains("reloaded"), "{}", log.text());
            std::fs::write(&cert, "newest").unwrap();
            (0..10).for_each(|_| files.poll(false, || Err("no pair")));
        });
        assert_eq!(log.text().matches("reload failed; keeping the previous version").count(), 1, "{}", log.text());
    }

    #[derive(Debug, Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Log {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_replaced_file_of_the_same_size_and_time_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        std::fs::write(&path, "one").unwrap();
        std::fs::write(&other, "two").unwrap();
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        let mut files = watch_file(&path);
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(reads(&mut files, false), 1);
    }

    #[test]
    fn a_changed_symbolic_link_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let [path, one, two] = ["file", "one", "two"].map(|name| folder.path().join(name));
        std::fs::write(&one, "x").unwrap();
        std::fs::write(&two, "x").unwrap();
        std::os::unix::fs::symlink(&one, &path).unwrap();
        let mut files = watch_file(&path);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&two, &path).unwrap();
        assert_eq!(reads(&mut files, false), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_requested_reload_reads_all_unchanged_files() {
        let reload = Reload::default();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let mut running = tokio::task::JoinSet::new();
        for name in ["one", "two"] {
            let sender = sender.clone();
            running.spawn(reload.watch(vec![PathBuf::from(name)]).run(move || sender.send(name)));
        }
        reload.request();
        let mut names = [receiver.recv().await.unwrap(), receiver.recv().await.unwrap()];
        names.sort_unstable();
        assert_eq!(names, ["one", "two"]);
    }
}
