//! Where objects go: S3, or a directory. Both take an object whole under a key, and taking the same one twice is
//! harmless, so that whoever is in doubt about an upload may repeat it.

mod dir;
mod lines;
mod metadata;
mod s3;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

pub use dir::DirStore;
pub use s3::S3Store;

use crate::config::{Settings, StoreSettings};
use crate::segment::SegmentId;

/// What an object is, beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The segment that it was.
    pub segment: SegmentId,
    /// Jobs in it.
    pub jobs: u64,
    /// Payloads in it.
    pub payloads: u64,
    /// Places of jobs that were damaged before they could be stored; nearly always none.
    pub dead: Vec<Range<u32>>,
    /// Whether the segment was damaged: an object of an earlier upload may hold more than this one.
    pub is_damaged: bool,
    /// The fewest payloads of an earlier upload of which it is not known whether it was carried out.
    pub earlier_payloads: Option<u64>,
}

/// What the store knows of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredObject {
    /// How many places its segment had, if the store kept that.
    pub total_jobs: Option<u32>,
    /// Places of jobs that are not in it.
    pub dead: Vec<Range<u32>>,
    /// Places of jobs of which it is not known any more whether they are in it.
    pub unsure: Vec<Range<u32>>,
    /// Jobs in it, if the store kept that.
    pub jobs: Option<u64>,
    /// Payloads in it, if the store kept that or they were counted.
    pub payloads: Option<u64>,
}

/// What kind of failure it was. Whatever the class, the caller keeps the bytes and tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It may pass by itself: a timeout, a lost connection, a 5xx.
    Transient,
    /// The store asks for fewer requests.
    Throttled,
    /// There was no answer in time; fewer at once may be faster, on a slow link too.
    TimedOut,
    /// It will not pass until somebody mends something: access denied, no such bucket.
    Permanent,
}

/// The store did not take an object, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What kind of failure it was.
    pub class: ErrorClass,
    /// What the store said, or what happened to the call.
    pub message: String,
}

/// A place for objects.
#[derive(Debug)]
pub enum Store {
    /// A directory on this machine.
    Dir(DirStore),
    /// A bucket.
    S3(S3Store),
}

impl Store {
    /// The store that the settings name. Does not talk to it yet, save to find out the region where that is not set.
    pub async fn connect(settings: &Settings) -> Self {
        match &settings.store {
            StoreSettings::Dir(root) => Self::Dir(DirStore::new(root.clone())),
            StoreSettings::S3(s3) => Self::S3(S3Store::connect(s3, &settings.prefix).await),
        }
    }

    /// Where the objects are, as people write it: `s3://bucket`, or a path.
    pub fn location(&self) -> &str {
        match self {
            Self::Dir(dir) => dir.location(),
            Self::S3(s3) => s3.location(),
        }
    }

    /// Stores `body` under `key`. When this returns the object is durable, as far as the store's word goes. `may_be_there`
    /// says that an attempt before this one may have succeeded without our hearing of it: an object that is there then is
    /// never replaced by one with fewer payloads. It is kept, and what is known of it is returned.
    ///
    /// # Errors
    /// [`StoreError`]; the object may be there all the same, and putting it again is right.
    pub async fn put(
        &self,
        key: &str,
        body: Bytes,
        info: &ObjectInfo,
        may_be_there: bool,
    ) -> Result<Option<StoredObject>, StoreError> {
        match self {
            Self::Dir(dir) => dir.put(key, body, info, may_be_there).await,
            Self::S3(s3) => {
                let put = s3.put(key, body, info, may_be_there).await;
                put.map_err(|error| error.in_call("PutObject", s3))
            }
        }
    }

    /// Looks an object up and counts what is in it.
    ///
    /// # Errors
    /// [`StoreError`], when the store cannot say.
    pub async fn count(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        match self {
            Self::Dir(dir) => dir.count(key).await,
            // A role that may only put objects cannot tell.
            Self::S3(s3) => {
                let seen = s3.look(key).await.map_err(|error| error.in_call("HeadObject", s3))?;
                Ok(seen.found())
            }
        }
    }

    /// Looks an object up.
    ///
    /// # Errors
    /// [`StoreError`], when the store cannot say whether it has it.
    pub async fn find(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        match self {
            Self::Dir(dir) => dir.find(key).await,
            Self::S3(s3) => s3.find(key).await.map_err(|error| error.in_call("HeadObject", s3)),
        }
    }

    /// Looks for an object under whichever of `keys`, which all begin with `stem`: with one call where the store lets it be
    /// listed, else by asking for those in `probe`.
    ///
    /// # Errors
    /// [`StoreError`], when the store cannot say whether it has one.
    pub async fn find_any(
        &self,
        stem: &str,
        keys: &[String],
        probe: &[String],
    ) -> Result<Option<(String, StoredObject)>, StoreError> {
        match self {
            Self::Dir(dir) => {
                for key in keys {
                    if let Some(found) = dir.find(key).await? {
                        return Ok(Some((key.clone(), found)));
                    }
                }
                Ok(None)
            }
            Self::S3(s3) => {
                let found = s3.find_any(stem, keys, probe).await;
                found.map_err(|error| error.in_call("ListObjectsV2", s3))
            }
        }
    }

    /// Whether the store can be reached at all, without writing an object.
    ///
    /// # Errors
    /// What stands in the way. A store that does not say is taken to be well.
    pub async fn check_reachable(&self) -> Result<(), StoreError> {
        match self {
            Self::Dir(dir) => dir.check_reachable().await,
            Self::S3(s3) => s3.check_reachable().await.map_err(|error| error.in_call("HeadBucket", s3)),
        }
    }

    /// Writes an object under `key` as an upload does, reads it back and deletes it.
    ///
    /// # Errors
    /// What failed: its name, and what the store said.
    pub async fn check_write(&self, key: &str, segment: SegmentId) -> Result<(), StoreError> {
        let body = Bytes::from_static(b"millpond --check\n");
        let info =
            ObjectInfo { segment, jobs: 0, payloads: 0, dead: Vec::new(), is_damaged: false, earlier_payloads: None };
        let _: Option<StoredObject> =
            self.put(key, body.clone(), &info, false).await.map_err(|error| error.while_doing("write"))?;
        let read = match self {
            Self::Dir(dir) => dir.read(key).await,
            Self::S3(s3) => s3.read(key).await.map_err(|error| error.in_call("GetObject", s3)),
        };
        // Whatever was read: what was written is not to stay.
        let deleted = match self {
            Self::Dir(dir) => dir.delete(key).await,
            Self::S3(s3) => s3.delete(key).await.map_err(|error| error.in_call("DeleteObject", s3)),
        };
        let read = read.map_err(|error| error.while_doing("read back"))?;
        deleted.map_err(|error| error.while_doing("delete"))?;
        if read == body { Ok(()) } else { Err(StoreError::permanent("what was read back is not what was written")) }
    }
}

impl ErrorClass {
    /// Whether fewer uploads at once may help.
    pub fn asks_for_less(self) -> bool {
        matches!(self, Self::Throttled | Self::TimedOut)
    }
}

impl StoreError {
    fn permanent(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Permanent, message: message.into() }
    }

    /// Says which call failed, and on which bucket of which server.
    fn in_call(self, operation: &str, s3: &S3Store) -> Self {
        Self { class: self.class, message: format!("{operation} on {}: {}", s3.target(), self.message) }
    }

    fn while_doing(self, step: &str) -> Self {
        Self { class: self.class, message: format!("{step}: {}", self.message) }
    }
}

/// How long a connection to the store may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
