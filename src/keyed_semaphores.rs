//! A semaphore for each key, such as a client's address: one client cannot take the permits of the others.
//!
//! A key is removed with its last permit, so the memory is bounded by the permits in use.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Semaphores by key, each with the same number of permits. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct KeyedSemaphores<K: Eq + Hash> {
    permits: usize,
    entries: Arc<Mutex<HashMap<K, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    semaphore: Arc<Semaphore>,
    references: usize,
}

/// Keeps the semaphore of one key.
#[derive(Debug)]
struct Reference<K: Eq + Hash> {
    key: K,
    semaphore: Arc<Semaphore>,
    entries: Arc<Mutex<HashMap<K, Entry>>>,
}

/// One permit of one key.
#[derive(Debug)]
pub(crate) struct KeyedPermit<K: Eq + Hash> {
    _permit: OwnedSemaphorePermit,
    _reference: Reference<K>,
}

impl<K: Eq + Hash + Clone> KeyedSemaphores<K> {
    /// `permits` for each key.
    pub(crate) fn new(permits: usize) -> Self {
        Self { permits, entries: Arc::default() }
    }

    /// A permit of `key`, unless it has all of its permits in use.
    pub(crate) fn try_acquire(&self, key: K) -> Option<KeyedPermit<K>> {
        let reference = self.reference(key);
        let permit = Arc::clone(&reference.semaphore).try_acquire_owned().ok()?;
        Some(KeyedPermit { _permit: permit, _reference: reference })
    }

    /// A permit of `key`, after those that asked for one earlier; none if the semaphore was closed, which never happens.
    pub(crate) async fn acquire(&self, key: K) -> Option<KeyedPermit<K>> {
        let reference = self.reference(key);
        let permit = Arc::clone(&reference.semaphore).acquire_owned().await.ok()?;
        Some(KeyedPermit { _permit: permit, _reference: reference })
    }

    fn reference(&self, key: K) -> Reference<K> {
        let mut entries = self.entries.lock();
        let new = || Entry { semaphore: Arc::new(Semaphore::new(self.permits)), references: 0 };
        let entry = entries.entry(key.clone()).or_insert_with(new);
        entry.references += 1;
        Reference { key, semaphore: Arc::clone(&entry.semaphore), entries: Arc::clone(&self.entries) }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.lock().is_empty()
    }
}

impl<K: Eq + Hash> Drop for Reference<K> {
    fn drop(&mut self) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&self.key) {
            entry.references -= 1;
            if entry.references == 0 {
                entries.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn each_key_has_its_own_permits_and_is_removed_with_the_last() {
        let semaphores = KeyedSemaphores::new(2);
        let (first, second) = (semaphores.try_acquire("a").unwrap(), semaphores.try_acquire("a").unwrap());
        assert!(semaphores.try_acquire("a").is_none());
        let other = semaphores.try_acquire("b").unwrap();
        drop(first);
        let third = semaphores.try_acquire("a").unwrap();
        assert!(semaphores.try_acquire("a").is_none());
        drop((second, third, other));
        assert!(semaphores.is_empty());
    }

    #[tokio::test]
    async fn a_key_that_waits_for_a_permit_does_not_hold_up_another() {
        let semaphores = KeyedSemaphores::new(1);
        let first = semaphores.acquire(1).await.unwrap();
        let mut waiting = std::pin::pin!(semaphores.acquire(1));
        assert!(timeout(Duration::ZERO, waiting.as_mut()).await.is_err());
        assert!(timeout(Duration::ZERO, semaphores.acquire(1)).await.is_err(), "this wait is cancelled");
        assert!(semaphores.acquire(2).await.is_some());
        drop(first);
        assert!(waiting.await.is_some());
        assert!(semaphores.is_empty());
    }
}
