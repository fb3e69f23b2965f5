//! When requests are due, independent of the server.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

use super::Rate;

/// Tokio's own timer rounds up to whole milliseconds, which would count as latency. This tick costs a few percent of a core;
/// arrivals are sent half a tick late on average, which the report shows.
const FINEST_TICK: Duration = Duration::from_micros(200);

/// The arrivals that are due and not yet taken by a connection, in order.
pub(super) struct Pacer {
    rate: Rate,
    /// The number of this pacer's next arrival among those of the whole load, and the step to the one after it.
    next: Cell<u64>,
    step: u64,
    due: RefCell<VecDeque<Instant>>,
    /// One permit for each entry of `due`; its queue is fair, so that all connections are used.
    ready: Semaphore,
}

impl Pacer {
    /// Every `step`-th arrival of the rate, from the `first`, which is counted from 0.
    pub(super) fn new(rate: Rate, first: u64, step: u64) -> Self {
        Self { rate, next: Cell::new(first + 1), step, due: RefCell::default(), ready: Semaphore::new(0) }
    }

    /// Waits for the next `count` arrivals, which are sent together, and returns when the last of them was due. `None` when
    /// the load is over.
    pub(super) async fn next(&self, count: u32) -> Option<Instant> {
        if self.rate.is_unpaced() {
            return (!self.ready.is_closed()).then(Instant::now);
        }
        self.ready.acquire_many(count).await.ok()?.forget();
        self.due.borrow_mut().drain(..count as usize).next_back()
    }

    /// Ends the load; returns the number of arrivals that were due without a free connection. Those that became due while
    /// this thread did not run are among them, except for those of the last tick.
    pub(super) fn close_at_end(&self, start: Instant) -> u64 {
        self.release(start, start.elapsed().saturating_sub(FINEST_TICK));
        let unsent = self.due.borrow().len();
        self.close();
        unsent as u64
    }

    /// Ends the load when there are no more requests to send.
    pub(super) fn close(&self) {
        self.ready.close();
        self.due.take();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.ready.is_closed()
    }

    /// Releases arrivals as they become due, without an end.
    pub(super) async fn run(&self, start: Instant) -> anyhow::Result<()> {
        if self.rate.is_unpaced() {
            return std::future::pending().await;
        }
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC);
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; the objection is to descriptors that change or close, and this is owned"
        )]
        let timer = AsyncFd::with_interest(timer.context("making a timer")?, Interest::READABLE)?;
        loop {
            let Some(wait) = self.release(start, start.elapsed()) else { return std::future::pending().await };
            set(timer.get_ref(), wait.max(FINEST_TICK)).context("setting a timer")?;
            // The clock decides, and not how often it has fired; setting it again resets that.
            timer.readable().await?.clear_ready();
        }
    }

    /// Releases the arrivals up to `now`, which counts from `start`; returns the time to the next, if there is one.
    fn release(&self, start: Instant, now: Duration) -> Option<Duration> {
        let mut due = self.due.borrow_mut();
        let waiting = due.len();
        let wait = loop {
            let at = self.rate.due(self.next.get()).and_then(|at| Duration::try_from_secs_f64(at).ok());
            match at.map(|at| at.checked_sub(now).filter(|wait| !wait.is_zero()).ok_or(at)) {
                None => break None,
                Some(Ok(wait)) => break Some(wait),
                Some(Err(at)) => due.push_back(start + at),
            }
            self.next.set(self.next.get() + self.step);
        };
        self.ready.add_permits(due.len() - waiting);
        wait
    }
}

fn set(timer: &OwnedFd, wait: Duration) -> rustix::io::Result<()> {
    let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: wait };
    rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacer(rate: f64, first: u64, step: u64) -> Pacer {
        Pacer::new(Rate::steady(rate), first, step)
    }

    #[tokio::test]
    async fn arrivals_keep_their_times_if_they_are_taken_late() {
        let pacer = pacer(1_000.0, 0, 1);
        let taking = async {
            let first = pacer.next(1).await.unwrap();
            // Twenty arrivals become due while this task, and with it the pacer, is busy.
            while first.elapsed() < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            let mut last = first;
            for n in 1..=15 {
                last = pacer.next(1).await.unwrap();
                let due = last - first;
                assert!(due.abs_diff(Duration::from_millis(n)) < Duration::from_micros(5), "{due:?}");
            }
            last
        };
        tokio::select! {
            _ = taking => {}
            wrong = pacer.run(Instant::now()) => panic!("{wrong:?}"),
        }
        pacer.close();
        assert!(pacer.next(1).await.is_none());
    }

    #[test]
    fn pacers_that_share_a_rate_release_each_of_its_arrivals_once_however_late_they_run() {
        let Some(start) = Instant::now().checked_sub(Duration::from_secs(1)) else { return };
        let mut all: Vec<Duration> = Vec::new();
        for first in 0..3 {
            let pacer = pacer(100.0, first, 3);
            let wait = pacer.release(start, start.elapsed()).unwrap();
            assert!(wait <= Duration::from_millis(30));
            all.extend(pacer.due.take().iter().map(|at| *at - start));
        }
        all.sort_unstable();
        assert!(all.len() >= 100);
        for (at, number) in all.iter().zip(1..=100_u64) {
            assert!(at.abs_diff(Duration::from_millis(10 * number)) < Duration::from_micros(1), "{number}: {at:?}");
        }
        let pacer = pacer(100.0, 0, 1);
        assert!(pacer.close_at_end(start) >= 99 && pacer.is_closed());
    }
}
