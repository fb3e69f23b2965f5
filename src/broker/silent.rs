//! Processes that have not responded a short time ago.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Inbox, RESPONSE_TIMEOUT};

/// A process that did not respond counts as silent for so long.
const SILENT_TIME: Duration = Duration::from_secs(30);
/// How long a response of such a process is awaited. The servers say much sooner if it has exited.
const SILENT_TIMEOUT: Duration = Duration::from_millis(100);
/// Processes that are remembered. Others are awaited each time.
const SILENT_MAX: usize = 1000;

/// The inboxes of processes that have not responded, and when.
#[derive(Debug, Default)]
pub(super) struct Silent(Mutex<Vec<(Inbox, Instant)>>);

impl Silent {
    /// How long to wait for a response.
    pub(super) fn timeout(&self, inbox: &Inbox) -> Duration {
        let silent = self.0.lock();
        let is_silent = silent.iter().any(|(other, at)| other == inbox && at.elapsed() < SILENT_TIME);
        if is_silent { SILENT_TIMEOUT } else { RESPONSE_TIMEOUT }
    }

    /// Records whether a process has responded within [`Self::timeout`].
    pub(super) fn asked(&self, inbox: &Inbox, has_responded: bool) {
        let mut silent = self.0.lock();
        silent.retain(|(other, at)| at.elapsed() < SILENT_TIME && !(has_responded && other == inbox));
        if !has_responded && silent.len() < SILENT_MAX && !silent.iter().any(|(other, _)| other == inbox) {
            silent.push((inbox.clone(), Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::super::subjects::Subjects;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_that_does_not_respond_is_awaited_again_after_a_time_or_a_response() {
        let (silent, subjects) = (Silent::default(), Subjects::new("millpond"));
        let (hangs, other) = (subjects.new_inbox(), subjects.new_inbox());
        silent.asked(&hangs, false);
        assert_eq!((silent.timeout(&hangs), silent.timeout(&other)), (SILENT_TIMEOUT, RESPONSE_TIMEOUT));
        silent.asked(&other, true);
        assert_eq!(silent.timeout(&hangs), SILENT_TIMEOUT);
        silent.asked(&hangs, true);
        assert_eq!(silent.timeout(&hangs), RESPONSE_TIMEOUT);
        silent.asked(&hangs, false);
        advance(SILENT_TIME / 2).await;
        silent.asked(&hangs, false);
        advance(SILENT_TIME / 2).await;
        assert_eq!(silent.timeout(&hangs), RESPONSE_TIMEOUT, "it is awaited once in a while");
    }

    #[test]
    fn a_bounded_number_of_processes_is_remembered() {
        let (silent, subjects) = (Silent::default(), Subjects::new("millpond"));
        let inboxes: Vec<_> = (0..=SILENT_MAX).map(|_| subjects.new_inbox()).collect();
        for inbox in &inboxes {
            silent.asked(inbox, false);
        }
        let remembered = inboxes.iter().filter(|inbox| silent.timeout(inbox) == SILENT_TIMEOUT).count();
        assert_eq!(remembered, SILENT_MAX);
    }
}
