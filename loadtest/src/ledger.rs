//! The outcome of every payload: what its client was told, and how often it is in the store.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::payload::Number;

/// What the client of a payload was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx response.
    Accepted = 1,
    /// Any response other than 2xx and 5xx.
    Rejected = 2,
    /// No response: the connection failed, or a timeout expired.
    Unanswered = 3,
    /// A 5xx response: the server may have failed after it wrote the payload.
    Failed = 4,
}

/// The outcome of each payload and how often it was seen in the store, in a byte: the lowest three bits are the outcome
/// (0: never sent), the next two count up to three.
#[derive(Debug, Default)]
pub struct Ledger {
    clients: Vec<Vec<u8>>,
    corrupt: u64,
    foreign: u64,
    accepted: u64,
    /// Accepted payloads that were seen, so that [`complete`](Self::complete) costs no counting.
    accepted_seen: u64,
    failed_may_stay: bool,
}

/// What one client sent, by sequence number.
#[derive(Debug, Default)]
pub struct Sent(Vec<u8>);

const OUTCOME: u8 = 0b0_0111;
const SEEN_ONCE: u8 = 0b0_1000;
const SEEN: u8 = 0b1_1000;

impl Outcome {
    /// The meaning of a status.
    pub fn of_status(status: u16) -> Self {
        match status {
            200..300 => Self::Accepted,
            500..600 => Self::Failed,
            _ => Self::Rejected,
        }
    }
}

impl Sent {
    /// Takes the next `count` sequence numbers, and returns the first. Until their outcome is recorded they are not sent.
    pub fn take(&mut self, count: usize) -> u64 {
        let first = self.0.len();
        self.0.resize(first + count, 0);
        first as u64
    }

    /// Records the outcome of `count` payloads from `first` on.
    ///
    /// # Panics
    ///
    /// Their numbers have not been taken.
    pub fn record(&mut self, first: u64, count: usize, outcome: Outcome) {
        let first = first as usize;
        self.0[first..first + count].fill(outcome as u8);
    }
}

impl Ledger {
    /// A ledger of what the clients sent, by client number, with nothing seen yet.
    pub fn new(sent: impl IntoIterator<Item = Sent>) -> Self {
        let clients: Vec<_> = sent.into_iter().map(|sent| sent.0).collect();
        let accepted = clients.iter().flatten().filter(|entry| **entry == Outcome::Accepted as u8).count() as u64;
        Self { clients, accepted, ..Self::default() }
    }

    /// Adds what the clients of another load have sent, whose numbers follow those of the clients in this ledger.
    ///
    /// # Panics
    ///
    /// Something has been seen in the store already.
    pub fn append(&mut self, other: Self) {
        assert!(self.accepted_seen + other.accepted_seen == 0, "ledgers are joined before the store is read");
        self.clients.extend(other.clients);
        self.accepted += other.accepted;
    }

    /// Allows payloads with a 5xx response in the store, as without a response. For runs in which disks and servers fail: a
    /// commit that failed may have been written. Otherwise whatever was rejected has to leave nothing behind.
    pub fn failed_may_stay(&mut self) {
        self.failed_may_stay = true;
    }

    /// Records a payload that is in the store, intact.
    pub fn see(&mut self, number: Number) {
        let Some(entry) = self.entry(number) else {
            // Of this run, with a number that was never sent.
            self.corrupt += 1;
            return;
        };
        let first = *entry & SEEN == 0;
        let accepted = *entry & OUTCOME == Outcome::Accepted as u8;
        if *entry & SEEN != SEEN {
            *entry += SEEN_ONCE;
        }
        self.accepted_seen += u64::from(first && accepted);
    }

    /// Records lines or objects that are not as they were sent.
    pub fn see_corrupt(&mut self, count: u64) {
        self.corrupt += count;
    }

    /// Records lines of other clients and of other runs.
    pub fn see_foreign(&mut self, count: u64) {
        self.foreign += count;
    }

    /// Whether everything accepted has been seen.
    pub fn complete(&self) -> bool {
        self.accepted_seen == self.accepted
    }

    /// The sums.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { corrupt: self.corrupt, foreign: self.foreign, ..Totals::default() };
        for entry in self.clients.iter().flatten().filter(|entry| **entry & OUTCOME != 0) {
            let seen = (entry & SEEN) / SEEN_ONCE;
            let present = u64::from(seen > 0);
            totals.sent += 1;
            totals.stored += present;
            totals.duplicated += u64::from(seen > 1);
            let outcome = entry & OUTCOME;
            let (count, stored) = if outcome == Outcome::Accepted as u8 {
                totals.lost += 1 - present;
                totals.accepted += 1;
                continue;
            } else if outcome == Outcome::Unanswered as u8 {
                (&mut totals.unanswered, &mut totals.stored_though_unanswered)
            } else if outcome == Outcome::Failed as u8 && self.failed_may_stay {
                (&mut totals.rejected, &mut totals.stored_though_failed)
            } else {
                (&mut totals.rejected, &mut totals.stored_though_rejected)
            };
            *count += 1;
            *stored += present;
        }
        totals
    }

    fn entry(&mut self, number: Number) -> Option<&mut u8> {
        let client = self.clients.get_mut(usize::try_from(number.client).ok()?)?;
        let entry = client.get_mut(usize::try_from(number.sequence).ok()?)?;
        (*entry & OUTCOME != 0).then_some(entry)
    }
}

/// The sums of a [`Ledger`], in payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// All that were sent: accepted, rejected and unanswered together.
    pub sent: u64,
    /// With a 2xx response.
    pub accepted: u64,
    /// With any other response.
    pub rejected: u64,
    /// Without a response.
    pub unanswered: u64,
    /// Different payloads in the store, intact.
    pub stored: u64,
    /// Accepted, and not in the store.
    pub lost: u64,
    /// In the store more than once.
    pub duplicated: u64,
    /// Lines and objects in the store that differ from what was sent.
    pub corrupt: u64,
    /// Rejected, but in the store.
    pub stored_though_rejected: u64,
    /// With a 5xx response and in the store, where that is [allowed](Ledger::failed_may_stay).
    pub stored_though_failed: u64,
    /// Unanswered, and in the store; the client was promised nothing.
    pub stored_though_unanswered: u64,
    /// Lines of other clients and of other runs in the store.
    pub foreign: u64,
    /// Accepted, and not in the store of a server that may still have them in an open segment.
    #[serde(default)]
    pub not_stored_yet: u64,
}

/// Payloads by what their clients were told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the field of the same name in Totals")]
pub struct Counts {
    pub sent: u64,
    pub accepted: u64,
    pub rejected: u64,
    pub unanswered: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, accepted, rejected, unanswered } = *self;
        let rows = [("sent", sent), ("accepted", accepted), ("rejected", rejected), ("unanswered", unanswered)];
        rows.into_iter().try_for_each(|(name, count)| writeln!(f, "  {name:<26}{count:>14}"))
    }
}

impl Totals {
    /// The counts that need no store.
    pub fn counts(&self) -> Counts {
        let Self { sent, accepted, rejected, unanswered, .. } = *self;
        Counts { sent, accepted, rejected, unanswered }
    }

    /// The counts of the store, with their names, and whether they have to be 0.
    fn in_store(&self) -> [(&'static str, u64, bool); 8] {
        [
            ("stored", self.stored, false),
            ("stored though unanswered", self.stored_though_unanswered, false),
            ("stored though 5xx", self.stored_though_failed, false),
            ("foreign", self.foreign, false),
            ("lost", self.lost, true),
            ("duplicated", self.duplicated, true),
            ("corrupt", self.corrupt, true),
            ("stored though rejected", self.stored_though_rejected, true),
        ]
    }

    /// Whether a promise was broken: something accepted is lost, something stored is corrupt or stored twice, or
    /// something rejected was stored.
    pub fn failed(&self) -> bool {
        self.lost + self.duplicated + self.corrupt + self.stored_though_rejected > 0
    }

    /// Counts the lost payloads as not stored yet: their segments may be open.
    pub fn unsettle(&mut self) {
        self.not_stored_yet += std::mem::take(&mut self.lost);
    }

    /// Whether the store holds anything of this run.
    pub fn found(&self) -> bool {
        self.stored + self.corrupt > 0
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.counts())?;
        for (name, count, must_be_zero) in self.in_store() {
            let mark = if must_be_zero && count > 0 { "  <- must be 0" } else { "" };
            writeln!(f, "  {name:<26}{count:>14}{mark}")?;
        }
        if self.not_stored_yet > 0 {
            writeln!(f, "  {:<26}{:>14}", "not stored yet, or lost", self.not_stored_yet)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn number(client: u32, sequence: u64) -> Number {
        Number { client, sequence }
    }

    /// The totals of these outcomes, of which some were seen, and of a client without payloads.
    fn totals(outcomes: &[Outcome], seen: &[u64], failed_may_stay: bool) -> Totals {
        let mut sent = Sent::default();
        for outcome in outcomes {
            let sequence = sent.take(1);
            sent.record(sequence, 1, *outcome);
        }
        let mut ledger = Ledger::new([Sent::default(), sent]);
        for sequence in seen {
            ledger.see(number(1, *sequence));
        }
        if failed_may_stay {
            ledger.failed_may_stay();
        }
        let all_seen = outcomes.iter().zip(0..).all(|(outcome, at)| *outcome != Accepted || seen.contains(&at));
        assert_eq!(ledger.complete(), all_seen);
        ledger.totals()
    }

    use Outcome::{Accepted, Failed, Rejected, Unanswered};

    #[test]
    fn accepted_is_stored_or_lost() {
        let both = totals(&[Accepted, Accepted], &[0, 1], false);
        assert_eq!(both, Totals { sent: 2, accepted: 2, stored: 2, ..Totals::default() });
        let none = totals(&[Accepted], &[], false);
        assert_eq!(none, Totals { sent: 1, accepted: 1, lost: 1, ..Totals::default() });
        assert!(!both.failed() && none.failed());
        assert!(none.to_string().contains("lost                                   1  <- must be 0"));
    }

    #[test]
    fn a_number_that_was_never_sent_counts_nowhere_and_is_corrupt_in_the_store() {
        let mut sent = Sent::default();
        let (kept, second) = (sent.take(3), sent.take(2));
        sent.record(second, 2, Accepted);
        let mut ledger = Ledger::new([sent]);
        assert_eq!(ledger.totals(), Totals { sent: 2, accepted: 2, lost: 2, ..Totals::default() });
        ledger.see(number(0, kept));
        ledger.see(number(1, 0));
        assert_eq!((ledger.totals().corrupt, ledger.totals().stored), (2, 0));
    }

    #[test]
    fn ledgers_of_several_loads_are_one() {
        let of = |count| {
            let mut sent = Sent::default();
            let first = sent.take(count);
            sent.record(first, count, Accepted);
            Ledger::new([sent])
        };
        let mut ledger = of(2);
        ledger.append(of(1));
        [number(0, 0), number(0, 1), number(1, 0)].into_iter().for_each(|number| ledger.see(number));
        assert!(ledger.complete());
        assert_eq!(ledger.totals(), Totals { sent: 3, accepted: 3, stored: 3, ..Totals::default() });
    }

    #[test]
    fn seen_more_than_once_is_duplicated_whatever_the_response() {
        for outcome in [Accepted, Unanswered, Failed] {
            let totals = totals(&[outcome], &[0; 9], true);
            assert_eq!((totals.stored, totals.duplicated), (1, 1));
            assert!(totals.failed());
        }
    }

    #[test]
    fn rejected_and_failed_leave_nothing_behind_unless_that_is_allowed_for_failed() {
        assert!(!totals(&[Rejected, Failed], &[], false).failed());
        let outcomes = [Failed, Failed, Rejected, Accepted];
        for (seen, may_stay, rejected, failed) in [
            (&[0, 3][..], false, 1, 0),
            (&[0, 3], true, 0, 1),
            // A 4xx has to leave nothing behind, whatever is allowed.
            (&[0, 2, 3], true, 1, 1),
        ] {
            let totals = totals(&outcomes, seen, may_stay);
            assert_eq!((totals.rejected, totals.stored_though_rejected), (3, rejected));
            assert_eq!((totals.stored_though_failed, totals.failed()), (failed, rejected > 0));
        }
    }

    #[test]
    fn a_status_says_whether_something_may_have_been_written() {
        for (statuses, outcome) in [(&[200, 202][..], Accepted), (&[302, 400, 429], Rejected), (&[500, 503], Failed)] {
            assert!(statuses.iter().all(|status| Outcome::of_status(*status) == outcome));
        }
    }

    #[test]
    fn unanswered_may_be_stored_or_not() {
        let totals = totals(&[Unanswered, Unanswered], &[0], false);
        assert_eq!((totals.unanswered, totals.stored_though_unanswered, totals.failed()), (2, 1, false));
    }
}
