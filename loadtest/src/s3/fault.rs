//! What the store does wrong, and how often.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use tokio::sync::watch;

use crate::units;

/// One way for a call to go wrong.
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
    /// The connection is closed without an answer; nothing is stored.
    DropBefore,
    /// The call is carried out, then the connection is closed without an answer.
    DropAfter,
    /// The call is carried out, then answered with 503 and S3's `ServiceUnavailable` error, whatever came of it.
    UnavailableAfter,
    /// No answer until the plan is changed (the call then proceeds as if nothing had been) or the client goes away.
    Hang,
    /// The call is carried out, but only after this long.
    Delay(Duration),
}

impl Fault {
    /// The name that the command line and the statistics use.
    pub fn name(self) -> &'static str {
        match self {
            Self::SlowDown => "slowdown",
            Self::InternalError => "500",
            Self::AccessDenied => "denied",
            Self::NoSuchBucket => "no-bucket",
            Self::DropBefore => "drop-before",
            Self::DropAfter => "drop-after",
            Self::UnavailableAfter => "503-after",
            Self::Hang => "hang",
            Self::Delay(_) => "delay",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The share and the kinds, as `20% drop-after, delay:50ms`; of a plan of nothing, nothing.
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

impl FromStr for Fault {
    type Err = anyhow::Error;

    /// Reads a [`Fault::name`]; a delay carries its time, as `delay:50ms`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(time) = text.strip_prefix("delay:") {
            return Ok(Self::Delay(units::duration(time).map_err(|wrong| anyhow!(wrong))?));
        }
        Ok(match text {
            "slowdown" => Self::SlowDown,
            "500" => Self::InternalError,
            "denied" => Self::AccessDenied,
            "no-bucket" => Self::NoSuchBucket,
            "drop-before" => Self::DropBefore,
            "drop-after" => Self::DropAfter,
            "503-after" => Self::UnavailableAfter,
            "hang" => Self::Hang,
            _ => bail!(
                "{text:?} is no fault: expected slowdown, 500, denied, no-bucket, drop-before, drop-after, 503-after, hang or delay:TIME"
            ),
        })
    }
}

/// Which calls go wrong and in which ways: a share of them, spread evenly, the kinds taking turns.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultPlan {
    share: f64,
    kinds: Vec<Fault>,
    every_call: bool,
}

impl FaultPlan {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self { share: 0.0, kinds: Vec::new(), every_call: false }
    }

    /// Every PutObject goes wrong in this one way.
    pub fn always(fault: Fault) -> Self {
        Self { share: 1.0, kinds: vec![fault], every_call: false }
    }

    /// A share of the PutObject calls, from 0 to 1, goes wrong, in each of these ways in turn.
    ///
    /// # Errors
    ///
    /// A share outside 0 to 1, or a share of something with no kind given.
    pub fn share(share: f64, kinds: impl Into<Vec<Fault>>) -> anyhow::Result<Self> {
        let kinds = kinds.into();
        ensure!((0.0..=1.0).contains(&share), "the share of faults must be from 0 to 1, not {share}");
        ensure!(share == 0.0 || !kinds.is_empty(), "a share of faults needs at least one kind");
        Ok(Self { share, kinds, every_call: false })
    }

    /// Applies the plan to every call, reads and listings too, and no longer to PutObject alone.
    #[must_use]
    pub fn on_every_call(self) -> Self {
        Self { every_call: true, ..self }
    }

    /// What happens to the `n`th call under this plan, counted from 0.
    fn fault(&self, n: u64) -> Option<Fault> {
        // Faulty calls so far, before and after this one: where the product passes a whole number, one is due. The
        // pattern is even and the same in every run, so that "one in five" means it for any five calls.
        let due = |calls: u64| (calls as f64 * self.share + 1e-9).floor() as u64;
        let (before, after) = (due(n), due(n + 1));
        if after == before || self.kinds.is_empty() {
            return None;
        }
        self.kinds.get(usize::try_from(before).ok()? % self.kinds.len()).copied()
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
    /// Calls the plan has been applied to.
    calls: u64,
    /// Told apart from a plan that is merely counted further.
    version: u64,
}

impl Faults {
    pub(super) fn new() -> Self {
        let turn = Turn { plan: FaultPlan::none(), calls: 0, version: 0 };
        Self { current: watch::Sender::new(turn), is_put_only: AtomicBool::new(false) }
    }

    /// Puts a plan in force from the next call on, and lets every hung call proceed.
    pub fn set(&self, plan: FaultPlan) {
        self.current.send_modify(|turn| {
            turn.plan = plan;
            turn.calls = 0;
            turn.version += 1;
        });
    }

    /// Every call but PutObject is answered with 403 from now on, as it is for a role that may do nothing else.
    pub fn allow_put_alone(&self) {
        self.is_put_only.store(true, Ordering::Release);
    }

    pub(super) fn is_denied(&self, is_put: bool) -> bool {
        !is_put && self.is_put_only.load(Ordering::Acquire)
    }

    /// Decides about one call, and counts it.
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
        // An error means that the server, which owns the sender, is gone: then there is nobody left to answer.
        let _ = current.wait_for(|turn| turn.version != version).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_spread_evenly_and_the_kinds_take_turns() {
        let plan = FaultPlan::share(0.2, [Fault::SlowDown, Fault::Hang]).unwrap();
        let faults: Vec<_> = (0..20).map(|n| plan.fault(n)).collect();
        assert_eq!(faults.iter().flatten().count(), 4);
        for five in faults.chunks(5) {
            assert_eq!(five.iter().flatten().count(), 1);
        }
        let kinds: Vec<_> = faults.into_iter().flatten().collect();
        assert_eq!(kinds, [Fault::SlowDown, Fault::Hang, Fault::SlowDown, Fault::Hang]);
    }

    #[test]
    fn none_and_always_mean_it() {
        assert!((0..100).all(|n| FaultPlan::none().fault(n).is_none()));
        assert!((0..100).all(|n| FaultPlan::always(Fault::Hang).fault(n) == Some(Fault::Hang)));
    }

    #[test]
    fn names_are_read_back() {
        for name in ["slowdown", "500", "denied", "no-bucket", "drop-before", "drop-after", "503-after", "hang"] {
            assert_eq!(name.parse::<Fault>().unwrap().name(), name);
        }
        assert_eq!("delay:50ms".parse::<Fault>().unwrap(), Fault::Delay(Duration::from_millis(50)));
        assert!("delay:soon".parse::<Fault>().is_err());
        assert!("flood".parse::<Fault>().is_err());
        assert!(FaultPlan::share(1.5, [Fault::Hang]).is_err());
        assert!(FaultPlan::share(0.5, []).is_err());
    }
}
