//! The question of a scenario and its answer. They come first in a report: a load whose ledger is right may still be one
//! that was too slow, or that took too much memory.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// What a scenario asked, and the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conclusion {
    /// A question that is answered with yes or no.
    pub question: String,
    /// Whether the answer is yes.
    pub holds: bool,
    /// What was measured, after what was wrong with it.
    pub answer: String,
}

impl Conclusion {
    /// The answer in a word.
    pub fn word(&self) -> &'static str {
        if self.holds { "yes" } else { "NO" }
    }
}

impl Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}: {}", self.question, self.word(), self.answer)
    }
}
