//! What became of every payload.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::payload::{Identity, Number};

/// What the sender of a payload learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx answer.
    Accepted,
    /// Any other answer that says the request itself was at fault, or was not even tried.
    Refused,
    /// A 5xx answer: the server may have failed when the payload was written already.
    Failed,
    /// No answer: the connection failed, or the time was over.
    Unanswered,
}

/// The outcome and the sightings of each payload, in a byte: the lowest three bits are the outcome (0: never sent), the
/// next two count the sightings in the store up to three.
#[derive(Debug, Default)]
pub struct Ledger {
    endpoints: Vec<Vec<u8>>,
    corrupt: u64,
    foreign: u64,
    accepted: u64,
    /// Accepted ones seen at least once, so that waiting for them costs no counting.
    accepted_seen: u64,
    failed_may_stay: bool,
}

/// What one endpoint sent, by sequence number.
#[derive(Debug, Default)]
pub struct Sent(Vec<u8>);

const NEVER_SENT: u8 = 0;
const OUTCOME: u8 = 0b0_0111;
const SEEN_ONCE: u8 = 0b0_1000;
const SEEN: u8 = 0b1_1000;

impl Outcome {
    /// What an answer of this status means.
    pub fn of_status(status: u16) -> Self {
        match status {
            200..300 => Self::Accepted,
            500..600 => Self::Failed,
            _ => Self::Refused,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Accepted => 1,
            Self::Refused => 2,
            Self::Unanswered => 3,
            Self::Failed => 4,
        }
    }
}

impl Sent {
    /// Takes the next `count` sequence numbers, and returns the first. Until they are booked they are not sent.
    pub fn take(&mut self, count: usize) -> u64 {
        let first = self.0.len();
        self.0.resize(first + count, NEVER_SENT);
        first as u64
    }

    /// Books what came of `count` payloads from `first` on.
    ///
    /// # Panics
    ///
    /// Their numbers have not been taken.
    pub fn book(&mut self, first: u64, count: usize, outcome: Outcome) {
        let first = first as usize;
        self.0[first..first + count].fill(outcome.code());
    }
}

impl Ledger {
    /// A ledger of what the endpoints sent, by endpoint number, with nothing seen yet.
    pub fn new(sent: impl IntoIterator<Item = Sent>) -> Self {
        let endpoints: Vec<_> = sent.into_iter().map(|sent| sent.0).collect();
        let is_accepted = |entry: &&u8| **entry == Outcome::Accepted.code();
        let accepted = endpoints.iter().flatten().filter(is_accepted).count() as u64;
        Self { endpoints, accepted, ..Self::default() }
    }

    /// Lets what a 5xx answered be in the store or not, as what went unanswered. For runs in which disks and servers
    /// fail: a commit that failed may have been written. Without this, all that was refused has to leave nothing behind.
    pub fn failed_may_stay(&mut self) {
        self.failed_may_stay = true;
    }

    /// Books one payload found in the store.
    pub fn see(&mut self, identity: Identity) {
        match identity {
            Identity::Intact(number) => match self.entry(number) {
                Some(entry) => {
                    let first = *entry & SEEN == 0;
                    let accepted = *entry & OUTCOME == Outcome::Accepted.code();
                    if *entry & SEEN != SEEN {
                        *entry += SEEN_ONCE;
                    }
                    self.accepted_seen += u64::from(first && accepted);
                }
                // A number that was never sent, in bytes that nobody wrote.
                None => self.corrupt += 1,
            },
            Identity::Altered(_) | Identity::Nameless => self.corrupt += 1,
            Identity::Foreign => self.foreign += 1,
        }
    }

    /// Books something in the store that is no payload at all: a line that does not parse, an object that does not
    /// unpack.
    pub fn see_garbage(&mut self) {
        self.corrupt += 1;
    }

    /// Whether all that was accepted has been seen.
    pub fn complete(&self) -> bool {
        self.accepted_seen == self.accepted
    }

    /// The sums.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { corrupt: self.corrupt, foreign: self.foreign, ..Totals::default() };
        for entry in self.endpoints.iter().flatten() {
            let seen = (entry & SEEN) / SEEN_ONCE;
            let present = u64::from(seen > 0);
            if entry & OUTCOME == NEVER_SENT {
                continue;
            }
            totals.sent += 1;
            totals.stored += present;
            totals.duplicated += u64::from(seen > 1);
            match entry & OUTCOME {
                1 => {
                    totals.accepted += 1;
                    totals.lost += 1 - present;
                }
                2 => {
                    totals.refused += 1;
                    totals.stored_though_refused += present;
                }
                4 => {
                    totals.refused += 1;
                    if self.failed_may_stay {
                        totals.stored_though_failed += present;
                    } else {
                        totals.stored_though_refused += present;
                    }
                }
                _ => {
                    totals.unanswered += 1;
                    totals.stored_though_unanswered += present;
                }
            }
        }
        totals
    }

    fn entry(&mut self, number: Number) -> Option<&mut u8> {
        let endpoint = self.endpoints.get_mut(usize::try_from(number.endpoint).ok()?)?;
        let entry = endpoint.get_mut(usize::try_from(number.sequence).ok()?)?;
        (*entry & OUTCOME != NEVER_SENT).then_some(entry)
    }
}

/// The sums of a [`Ledger`], in payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// All that went out: accepted, refused and unanswered together.
    pub sent: u64,
    /// Answered with 2xx.
    pub accepted: u64,
    /// Answered with anything else.
    pub refused: u64,
    /// Not answered.
    pub unanswered: u64,
    /// Different payloads found in the store, intact.
    pub stored: u64,
    /// Accepted, and not in the store.
    pub lost: u64,
    /// In the store more than once.
    pub duplicated: u64,
    /// Lines and objects in the store that are not what anybody sent.
    pub corrupt: u64,
    /// Refused, and in the store all the same.
    pub stored_though_refused: u64,
    /// Answered with 5xx and in the store, where that is [let be](Ledger::failed_may_stay).
    pub stored_though_failed: u64,
    /// Unanswered, and in the store; nothing was promised either way.
    pub stored_though_unanswered: u64,
    /// Payloads of other runs in the store.
    pub foreign: u64,
}

impl Totals {
    /// All of them with their names, and whether they have to be 0.
    pub fn rows(&self) -> [(&'static str, u64, bool); 12] {
        [
            ("sent", self.sent, false),
            ("accepted", self.accepted, false),
            ("refused", self.refused, false),
            ("unanswered", self.unanswered, false),
            ("stored", self.stored, false),
            ("stored though unanswered", self.stored_though_unanswered, false),
            ("stored though 5xx", self.stored_though_failed, false),
            ("of other runs", self.foreign, false),
            ("lost", self.lost, true),
            ("duplicated", self.duplicated, true),
            ("corrupt", self.corrupt, true),
            ("stored though refused", self.stored_though_refused, true),
        ]
    }

    /// Whether a promise was broken: something accepted is lost, something stored is corrupt or there twice, or
    /// something refused was stored.
    pub fn failed(&self) -> bool {
        self.lost + self.duplicated + self.corrupt + self.stored_though_refused > 0
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count, must_be_zero) in self.rows() {
            let mark = if must_be_zero && count > 0 { "  <- must be 0" } else { "" };
            writeln!(f, "  {name:<26}{count:>14}{mark}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn number(endpoint: u32, sequence: u64) -> Number {
        Number { endpoint, sequence }
    }

    fn ledger(outcomes: &[Outcome]) -> Ledger {
        let mut sent = Sent::default();
        for outcome in outcomes {
            let sequence = sent.take(1);
            sent.book(sequence, 1, *outcome);
        }
        Ledger::new([Sent::default(), sent])
    }

    #[test]
    fn accepted_and_stored_once_is_good() {
        let mut ledger = ledger(&[Outcome::Accepted, Outcome::Accepted]);
        ledger.see(Identity::Intact(number(1, 0)));
        assert!(!ledger.complete());
        ledger.see(Identity::Intact(number(1, 1)));
        assert!(ledger.complete());
        let totals = ledger.totals();
        assert_eq!(totals, Totals { sent: 2, accepted: 2, stored: 2, ..Totals::default() });
        assert!(!totals.failed());
    }

    #[test]
    fn accepted_and_absent_is_lost() {
        let totals = ledger(&[Outcome::Accepted]).totals();
        assert_eq!(totals, Totals { sent: 1, accepted: 1, lost: 1, ..Totals::default() });
        assert!(totals.failed());
    }

    #[test]
    fn a_number_that_was_made_and_not_sent_counts_nowhere_and_is_corrupt_in_the_store() {
        let mut sent = Sent::default();
        let (kept, second) = (sent.take(3), sent.take(2));
        sent.book(second, 2, Outcome::Accepted);
        let mut ledger = Ledger::new([sent]);
        assert_eq!(ledger.totals(), Totals { sent: 2, accepted: 2, lost: 2, ..Totals::default() });
        ledger.see(Identity::Intact(number(0, kept)));
        assert_eq!(ledger.totals().corrupt, 1);
        for sequence in second..second + 2 {
            ledger.see(Identity::Intact(number(0, sequence)));
        }
        assert!(ledger.complete());
        assert_eq!(ledger.totals().lost, 0);
    }

    #[test]
    fn seen_more_than_once_is_duplicated_however_often_and_whatever_the_answer() {
        for outcome in [Outcome::Accepted, Outcome::Unanswered, Outcome::Failed] {
            let mut ledger = ledger(&[outcome]);
            for _ in 0..9 {
                ledger.see(Identity::Intact(number(1, 0)));
            }
            let totals = ledger.totals();
            assert_eq!((totals.stored, totals.duplicated), (1, 1));
            assert!(totals.failed());
        }
    }

    #[test]
    fn what_nobody_sent_is_corrupt() {
        let mut ledger = ledger(&[Outcome::Accepted]);
        ledger.see(Identity::Intact(number(1, 0)));
        ledger.see(Identity::Altered(number(1, 0)));
        ledger.see(Identity::Nameless);
        ledger.see(Identity::Intact(number(1, 1)));
        ledger.see(Identity::Intact(number(2, 0)));
        ledger.see_garbage();
        let totals = ledger.totals();
        assert_eq!((totals.corrupt, totals.lost, totals.stored), (5, 0, 1));
        assert!(totals.failed());
    }

    #[test]
    fn refused_leaves_nothing_behind() {
        let mut ledger = ledger(&[Outcome::Refused, Outcome::Refused]);
        assert!(!ledger.totals().failed());
        ledger.see(Identity::Intact(number(1, 1)));
        let totals = ledger.totals();
        assert_eq!((totals.refused, totals.stored_though_refused), (2, 1));
        assert!(totals.failed());
    }

    #[test]
    fn failed_leaves_nothing_behind_either_unless_that_is_let_be() {
        let mut ledger = ledger(&[Outcome::Failed, Outcome::Failed, Outcome::Refused, Outcome::Accepted]);
        for sequence in [0, 3] {
            ledger.see(Identity::Intact(number(1, sequence)));
        }
        let totals = ledger.totals();
        assert_eq!((totals.refused, totals.stored_though_refused, totals.stored_though_failed), (3, 1, 0));
        assert!(totals.failed());

        ledger.failed_may_stay();
        let totals = ledger.totals();
        assert_eq!((totals.refused, totals.stored_though_refused, totals.stored_though_failed), (3, 0, 1));
        assert!(!totals.failed(), "{totals:?}");

        ledger.see(Identity::Intact(number(1, 2)));
        assert_eq!(ledger.totals().stored_though_refused, 1);
        assert!(ledger.totals().failed(), "a 4xx has to leave nothing behind, whatever is let be");
    }

    #[test]
    fn failed_and_stored_twice_is_never_let_be() {
        let mut ledger = ledger(&[Outcome::Failed]);
        ledger.failed_may_stay();
        ledger.see(Identity::Intact(number(1, 0)));
        ledger.see(Identity::Intact(number(1, 0)));
        let totals = ledger.totals();
        assert_eq!((totals.stored_though_failed, totals.duplicated), (1, 1));
        assert!(totals.failed());
    }

    #[test]
    fn a_status_says_whether_something_may_have_been_written() {
        for (status, outcome) in [
            (200, Outcome::Accepted),
            (202, Outcome::Accepted),
            (302, Outcome::Refused),
            (400, Outcome::Refused),
            (429, Outcome::Refused),
            (500, Outcome::Failed),
            (503, Outcome::Failed),
        ] {
            assert_eq!(Outcome::of_status(status), outcome, "{status}");
        }
    }

    #[test]
    fn unanswered_may_be_there_or_not_and_other_runs_do_not_matter() {
        let mut ledger = ledger(&[Outcome::Unanswered, Outcome::Unanswered]);
        ledger.see(Identity::Intact(number(1, 0)));
        ledger.see(Identity::Foreign);
        let totals = ledger.totals();
        assert_eq!((totals.unanswered, totals.stored_though_unanswered, totals.foreign), (2, 1, 1));
        assert!(!totals.failed());
        assert!(ledger.complete());
    }

    #[test]
    fn the_table_lines_up_and_marks_what_is_wrong() {
        let table = ledger(&[Outcome::Accepted]).totals().to_string();
        assert!(table.contains("lost                                   1  <- must be 0"), "{table}");
        assert!(table.lines().all(|line| line.len() >= 42), "{table}");
    }
}
