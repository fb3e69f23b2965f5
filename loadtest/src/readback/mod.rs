//! Reads a store back: every line of every object, into the ledger.

mod lines;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::Object;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::payload::{Number, Payloads};
use crate::s3::{self, Memory, S3Server};
use crate::units::show_size;

use self::lines::Codec;

/// A store to read.
#[derive(Debug, Clone)]
pub enum Store {
    /// A directory with objects at any depth.
    Dir(PathBuf),
    /// A bucket.
    S3 {
        /// Its client.
        client: Client,
        /// Its name.
        bucket: String,
        /// The prefix of the keys; empty is all of them.
        prefix: String,
    },
    /// The memory of an S3 server in this process.
    Memory(Arc<Memory>),
}

/// The difference between the clocks of this machine and of the store that is allowed for.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// Reads the objects of a store, each of them once.
#[derive(Debug)]
pub struct Reader {
    store: Store,
    payloads: Payloads,
    is_shared: bool,
    since: SystemTime,
    read: HashSet<String>,
    sizes: Vec<u64>,
    lines: u64,
    scratch: Vec<u8>,
}

/// The objects of a store in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Objects {
    pub count: u64,
    pub lines: u64,
    /// Their bytes as stored.
    pub bytes: u64,
    pub min: u64,
    pub median: u64,
    pub max: u64,
}

impl Store {
    /// The bucket of an S3 server in this process.
    pub fn of(s3: &S3Server) -> Self {
        match s3.memory() {
            Some(memory) => Self::Memory(memory),
            None => Self::S3 { client: s3.client(), bucket: s3.bucket().to_owned(), prefix: String::new() },
        }
    }

    /// A bucket as the `AWS_*` variables say; path style when an endpoint is set.
    pub async fn s3_from_env(bucket: &str, prefix: &str) -> Self {
        let client = s3::client_from_env().await;
        // `a` is not to find what is under `ab/`.
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self::S3 { client, bucket: bucket.to_owned(), prefix }
    }

    /// The names of all objects written since then, in order.
    async fn list(&self, since: SystemTime) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        match self {
            Self::Dir(folder) => walk(folder, since, &mut names)?,
            Self::S3 { client, bucket, prefix } => {
                let mut pages = client.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
                while let Some(page) = pages.next().await {
                    let page = page.with_context(|| format!("listing s3://{bucket}/{prefix}"))?;
                    let written = |object: &Object| {
                        let at = object.last_modified().and_then(|at| SystemTime::try_from(*at).ok());
                        at.is_none_or(|at| at >= since)
                    };
                    let new = page.contents().iter().filter(|object| written(object));
                    names.extend(new.filter_map(|object| object.key()).map(str::to_owned));
                }
                names.retain(|name| codec(Path::new(name)).is_some());
            }
            Self::Memory(memory) => names = memory.keys()?,
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn get(&self, name: &str) -> anyhow::Result<Bytes> {
        match self {
            Self::Dir(_) => Ok(tokio::fs::read(name).await.with_context(|| format!("reading {name}"))?.into()),
            Self::S3 { client, bucket, .. } => {
                let object = client.get_object().bucket(bucket).key(name).send().await;
                let object = object.with_context(|| format!("getting s3://{bucket}/{name}"))?;
                let body = object.body.collect().await.with_context(|| format!("reading s3://{bucket}/{name}"))?;
                Ok(body.into_bytes())
            }
            Self::Memory(memory) => memory.get(name).with_context(|| format!("{name} is gone")),
        }
    }
}

impl Reader {
    /// A reader of a store that only the payloads of one run are in.
    pub fn new(store: Store, payloads: Payloads) -> Self {
        let (read, sizes, scratch) = (HashSet::new(), Vec::new(), Vec::new());
        Self { store, payloads, is_shared: false, since: SystemTime::UNIX_EPOCH, read, sizes, lines: 0, scratch }
    }

    /// A reader of a store that other clients use too, for the payloads of a run that begins now.
    pub fn shared(store: Store, payloads: Payloads) -> Self {
        let since = SystemTime::now().checked_sub(CLOCK_SKEW).unwrap_or(SystemTime::UNIX_EPOCH);
        Self { is_shared: true, since, ..Self::new(store, payloads) }
    }

    /// Whether other clients use the store too.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Records everything that was written to the store since the last call. Memory is bounded by the largest object as
    /// stored.
    /// Errors: the store cannot be read. An object that cannot be decoded is recorded as corrupt instead.
    pub async fn read(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        self.read_each(ledger, &mut |_, _| {}).await
    }

    /// The same; `each` gets the intact lines of this run.
    /// Errors: as above.
    pub async fn read_each(&mut self, ledger: &mut Ledger, each: &mut dyn FnMut(Number, &[u8])) -> anyhow::Result<()> {
        for name in self.store.list(self.since).await? {
            let Some(codec) = codec(Path::new(&name)) else { continue };
            if self.read.contains(&name) {
                continue;
            }
            let object = self.store.get(&name).await?;
            self.sizes.push(object.len() as u64);
            let scratch = &mut self.scratch;
            self.lines += lines::record(&object, codec, &self.payloads, self.is_shared, ledger, each, scratch);
            self.read.insert(name);
        }
        Ok(())
    }

    /// The figures of all objects read so far.
    pub fn objects(&mut self) -> Objects {
        self.sizes.sort_unstable();
        let at = |index: usize| self.sizes.get(index).copied().unwrap_or_default();
        Objects {
            count: self.sizes.len() as u64,
            lines: self.lines,
            bytes: self.sizes.iter().sum(),
            min: at(0),
            median: at(self.sizes.len() / 2),
            max: at(self.sizes.len().saturating_sub(1)),
        }
    }
}

impl std::fmt::Display for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [bytes, min, median, max] = [self.bytes, self.min, self.median, self.max].map(show_size);
        write!(f, "{} of {bytes} with {} lines; min {min}, median {median}, max {max}", self.count, self.lines)
    }
}

/// The codec that an object's name stands for; `None` for what is no object, such as one being written.
fn codec(name: &Path) -> Option<Codec> {
    let name = name.file_name().and_then(OsStr::to_str)?;
    if name.starts_with('.') {
        return None;
    }
    [(".ndjson", Codec::None), (".ndjson.gz", Codec::Gzip), (".ndjson.zst", Codec::Zstd)]
        .into_iter()
        .find_map(|(ending, codec)| name.ends_with(ending).then_some(codec))
}

fn walk(folder: &Path, since: SystemTime, names: &mut Vec<String>) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        // A store that nothing was written to need not exist.
        Err(wrong) if wrong.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(wrong) => return Err(wrong).with_context(|| format!("reading the folder {}", folder.display())),
    };
    for entry in entries {
        let path = entry?.path();
        let written = || path.metadata()?.modified();
        if path.is_dir() {
            walk(&path, since, names)?;
        } else if codec(&path).is_some() && written().is_ok_and(|at| at >= since) {
            names.push(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tempfile::TempDir;

    use super::*;
    use crate::ledger::{Outcome, Sent, Totals};
    use crate::payload::Number;

    const PAYLOADS: fn() -> Payloads = || Payloads::new(5, 290);

    fn line(sequence: u64) -> Vec<u8> {
        let mut line = br#"{"received_at":"2026-11-20T13:00:00.000Z","request_id":"r","payload":"#.to_vec();
        PAYLOADS().write(Number { client: 0, sequence }, &mut line);
        line.extend_from_slice(b"}\n");
        line
    }

    fn member(plain: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(plain).unwrap();
        gzip.finish().unwrap()
    }

    fn ledger(accepted: usize) -> Ledger {
        let mut sent = Sent::default();
        let first = sent.take(accepted);
        sent.record(first, accepted, Outcome::Accepted);
        Ledger::new([sent])
    }

    async fn read(folder: &TempDir, ledger: &mut Ledger) -> Objects {
        let mut reader = Reader::new(Store::Dir(folder.path().to_owned()), PAYLOADS());
        reader.read(ledger).await.unwrap();
        let objects = reader.objects();
        reader.read(ledger).await.unwrap();
        assert_eq!(reader.objects(), objects, "an object was read twice");
        objects
    }

    #[tokio::test]
    async fn objects_of_many_frames_in_every_codec_are_read_whole() {
        let folder = TempDir::new().unwrap();
        let sub = folder.path().join("dt=2026-11-20").join("hr=13");
        std::fs::create_dir_all(&sub).unwrap();
        let gzip = [member(&line(0)), member(&[line(1), line(2)].concat())].concat();
        std::fs::write(sub.join("a.ndjson.gz"), gzip).unwrap();
        let zstd = [line(3), line(4)].map(|line| zstd::bulk::compress(&line, 1).unwrap()).concat();
        std::fs::write(sub.join("b.ndjson.zst"), zstd).unwrap();
        let mut bare = Vec::new();
        PAYLOADS().write(Number { client: 0, sequence: 5 }, &mut bare);
        std::fs::write(folder.path().join("c.ndjson"), bare).unwrap();
        std::fs::write(folder.path().join(".d.ndjson"), line(5)).unwrap();
        std::fs::write(folder.path().join("e.ndjson.tmp"), line(5)).unwrap();

        let mut ledger = ledger(6);
        let objects = read(&folder, &mut ledger).await;
        assert_eq!((objects.count, objects.lines), (3, 6));
        assert!(objects.min <= objects.median && objects.median <= objects.max && objects.max < objects.bytes);
        assert!(ledger.complete());
        assert_eq!(ledger.totals(), Totals { sent: 6, accepted: 6, stored: 6, ..Totals::default() });
    }

    #[tokio::test]
    async fn a_cut_object_and_a_cut_line_are_corrupt_and_their_intact_lines_count() {
        let folder = TempDir::new().unwrap();
        let mut torn = [member(&line(0)), member(&line(1))].concat();
        torn.truncate(torn.len() - 12);
        std::fs::write(folder.path().join("a.ndjson.gz"), torn).unwrap();
        let mut lines = line(2);
        lines.extend_from_slice(b"{\"payload\":{\"run\n\n");
        std::fs::write(folder.path().join("b.ndjson"), lines).unwrap();

        let mut ledger = ledger(3);
        read(&folder, &mut ledger).await;
        let totals = ledger.totals();
        // The cut member, the cut line and the empty one; the lines of the member before the cut count or not.
        assert!(totals.corrupt >= 3, "{totals:?}");
        assert!(totals.stored >= 2, "{totals:?}");
        assert!(totals.failed());
    }

    #[tokio::test]
    async fn lines_of_other_clients_are_foreign_in_a_shared_store_and_corrupt_in_one_of_our_own() {
        let folder = TempDir::new().unwrap();
        let mut other_run = Vec::new();
        Payloads::new(6, 290).write(Number { client: 0, sequence: 0 }, &mut other_run);
        let others = [b"{\"level\":\"info\"}\n", &other_run[..], b"\nplain text\n"].concat();
        std::fs::write(folder.path().join("a.ndjson"), others).unwrap();
        std::fs::write(folder.path().join("b.ndjson"), [line(0), b"{\"payload\":{\"run\n".to_vec()].concat()).unwrap();
        let found = async |is_shared| {
            let mut ledger = ledger(1);
            let store = Store::Dir(folder.path().to_owned());
            let mut reader = if is_shared { Reader::shared(store, PAYLOADS()) } else { Reader::new(store, PAYLOADS()) };
            reader.read(&mut ledger).await.unwrap();
            let totals = ledger.totals();
            (totals.stored, totals.foreign, totals.corrupt)
        };
        // The cut line is among lines of this run.
        assert_eq!(found(true).await, (1, 3, 1));
        assert_eq!(found(false).await, (1, 1, 3));
    }

    #[tokio::test]
    async fn what_a_shared_store_held_before_the_run_is_not_read() {
        let folder = TempDir::new().unwrap();
        let old = std::fs::File::create(folder.path().join("a.ndjson")).unwrap();
        old.set_modified(SystemTime::now() - 2 * CLOCK_SKEW).unwrap();
        let mut reader = Reader::shared(Store::Dir(folder.path().to_owned()), PAYLOADS());
        reader.read(&mut ledger(0)).await.unwrap();
        assert_eq!(reader.objects().count, 0);
    }

    #[tokio::test]
    async fn a_store_that_does_not_exist_holds_nothing() {
        let folder = TempDir::new().unwrap();
        let mut reader = Reader::new(Store::Dir(folder.path().join("none")), PAYLOADS());
        reader.read(&mut ledger(0)).await.unwrap();
        assert_eq!(reader.objects(), Objects::default());
    }
}
