//! When files are to be read again: when somebody says so (SIGHUP), or when they are no longer what they were.
//!
//! Files are looked at and not watched: what replaces them may be an editor, a rename or a symbolic link that now points
//! elsewhere, on any file system, and all of these change what a look sees.

use std::fmt::Display;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;

use crate::audit;

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Files that changed and cannot be used are read again at so many further looks before that is an error: they may be half
/// copied, as a certificate is before its key.
const RETRIES_MAX: u32 = 3;

/// Tells those who follow files to read them again.
#[derive(Debug, Clone, Default)]
pub struct Reload(watch::Sender<()>);

impl Reload {
    /// Has every file that is followed read again, changed or not.
    pub fn request(&self) {
        tracing::info!(target: audit::TARGET, "reload requested");
        self.0.send_replace(());
    }

    /// Follows the files at `paths` from now on: whoever reads them first after this misses no change. It touches the disk.
    pub fn watch(&self, paths: Vec<PathBuf>) -> WatchedFiles {
        let seen = look(&paths);
        WatchedFiles { paths, seen, retries_left: 0, is_failing: false, asked: self.0.subscribe() }
    }
}

/// Files, as they were when they were last looked at.
#[derive(Debug)]
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    seen: Vec<Option<Version>>,
    /// Further looks at which a version that could not be used is read again.
    retries_left: u32,
    /// Whether the last reading failed.
    is_failing: bool,
    asked: watch::Receiver<()>,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    /// In seconds and nanoseconds.
    modified: (i64, i64),
    /// The inode's own: a copy can keep the time of modification, but not this.
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

/// The versions that the files have; none of one that is not there.
fn look(paths: &[PathBuf]) -> Vec<Option<Version>> {
    paths.iter().map(|path| std::fs::metadata(path).ok().as_ref().map(Version::of)).collect()
}

impl WatchedFiles {
    /// Calls `read`, on a thread that may block, whenever the files have changed or a reload is asked for. When it fails, what
    /// was read before is to stay in force. That is logged as an error once: when a reload was asked for, or when the files
    /// have stayed unusable for some looks.
    ///
    /// Returns only when it can go on no longer, for whoever owns the task to end the process.
    pub async fn run<E: Display>(mut self, mut read: impl FnMut() -> Result<(), E> + Send + 'static) -> io::Error {
        let mut asked = self.asked.clone();
        loop {
            let is_asked = tokio::select! {
                () = sleep(LOOK_INTERVAL) => false,
                asked = asked.changed() => match asked {
                    Ok(()) => true,
                    Err(gone) => return io::Error::other(gone),
                },
            };
            let looked: Result<_, JoinError> = spawn_blocking(move || {
                self.look_and_read(is_asked, &mut read);
                (self, read)
            })
            .await;
            (self, read) = match looked {
                Ok(both) => both,
                Err(error) => return io::Error::other(error),
            };
        }
    }

    /// Reads the files if they have changed since the last look, could not be used then, or are asked for.
    fn look_and_read<E: Display>(&mut self, is_asked: bool, read: impl FnOnce() -> Result<(), E>) {
        // Before they are read: a change in between is seen at the next look.
        let now = look(&self.paths);
        let is_changed = now != self.seen;
        let is_retry = self.is_failing && self.retries_left > 0;
        if !is_changed && !is_asked && !is_retry {
            return;
        }
        self.seen = now;
        let Err(error) = read() else {
            self.is_failing = false;
            return tracing::info!(target: audit::TARGET, files = ?self.paths, is_asked, "reloaded");
        };
        self.retries_left = match (is_asked, is_changed) {
            (true, _) => 0,
            (false, true) => RETRIES_MAX,
            (false, false) => self.retries_left.saturating_sub(1),
        };
        if self.retries_left == 0 {
            tracing::error!(target: audit::TARGET, files = ?self.paths, is_asked, %error, "reload failed; keeping the previous version");
        } else if !self.is_failing {
            tracing::info!(files = ?self.paths, %error, "the files have changed and cannot be used yet; trying again");
        }
        self.is_failing = true;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn follow(path: &Path) -> WatchedFiles {
        Reload::default().watch(vec![path.to_owned()])
    }

    /// How often one look reads the file.
    fn reads(files: &mut WatchedFiles, is_asked: bool) -> usize {
        let mut reads = 0;
        files.look_and_read(is_asked, || {
            reads += 1;
            Err("bad")
        });
        reads
    }

    #[test]
    fn a_bad_version_is_read_a_few_times_more_and_then_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let mut files = follow(&path);
        assert_eq!(reads(&mut files, false), 0, "nothing has changed");
        std::fs::write(&path, "three").unwrap();
        let looks = |files: &mut WatchedFiles| (0..10).map(|_| reads(files, false)).collect::<Vec<_>>();
        assert_eq!(looks(&mut files), [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(looks(&mut files), [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], "gone is a version, too");
        assert_eq!([reads(&mut files, true), reads(&mut files, false)], [1, 0], "asked for, it fails at once");
    }

    #[test]
    fn files_that_are_copied_one_after_the_other_are_an_error_only_if_they_stay_unusable() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        [&cert, &key].iter().for_each(|path| std::fs::write(path, "old").unwrap());
        let mut files = Reload::default().watch(vec![cert.clone(), key.clone()]);
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            std::fs::write(&cert, "newer").unwrap();
            files.look_and_read(false, || Err("no pair"));
            files.look_and_read(false, || Err("no pair"));
            std::fs::write(&key, "newer").unwrap();
            files.look_and_read(false, || Ok::<_, &str>(()));
            assert!(!log.text().contains("ERROR") && log.text().contains("reloaded"), "{}", log.text());
            std::fs::write(&cert, "newest").unwrap();
            (0..10).for_each(|_| files.look_and_read(false, || Err("no pair")));
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
    fn a_file_that_takes_the_place_of_another_is_a_new_version_though_it_looks_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        std::fs::write(&path, "one").unwrap();
        std::fs::write(&other, "two").unwrap();
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        let mut files = follow(&path);
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(reads(&mut files, false), 1);
    }

    #[test]
    fn a_link_that_points_elsewhere_is_a_new_version() {
        let folder = tempfile::tempdir().unwrap();
        let [path, one, two] = ["file", "one", "two"].map(|name| folder.path().join(name));
        std::fs::write(&one, "x").unwrap();
        std::fs::write(&two, "x").unwrap();
        std::os::unix::fs::symlink(&one, &path).unwrap();
        let mut files = follow(&path);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&two, &path).unwrap();
        assert_eq!(reads(&mut files, false), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_has_all_files_read_again_though_they_have_not_changed() {
        let reload = Reload::default();
        let (read, mut was_read) = tokio::sync::mpsc::unbounded_channel();
        let mut running = tokio::task::JoinSet::new();
        for name in ["one", "two"] {
            let read = read.clone();
            running.spawn(reload.watch(vec![PathBuf::from(name)]).run(move || read.send(name)));
        }
        reload.request();
        let mut names = [was_read.recv().await.unwrap(), was_read.recv().await.unwrap()];
        names.sort_unstable();
        assert_eq!(names, ["one", "two"]);
    }
}
