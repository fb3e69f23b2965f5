//! Where objects go: an S3 bucket or a directory. Both store an object whole under a key. A repeated upload of the same
//! object is harmless, so an upload with an unknown outcome may be repeated.

mod dir;
mod lines;
mod metadata;
mod s3;

use std::ops::Range;

use bytes::Bytes;

pub use dir::DirStore;
pub use s3::S3Store;

use crate::config::{Settings, StoreSettings};
use crate::segment::SegmentId;

/// An upload of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload<'a> {
    /// The key of the object.
    pub key: &'a str,
    /// The object.
    pub body: Bytes,
    /// The segment.
    pub segment: SegmentId,
    /// Jobs in the object.
    pub jobs: u64,
    /// Payloads in the object.
    pub payloads: u64,
    /// Indexes of the segment's jobs that were damaged before they could be stored.
    pub dead: Vec<Range<u32>>,
    /// Whether the segment was damaged, so that the object of an earlier upload may hold more than this one.
    pub is_damaged: bool,
    /// Whether an earlier upload may have stored the object.
    pub may_exist: bool,
    /// The fewest payloads of an earlier upload with an unknown outcome.
    pub unconfirmed_payloads: Option<u64>,
}

/// What the store knows of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredObject {
    /// Jobs of its segment, dead ones included, if the store kept their number.
    pub total_jobs: Option<u32>,
    /// Indexes of jobs that are not in the object.
    pub dead: Vec<Range<u32>>,
    /// Indexes of jobs that may or may not be in the object.
    pub unsure: Vec<Range<u32>>,
    /// Jobs in the object, if the store kept their number.
    pub jobs: Option<u64>,
    /// Payloads in the object, if the store kept their number or they were counted.
    pub payloads: Option<u64>,
}

/// The class of a failure. The caller keeps the bytes and retries, whatever the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It may pass by itself: a lost connection, a 5xx.
    Transient,
    /// The store asks for fewer requests.
    Throttled,
    /// There was no response in time. On a slow link fewer concurrent uploads are faster.
    TimedOut,
    /// It will not pass until an operator acts: access denied, no such bucket.
    Permanent,
}

/// A call failed. An upload may have been carried out anyway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// The class of the failure.
    pub class: ErrorClass,
    /// The store's message, or what happened to the call.
    pub message: String,
}

/// The destination of objects.
#[derive(Debug)]
pub enum Store {
    /// A directory on this machine.
    Dir(DirStore),
    /// A bucket.
    S3(S3Store),
}

impl Store {
    /// The store that the settings name. Makes no call to it, except to find the region where that is not set.
    pub async fn connect(settings: &Settings) -> Self {
        match &settings.store {
            StoreSettings::Dir(root) => Self::Dir(DirStore::new(root.clone())),
            StoreSettings::S3(s3) => Self::S3(S3Store::connect(s3, &settings.prefix).await),
        }
    }

    /// `s3://bucket`, or a path.
    pub fn location(&self) -> &str {
        match self {
            Self::Dir(dir) => &dir.location,
            Self::S3(s3) => &s3.location,
        }
    }

    /// Stores an object durably. If `may_exist` is set, an existing object is never replaced by one with fewer payloads: it
    /// is kept, and what the store knows of it is returned.
    ///
    /// # Errors
    /// [`StoreError`]; the upload may be repeated.
    pub async fn put(&self, upload: &Upload<'_>) -> Result<Option<StoredObject>, StoreError> {
        match self {
            Self::Dir(dir) => dir.put(upload).await,
            Self::S3(s3) => s3.put(upload).await,
        }
    }

    /// Looks an object up and counts its payloads. None also where the store may not be asked.
    pub async fn count(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        match self {
            Self::Dir(dir) => dir.count(key).await,
            Self::S3(s3) => Ok(s3.look_up(key).await?.object()),
        }
    }

    /// Looks an object up.
    ///
    /// # Errors
    /// [`StoreError`], if it is unknown whether there is one.
    pub async fn find(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        match self {
            Self::Dir(dir) => dir.find(key).await,
            Self::S3(s3) => s3.find(key).await,
        }
    }

    /// Looks up an object with one of `keys`, which all begin with `stem`: with one listing, or, where listing is denied, by
    /// one call for each key in `probe`.
    ///
    /// # Errors
    /// [`StoreError`], if it is unknown whether there is one.
    pub async fn find_any(
        &self,
        stem: &str,
        keys: &[String],
        probe: &[String],
    ) -> Result<Option<(String, StoredObject)>, StoreError> {
        match self {
            Self::Dir(dir) => dir.find_any(keys).await,
            Self::S3(s3) => s3.find_any(stem, keys, probe).await,
        }
    }

    /// Checks that the store can be reached, without writing an object. A store that denies the call counts as reachable.
    pub async fn check_reachable(&self) -> Result<(), StoreError> {
        match self {
            Self::Dir(dir) => dir.check_reachable().await,
            Self::S3(s3) => s3.check_reachable().await,
        }
    }

    /// Writes an object under `key` as an upload does, reads it back and deletes it.
    ///
    /// # Errors
    /// [`StoreError`], which names the step that failed.
    pub async fn check_write(&self, key: &str, segment: SegmentId) -> Result<(), StoreError> {
        let upload = Upload {
            key,
            body: Bytes::from_static(b"millpond --check\n"),
            segment,
            jobs: 0,
            payloads: 0,
            dead: Vec::new(),
            is_damaged: false,
            may_exist: false,
            unconfirmed_payloads: None,
        };
        self.put(&upload).await.map_err(|error| error.while_doing("write"))?;
        let read = match self {
            Self::Dir(dir) => dir.read(key).await,
            Self::S3(s3) => s3.read(key).await,
        };
        // Also after a failed read: the object must not stay.
        let deleted = match self {
            Self::Dir(dir) => dir.delete(key).await,
            Self::S3(s3) => s3.delete(key).await,
        };
        let read = read.map_err(|error| error.while_doing("read back"))?;
        deleted.map_err(|error| error.while_doing("delete"))?;
        if read == upload.body {
            Ok(())
        } else {
            Err(StoreError::permanent("the store returned other bytes than were written"))
        }
    }
}

impl ErrorClass {
    /// The name in spans, which is also the value of the metrics' label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::TimedOut => "timed_out",
            Self::Permanent => "permanent",
        }
    }

    /// Whether fewer concurrent uploads may help.
    pub fn lowers_limit(self) -> bool {
        matches!(self, Self::Throttled | Self::TimedOut)
    }
}

impl StoreError {
    fn permanent(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Permanent, message: message.into() }
    }

    fn while_doing(self, step: &str) -> Self {
        Self { class: self.class, message: format!("{step}: {}", self.message) }
    }
}
