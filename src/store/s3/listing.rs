//! Finds an object whose extension is not known: by one listing of what begins with its name, or, where listing is
//! denied, by asking for each name.

use std::sync::atomic::Ordering;

use super::{S3Store, sorted, status};
use crate::store::{StoreError, StoredObject};

/// There is one name for each codec.
const LISTED_MAX: i32 = 3;

impl S3Store {
    /// Whichever of `keys` is there; they all begin with `stem`. Where listing is denied, only those in `probe` are asked for.
    pub(in crate::store) async fn find_any(
        &self,
        stem: &str,
        keys: &[String],
        probe: &[String],
    ) -> Result<Option<(String, StoredObject)>, StoreError> {
        if !self.cannot_list.load(Ordering::Relaxed) {
            let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(stem).max_keys(LISTED_MAX);
            match list.set_expected_bucket_owner(self.expected_owner.clone()).send().await {
                Ok(listed) => {
                    let mut names = listed.contents().iter().filter_map(|object| object.key());
                    let Some(key) = names.find(|name| keys.iter().any(|key| key == name)) else { return Ok(None) };
                    return Ok(self.find(key).await?.map(|found| (key.to_owned(), found)));
                }
                // A right that is granted later is noticed at the next start: until then nothing is asked for in vain.
                Err(error) if matches!(status(&error), Some(403 | 405 | 501)) => {
                    self.cannot_list.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(sorted(&error)),
            }
        }
        for key in probe {
            if let Some(found) = self.find(key).await? {
                return Ok(Some((key.clone(), found)));
            }
        }
        Ok(None)
    }
}
