//! Looks up an object whose extension is unknown: with one listing of its stem, or, where listing is denied, with one call
//! for each key.

use std::sync::atomic::Ordering;

use super::{S3Store, call, status};
use crate::store::{StoreError, StoredObject};

/// One key for each codec.
const LISTED_MAX: i32 = 3;

impl S3Store {
    /// The first of `keys` that exists. All keys begin with `stem`. Where listing is denied, only those in `probe` are tried.
    pub(in crate::store) async fn find_any(
        &self,
        stem: &str,
        keys: &[String],
        probe: &[String],
    ) -> Result<Option<(String, StoredObject)>, StoreError> {
        if !self.cannot_list.load(Ordering::Relaxed) {
            match call!(self, list_objects_v2).prefix(stem).max_keys(LISTED_MAX).send().await {
                Ok(listed) => {
                    let mut names = listed.contents().iter().filter_map(|object| object.key());
                    let Some(key) = names.find(|name| keys.iter().any(|key| key == name)) else { return Ok(None) };
                    return Ok(self.find(key).await?.map(|stored| (key.to_owned(), stored)));
                }
                // Until a restart: a call that is always denied is wasted.
                Err(error) if matches!(status(&error), Some(403 | 405 | 501)) => {
                    self.cannot_list.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(self.error("ListObjectsV2", &error)),
            }
        }
        for key in probe {
            if let Some(stored) = self.find(key).await? {
                return Ok(Some((key.clone(), stored)));
            }
        }
        Ok(None)
    }
}
