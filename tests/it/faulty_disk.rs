//! A disk that does what a test tells it to: it counts and logs every call, and fails, stalls or kills the process at the
//! one that was named.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use millpond::disk::{Disk, DiskFile, Entry, Lock, RealDisk, read_skipping_errors};

/// One call of a [`Disk`] or a [`DiskFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Op {
    CreateDir,
    List,
    Create,
    Read,
    Rename,
    Remove,
    RemoveDir,
    SyncDir,
    Lock,
    Append,
    Sync,
    Truncate,
}

impl Op {
    pub(crate) const ALL: [Self; 12] = [
        Self::CreateDir,
        Self::List,
        Self::Create,
        Self::Read,
        Self::Rename,
        Self::Remove,
        Self::RemoveDir,
        Self::SyncDir,
        Self::Lock,
        Self::Append,
        Self::Sync,
        Self::Truncate,
    ];
}

/// A call that was made.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) path: PathBuf,
    /// None while it lasts.
    pub(crate) went_well: Option<bool>,
}

/// Which calls go wrong. Calls are counted from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    /// This one.
    Call(usize),
    /// So many of them, from this one on.
    Calls(usize, usize),
    /// This one of its kind.
    Kind(Op, usize),
    /// All of this kind.
    Every(Op),
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// EIO, and nothing is done.
    Io,
    /// ENOSPC, and nothing is done.
    NoSpace,
    /// EIO, and of what was to be appended a part is there.
    Short,
    /// EIO, and all is done.
    Late,
    /// The code panics, and nothing is done.
    Panic,
    /// The process dies, and nothing is done.
    AbortBefore,
    /// The process dies when all is done.
    AbortAfter,
}

/// The disk. Clones are one disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Shared>);

/// Releases the disk, also when its test fails.
pub(crate) struct Hanging(FaultyDisk);

impl Drop for Hanging {
    fn drop(&mut self) {
        Op::ALL.into_iter().for_each(|op| self.0.release(op));
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    log: Vec<Call>,
    fault: Option<(At, How)>,
    has_failed: bool,
    /// Calls of these kinds do not get on.
    held: HashSet<Op>,
    /// What the device cannot read: bytes of the files whose name begins so.
    unreadable: Vec<(String, Range<usize>)>,
}

impl FaultyDisk {
    pub(crate) fn failing(at: At, how: How) -> Self {
        let disk = Self::default();
        disk.fail(at, how);
        disk
    }

    /// From now on; calls are counted from the disk's first one all the same.
    pub(crate) fn fail(&self, at: At, how: How) {
        self.lock_state().fault = Some((at, how));
    }

    /// No call goes wrong any more.
    pub(crate) fn heal(&self) {
        self.lock_state().fault = None;
    }

    /// Calls of this kind wait until they are released.
    pub(crate) fn hold(&self, op: Op) {
        self.lock_state().held.insert(op);
    }

    /// Reads of these bytes fail with EIO, in the file whose name begins so.
    pub(crate) fn lose(&self, name: &str, bytes: Range<usize>) {
        self.lock_state().unreadable.push((name.to_owned(), bytes));
    }

    /// What was lost can be read again.
    pub(crate) fn find(&self) {
        self.lock_state().unreadable.clear();
    }

    fn lost(&self, path: &Path) -> Range<usize> {
        let name = path.file_name().unwrap().to_str().unwrap();
        let state = self.lock_state();
        let lost = state.unreadable.iter().find(|(begin, _)| name.starts_with(begin));
        lost.map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }

    /// A disk that hangs: no call gets on until the guard is dropped.
    pub(crate) fn hang(&self) -> Hanging {
        Op::ALL.into_iter().for_each(|op| self.hold(op));
        Hanging(self.clone())
    }

    pub(crate) fn release(&self, op: Op) {
        self.lock_state().held.remove(&op);
        self.0.released.notify_all();
    }

    /// Whether any call went wrong because this disk was told so.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock_state().has_failed
    }

    pub(crate) fn log(&self) -> Vec<Call> {
        self.lock_state().log.clone()
    }

    pub(crate) fn count(&self, op: Op) -> usize {
        self.lock_state().log.iter().filter(|call| call.op == op).count()
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call: `real` is what the disk under this one does, given whether it is to do all or only a part of it.
    fn call<T>(&self, op: Op, path: &Path, real: impl FnOnce(bool) -> io::Result<T>) -> io::Result<T> {
        let (number, how) = self.begin(op, path);
        let done = match how {
            None => real(true),
            Some(How::Io) => Err(eio()),
            Some(How::NoSpace) => Err(enospc()),
            Some(How::Short) if op == Op::Append => real(false).and_then(|_| Err(eio())),
            Some(How::Short) => Err(eio()),
            Some(How::Late) => real(true).and_then(|_| Err(eio())),
            Some(How::Panic) => panic!("a bug in the call of {op:?}"),
            Some(How::AbortBefore) => std::process::abort(),
            Some(How::AbortAfter) => {
                let _: io::Result<T> = real(true);
                std::process::abort()
            }
        };
        if let Some(call) = self.lock_state().log.get_mut(number) {
            call.went_well = Some(done.is_ok());
        }
        done
    }

    fn begin(&self, op: Op, path: &Path) -> (usize, Option<How>) {
        let mut state = self.lock_state();
        let number = state.log.len();
        let of_its_kind = state.log.iter().filter(|call| call.op == op).count();
        state.log.push(Call { op, path: path.to_owned(), went_well: None });
        let mut state =
            self.0.released.wait_while(state, |state| state.held.contains(&op)).unwrap_or_else(PoisonError::into_inner);
        let hit = |at| match at {
            At::Call(n) => n == number,
            At::Calls(first, count) => (first..first + count).contains(&number),
            At::Kind(kind, n) => kind == op && n == of_its_kind,
            At::Every(kind) => kind == op,
        };
        let how = state.fault.filter(|(at, _)| hit(*at)).map(|(at, how)| {
            state.has_failed = true;
            if matches!(at, At::Call(_) | At::Kind(..)) {
                state.fault = None;
            }
            how
        });
        (number, how)
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
}

impl Disk for FaultyDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call(Op::CreateDir, path, |_| RealDisk.create_dir_all(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::CreateDir, path, |_| RealDisk.create_dir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.call(Op::List, path, |_| RealDisk.list(path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.call(Op::Create, path, |_| RealDisk.create(path))?;
        Ok(Box::new(FaultyFile { disk: self.clone(), file, path: path.to_owned() }))
    }

    fn read(&self, path: &Path, buffer: &mut Vec<u8>) -> io::Result<()> {
        self.call(Op::Read, path, |_| {
            RealDisk.read(path, buffer)?;
            let lost = self.lost(path);
            if !lost.is_empty() && lost.start < buffer.len() { Err(eio()) } else { Ok(()) }
        })
    }

    fn read_skipping_errors(&self, path: &Path, buffer: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        self.call(Op::Read, path, |_| {
            let lost = self.lost(path);
            let content = std::fs::read(path)?;
            read_skipping_errors(content.len(), buffer, |part, at| {
                let at = usize::try_from(at).unwrap();
                let end = (at + part.len()).min(content.len());
                if at < lost.end && lost.start < end {
                    return Err(eio());
                }
                part[..end - at].copy_from_slice(&content[at..end]);
                Ok(end - at)
            })
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Op::Rename, from, |_| RealDisk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Remove, path, |_| RealDisk.remove(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::RemoveDir, path, |_| RealDisk.remove_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::SyncDir, path, |_| RealDisk.sync_dir(path))
    }

    fn lock(&self, path: &Path, create: bool) -> io::Result<Option<Lock>> {
        self.call(Op::Lock, path, |_| RealDisk.lock(path, create))
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    file: Box<dyn DiskFile>,
    path: PathBuf,
}

impl DiskFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Self { disk, file, path } = self;
        disk.call(Op::Append, path, |all| file.append(if all { bytes } else { &bytes[..bytes.len() * 2 / 3] }))
    }

    fn sync(&mut self) -> io::Result<()> {
        let Self { disk, file, path } = self;
        disk.call(Op::Sync, path, |_| file.sync())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let Self { disk, file, path } = self;
        disk.call(Op::Truncate, path, |_| file.truncate(len))
    }
}
