//! Faults of the store, and how often they happen.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use tokio::sync::watch;

use crate::units;

/// A fault of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503 with S3's `SlowDown` error; nothing is stored.
    SlowDown,
    /// 500 with S3's `InternalError`; nothing is stored.
    InternalError,
    /// 403 with S3's `AccessDenied`; nothing is stored.
    AccessDenied,
    /// 404 with S3's `NoSuchBucket`; nothing is stored.
    NoSuchBucket,
    /// The connection is closed without a response; nothing is stored.
    DropBefore,
    /// The call is carried out, then the connection is closed without a response.
    DropAfter,
    /// The call is carried out, then the response is 503 with S3's `ServiceUnavailable` error, whatever the result.
    UnavailableAfter,
    /// No response until the plan changes (the call then proceeds without a fault) or the client disconnects.
    Hang,
    /// The call is carried out after this time.
    Delay(Duration),
}

/// The faults without a time, with the names in the command line and the statistics.
const NAMES: [(&str, Fault); 8] = [
    ("slowdown", Fault::SlowDown),
    ("500", Fault::InternalError),
    ("denied", Fault::AccessDenied),
    ("no-bucket", Fault::NoSuchBucket),
    ("drop-before", Fault::DropBefore),
    ("drop-after", Fault::DropAfter),
    ("503-after", Fault::UnavailableAfter),
    ("hang", Fault::Hang),
];

impl Fault {
    /// The name in the command line and the statistics.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, fault)| *fault == self).map_or("delay", |(name, _)| name)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    /// Reads a [`Fault::name`]; a delay has its time, as `delay:50ms`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(time) = text.strip_prefix("delay:") {
            return units::duration(time).map(Self::Delay);
        }
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, fault)| *fault).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is not a fault: expected {} or delay:TIME", names.join(", "))
        })
    }
}

/// The faults of calls: a share of them, spread evenly, the kinds in turn.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultPlan {
    share: f64,
    kinds: Vec<Fault>,
    every_call: bool,
}

impl FaultPlan {
    /// No faults.
    pub fn none() -> Self {
        Self { share: 0.0, kinds: Vec::new(), every_call: false }
    }

    /// This fault in every PutObject.
    pub fn always(fault: Fault) -> Self {
        Self { share: 1.0, kinds: vec![fault], every_call: false }
    }

    /// These faults in turn, in a share of the PutObject calls from 0 to 1.
    /// Errors: A share outside 0 to 1, or a share above 0 without a kind.
    pub fn share(share: f64, kinds: impl Into<Vec<Fault>>) -> anyhow::Result<Self> {
        let kinds = kinds.into();
        ensure!((0.0..=1.0).contains(&share), "the share of faults must be from 0 to 1, not {share}");
        ensure!(share == 0.0 || !kinds.is_empty(), "a share of faults needs at least one kind");
        Ok(Self { share, kinds, every_call: false })
    }

    /// Applies the plan to every call, also to reads and listings.
    #[must_use]
    pub fn on_every_call(self) -> Self {
        Self { every_call: true, ..self }
    }

    /// The fault of the `n`th call under this plan, counted from 0.
    fn fault(&self, n: u64) -> Option<Fault> {
        // Faulty calls before and after this one: where the product passes a whole number, one is due. Of any five calls,
        // "one in five" is one.
        let due = |calls: u64| (calls as f64 * self.share + 1e-9).floor() as u64;
        let (before, after) = (due(n), due(n + 1));
        if after == before || self.kinds.is_empty() {
            return None;
        }
        self.kinds.get(usize::try_from(before).ok()? % self.kinds.len()).copied()
    }
}

/// The share and the kinds, as `20% drop-after, delay:50ms`; empty without faults.
impl fmt::Display for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kinds.is_empty() {
            return Ok(());
        }
        let kinds = self.kinds.iter().map(|kind| match kind {
            Fault::Delay(time) => format!("{kind}:{time:?}"),
            _ => kind.to_string(),
        });
        let of = if self.every_call { " of every call" } else { "" };
        write!(f, "{}%{of} {}", self.share * 100.0, kinds.collect::<Vec<_>>().join(", "))
    }
}

/// The plan in force, which may be changed while calls are running.
#[derive(Debug)]
pub struct Faults {
    current: watch::Sender<Turn>,
    is_put_only: AtomicBool,
}

#[derive(Debug)]
struct Turn {
    plan: FaultPlan,
    /// Calls that the plan was applied to.
    calls: u64,
    /// Changes with the plan, and not with the calls.
    version: u64,
}

impl Faults {
    pub(super) fn new() -> Self {
        let turn = Turn { plan: FaultPlan::none(), calls: 0, version: 0 };
        Self { current: watch::Sender::new(turn), is_put_only: AtomicBool::new(false) }
    }

    /// Puts a plan in force from the next call on, and lets hung calls proceed.
    pub fn set(&self, plan: FaultPlan) {
        self.current.send_modify(|turn| {
            turn.plan = plan;
            turn.calls = 0;
            turn.version += 1;
        });
    }

    /// Rejects every call but PutObject with 403 from now on, as for a role that is allowed nothing else.
    pub fn allow_put_alone(&self) {
        self.is_put_only.store(true, Ordering::Release);
    }

    pub(super) fn is_denied(&self, is_put: bool) -> bool {
        !is_put && self.is_put_only.load(Ordering::Acquire)
    }

    /// The fault of the next call, which is counted.
    pub(super) fn next(&self, is_put: bool) -> Option<Fault> {
        let mut fault = None;
        self.current.send_if_modified(|turn| {
            if is_put || turn.plan.every_call {
                fault = turn.plan.fault(turn.calls);
                turn.calls += 1;
            }
            false
        });
        fault
    }

    /// Returns once another plan is in force.
    pub(super) async fn changed(&self) {
        let mut current = self.current.subscribe();
        let version = current.borrow().version;
        // An error means that the server, which owns the sender, has stopped.
        let _ = current.wait_for(|turn| turn.version != version).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_spread_evenly_and_the_kinds_are_in_turn() {
        let plan = FaultPlan::share(0.2, [Fault::SlowDown, Fault::Hang]).unwrap();
        let faults: Vec<_> = (0..20).map(|n| plan.fault(n)).collect();
        assert!(faults.chunks(5).all(|five| five.iter().flatten().count() == 1));
        let kinds: Vec<_> = faults.into_iter().flatten().collect();
        assert_eq!(kinds, [Fault::SlowDown, Fault::Hang, Fault::SlowDown, Fault::Hang]);
        assert!((0..100).all(|n| FaultPlan::none().fault(n).is_none()));
        assert!((0..100).all(|n| FaultPlan::always(Fault::Hang).fault(n) == Some(Fault::Hang)));
        assert!(FaultPlan::share(1.5, [Fault::Hang]).is_err() && FaultPlan::share(0.5, []).is_err());
    }

    #[test]
    fn names_are_read_back() {
        assert!(NAMES.iter().all(|(name, fault)| name.parse() == Ok(*fault) && fault.name() == *name));
        assert_eq!("delay:50ms".parse::<Fault>(), Ok(Fault::Delay(Duration::from_millis(50))));
        assert!("delay:soon".parse::<Fault>().is_err() && "flood".parse::<Fault>().is_err());
    }
}
