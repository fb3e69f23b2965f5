//! The last stored objects and rejected requests, for the operators' page. Both lists are bounded, and so is the work for them:
//! a flood of rejections records only the first of each second, and of each address only a few.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::rfc3339;
use crate::server::network;

/// The entries of each list.
pub const RECENT_MAX: usize = 100;
/// The rejections of one address, or of one IPv6 network, in a second, so that one client does not hide the others.
const PER_ADDRESS_MAX: u32 = 5;
/// The longest detail, in bytes.
const DETAIL_MAX_BYTES: usize = 300;

/// An object that was stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecentObject {
    /// When (RFC 3339).
    pub time: String,
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: usize,
    /// The jobs in it.
    pub jobs: u64,
    /// The payloads in it.
    pub payloads: u64,
    /// The duration of the upload attempt, in seconds.
    pub upload_seconds: f64,
}

/// A request that was rejected.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecentRejection {
    /// When (RFC 3339).
    pub time: String,
    /// The outcome in the metrics.
    pub outcome: String,
    /// The status of the response.
    pub status: u16,
    /// The detail of the response, which never contains a token.
    pub detail: String,
    /// The tenant, if known.
    pub tenant: Option<String>,
    /// The address of the client, if known.
    pub address: Option<IpAddr>,
    /// The request id of the response.
    pub request_id: String,
}

/// What is known of a rejected request.
#[derive(Debug, Clone, Copy)]
pub struct Rejected<'a> {
    /// The outcome in the metrics.
    pub outcome: &'static str,
    /// The status of the response.
    pub status: u16,
    /// The tenant, if known.
    pub tenant: Option<&'a str>,
    /// The address of the client, if known.
    pub address: Option<IpAddr>,
    /// The request id of the response.
    pub request_id: &'a str,
}

/// The last objects and rejections.
#[derive(Debug)]
pub struct Recent {
    objects: Mutex<VecDeque<RecentObject>>,
    rejections: Mutex<VecDeque<RecentRejection>>,
    /// The rejections that may still be recorded in this second.
    budget: AtomicUsize,
    /// The rejections of this second by address; at most one entry for each that was recorded.
    by_address: Mutex<HashMap<Option<IpAddr>, u32>>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            objects: Mutex::default(),
            rejections: Mutex::default(),
            budget: AtomicUsize::new(RECENT_MAX),
            by_address: Mutex::default(),
        }
    }
}

impl Recent {
    /// Records a stored object.
    pub fn stored(&self, key: &str, bytes: usize, jobs: u64, payloads: u64, upload_seconds: f64) {
        let object = RecentObject { time: now(), key: key.to_owned(), bytes, jobs, payloads, upload_seconds };
        push(&self.objects, object);
    }

    /// Records a rejected request, unless there were many in this second.
    pub fn rejected(&self, request: Rejected<'_>, detail: impl FnOnce() -> String) {
        let take = |left: usize| left.checked_sub(1);
        if self.budget.load(Ordering::Relaxed) == 0 {
            return;
        }
        let address = request.address.map(network);
        let mut by_address = self.by_address.lock();
        if by_address.get(&address).is_some_and(|recorded| *recorded >= PER_ADDRESS_MAX) {
            return;
        }
        if self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return;
        }
        *by_address.entry(address).or_default() += 1;
        drop(by_address);
        let Rejected { outcome, status, tenant, address, request_id } = request;
        let mut detail = detail();
        detail.truncate(detail.floor_char_boundary(DETAIL_MAX_BYTES));
        push(
            &self.rejections,
            RecentRejection {
                time: now(),
                outcome: outcome.to_owned(),
                status,
                detail,
                tenant: tenant.map(str::to_owned),
                address,
                request_id: request_id.to_owned(),
            },
        );
    }

    /// A new second begins.
    pub fn renew_budget(&self) {
        self.by_address.lock().clear();
        self.budget.store(RECENT_MAX, Ordering::Relaxed);
    }

    /// The objects, newest first.
    pub fn objects(&self) -> Vec<RecentObject> {
        self.objects.lock().iter().rev().cloned().collect()
    }

    /// The rejections, newest first.
    pub fn rejections(&self) -> Vec<RecentRejection> {
        self.rejections.lock().iter().rev().cloned().collect()
    }
}

fn push<T>(list: &Mutex<VecDeque<T>>, entry: T) {
    let mut list = list.lock();
    if list.len() >= RECENT_MAX {
        list.pop_front();
    }
    list.push_back(entry);
}

fn now() -> String {
    rfc3339::with_seconds(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reject(recent: &Recent, request_id: &str) {
        let request = Rejected { outcome: "invalid", status: 400, tenant: None, address: None, request_id };
        recent.rejected(request, || "\u{e9}".repeat(DETAIL_MAX_BYTES));
    }

    #[test]
    fn both_lists_keep_the_newest_entries_up_to_their_bound() {
        let recent = Recent::default();
        for index in 0..=RECENT_MAX {
            recent.stored(&index.to_string(), 1, 1, 1, 0.1);
            reject(&recent, &index.to_string());
            recent.renew_budget();
        }
        let (objects, rejections) = (recent.objects(), recent.rejections());
        assert_eq!((objects.len(), &*objects[0].key, &*objects[99].key), (RECENT_MAX, "100", "1"));
        assert_eq!((rejections.len(), &*rejections[0].request_id), (RECENT_MAX, "100"));
        assert_eq!(rejections[0].detail.len(), DETAIL_MAX_BYTES);
    }

    #[test]
    fn a_flood_of_rejections_records_only_the_first_of_a_second_and_a_few_of_an_address() {
        let recent = Recent::default();
        let reject_from = |address: u32, request_id: &str| {
            let address = Some(std::net::Ipv4Addr::from_bits(address).into());
            let request = Rejected { outcome: "invalid", status: 400, tenant: None, address, request_id };
            recent.rejected(request, String::new);
        };
        (0..1000).for_each(|_| reject_from(0, "flood"));
        reject_from(1, "other");
        let rejections = recent.rejections();
        assert_eq!((rejections.len(), &*rejections[0].request_id), (PER_ADDRESS_MAX as usize + 1, "other"));
        (0..1000).for_each(|address| reject_from(address, &address.to_string()));
        assert_eq!(recent.rejections().iter().filter(|one| one.request_id != "flood").count(), RECENT_MAX - 5);
        assert!(recent.by_address.lock().len() <= RECENT_MAX);
        recent.renew_budget();
        reject_from(0, "next");
        assert_eq!(recent.rejections()[0].request_id, "next");
    }
}
