//! When requests are due: at a fixed rate, whatever the server does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

/// Tokio's own timer rounds up to whole milliseconds, which would be read as latency. This often is fine enough, and
/// costs a few percent of a core; arrivals go out half a tick late on average, which the report shows.
const FINEST_TICK: Duration = Duration::from_micros(200);

/// The arrivals that are due and not yet taken by a connection, in order.
pub(super) struct Pacer {
    rate: f64,
    due: RefCell<VecDeque<Instant>>,
    /// One permit for each entry of `due`; its queue is fair, so that all connections take part.
    ready: Semaphore,
}

impl Pacer {
    /// `rate` arrivals a second; 0 is no pace at all.
    pub(super) fn new(rate: f64) -> Self {
        Self { rate, due: RefCell::default(), ready: Semaphore::new(0) }
    }

    /// Waits for the next arrival, and says when it was due. `None` when the load is over.
    pub(super) async fn next(&self) -> Option<Instant> {
        if self.rate == 0.0 {
            return (!self.ready.is_closed()).then(Instant::now);
        }
        self.ready.acquire().await.ok()?.forget();
        self.due.borrow_mut().pop_front()
    }

    /// Ends the load; returns how many arrivals were due that no connection was free for.
    pub(super) fn close(&self) -> u64 {
        self.ready.close();
        self.due.take().len() as u64
    }

    pub(super) fn is_closed(&self) -> bool {
        self.ready.is_closed()
    }

    /// Lets arrivals come due for ever.
    pub(super) async fn run(&self) -> anyhow::Result<()> {
        if self.rate == 0.0 {
            return std::future::pending().await;
        }
        let tick = Duration::from_secs_f64(1.0 / self.rate).max(FINEST_TICK);
        let timer = timer(tick).context("setting a timer")?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; the objection is to descriptors that change or close, and this is owned"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        let start = Instant::now();
        let mut released = 0_u64;
        loop {
            let due = (start.elapsed().as_secs_f64() * self.rate) as u64;
            let fresh = due.saturating_sub(released);
            for _ in 0..fresh {
                released += 1;
                let at = start + Duration::from_secs_f64(released as f64 / self.rate);
                self.due.borrow_mut().push_back(at);
            }
            self.ready.add_permits(usize::try_from(fresh)?);
            let mut guard = timer.readable().await?;
            // How many ticks have passed does not matter, the clock decides; reading them arms the timer again.
            let _ = guard.try_io(|timer| Ok(rustix::io::read(timer, &mut [0_u8; 8])?));
        }
    }
}

fn timer(tick: Duration) -> rustix::io::Result<OwnedFd> {
    let timer =
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let tick = Timespec { tv_sec: tick.as_secs() as i64, tv_nsec: tick.subsec_nanos().into() };
    let every = Itimerspec { it_interval: tick, it_value: tick };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn arrivals_keep_their_times_even_if_nobody_takes_them_in_time() {
        let pacer = Pacer::new(1_000.0);
        let taking = async {
            let first = pacer.next().await.unwrap();
            // Twenty arrivals come due while this task, and with it the pacer, is kept busy.
            while first.elapsed() < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            let mut last = first;
            for n in 1..=15 {
                last = pacer.next().await.unwrap();
                let due = last - first;
                assert!(due.abs_diff(Duration::from_millis(n)) < Duration::from_micros(5), "{due:?}");
            }
            last
        };
        tokio::select! {
            _ = taking => {}
            wrong = pacer.run() => panic!("{wrong:?}"),
        }
        pacer.close();
        assert!(pacer.next().await.is_none());
    }
}
