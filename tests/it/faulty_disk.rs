//! A disk for tests. It records every call, and can fail it, block it, or abort the process.

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

/// A recorded call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) path: PathBuf,
    /// None during the call.
    pub(crate) succeeded: Option<bool>,
}

/// Which calls fail. Calls are counted from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    /// The nth call.
    Call(usize),
    /// A number of calls, from the nth one: (n, number).
    Calls(usize, usize),
    /// The nth call of this kind.
    Kind(Op, usize),
    /// All calls of this kind.
    Every(Op),
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// EIO, and the call is not carried out.
    Io,
    /// ENOSPC, and the call is not carried out.
    NoSpace,
    /// EIO, and a part of the bytes is appended.
    Short,
    /// EIO, and the call is carried out.
    Late,
    /// The call panics and is not carried out.
    Panic,
    /// The process aborts before the call.
    AbortBefore,
    /// The process aborts after the call.
    AbortAfter,
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Shared>);

/// Releases the disk on drop, also when the test fails.
pub(crate) struct HangGuard(FaultyDisk);

impl Drop for HangGuard {
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
    /// Calls of these kinds block.
    blocked: HashSet<Op>,
    /// The bytes that cannot be read, by prefix of the file name.
    unreadable: Vec<(String, Range<usize>)>,
}

impl FaultyDisk {
    pub(crate) fn failing(at: At, how: How) -> Self {
        let disk = Self::default();
        disk.fail(at, how);
        disk
    }

    /// Makes calls fail from now on. Their numbers count from the first call of the disk.
    pub(crate) fn fail(&self, at: At, how: How) {
        self.lock_state().fault = Some((at, how));
    }

    /// Ends the failure.
    pub(crate) fn heal(&self) {
        self.lock_state().fault = None;
    }

    /// Blocks calls of this kind until they are released.
    pub(crate) fn block(&self, op: Op) {
        self.lock_state().blocked.insert(op);
    }

    /// Makes reads of these bytes fail with EIO, in the file whose name begins with `name`.
    pub(crate) fn make_unreadable(&self, name: &str, bytes: Range<usize>) {
        self.lock_state().unreadable.push((name.to_owned(), bytes));
    }

    /// Makes all bytes readable again.
    pub(crate) fn make_readable(&self) {
        self.lock_state().unreadable.clear();
    }

    fn unreadable(&self, path: &Path) -> Range<usize> {
        let name = path.file_name().unwrap().to_str().unwrap();
        let state = self.lock_state();
        let bad = state.unreadable.iter().find(|(begin, _)| name.starts_with(begin));
        bad.map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }

    /// Blocks every call until the guard is dropped.
    pub(crate) fn hang(&self) -> HangGuard {
        Op::ALL.into_iter().for_each(|op| self.block(op));
        HangGuard(self.clone())
    }

    pub(crate) fn release(&self, op: Op) {
        self.lock_state().blocked.remove(&op);
        self.0.released.notify_all();
    }

    /// Whether a call failed because of a fault.
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

    /// Makes a call. `real` carries it out, completely or in part.
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
            call.succeeded = Some(done.is_ok());
        }
        done
    }

    fn begin(&self, op: Op, path: &Path) -> (usize, Option<How>) {
        let mut state = self.lock_state();
        let number = state.log.len();
        let of_its_kind = state.log.iter().filter(|call| call.op == op).count();
        state.log.push(Call { op, path: path.to_owned(), succeeded: None });
        let mut state = self
            .0
            .released
            .wait_while(state, |state| state.blocked.contains(&op))
            .unwrap_or_else(PoisonError::into_inner);
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
            let bad = self.unreadable(path);
            if !bad.is_empty() && bad.start < buffer.len() { Err(eio()) } else { Ok(()) }
        })
    }

    fn read_skipping_errors(&self, path: &Path, buffer: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        self.call(Op::Read, path, |_| {
            let bad = self.unreadable(path);
            let content = std::fs::read(path)?;
            read_skipping_errors(content.len(), buffer, |part, at| {
                let at = usize::try_from(at).unwrap();
                let end = (at + part.len()).min(content.len());
                if at < bad.end && bad.start < end {
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
