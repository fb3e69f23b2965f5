//! The result of the CPU profiler, with one entry for each distinct stack.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use rpprof::UnresolvedReport;

use super::symbols::{self, Function};

/// A CPU profile.
#[derive(Debug)]
pub(crate) struct CpuProfile {
    /// When it began.
    pub(super) started: SystemTime,
    /// How long it took.
    pub(super) duration: Duration,
    /// The CPU time that one sample stands for.
    pub(super) period: Duration,
    /// The functions that the stacks refer to.
    pub(super) functions: Vec<Function>,
    /// The stacks.
    pub(super) stacks: Vec<Stack>,
    /// Samples that are missing because another thread was being sampled.
    pub(super) missed: u64,
}

/// A stack in which a thread was seen.
#[derive(Debug)]
pub(super) struct Stack {
    /// The name of the thread.
    pub(super) thread: String,
    /// Indices of its functions. The first one was executing, and each was called by the next.
    pub(super) frames: Vec<usize>,
    /// How often it was seen.
    pub(super) samples: u64,
}

impl CpuProfile {
    /// Names the functions, and sums up the samples of threads with the same name.
    pub(super) fn new(report: &UnresolvedReport, missed: u64) -> Self {
        let mut addresses = BTreeSet::new();
        let mut by_address: HashMap<(String, Vec<u64>), u64> = HashMap::new();
        for (frames, count) in &report.data {
            let stack = frames.frames.iter().enumerate().map(|(depth, frame)| in_call(frame.ip, depth));
            let stack: Vec<u64> = stack.collect();
            addresses.extend(&stack);
            let thread = String::from_utf8_lossy(&frames.thread_name[..frames.thread_name_length]).into_owned();
            *by_address.entry((thread, stack)).or_default() += u64::try_from(*count).unwrap_or(0);
        }
        let named = symbols::functions(&addresses);
        let mut functions = Functions::default();
        let mut samples: HashMap<(String, Vec<usize>), u64> = HashMap::new();
        for ((thread, stack), count) in by_address {
            let frames = stack.iter().map(|address| functions.index(named.get(address))).collect();
            *samples.entry((thread, frames)).or_default() += count;
        }
        let mut stacks: Vec<_> =
            samples.into_iter().map(|((thread, frames), samples)| Stack { thread, frames, samples }).collect();
        stacks.sort_by(|a, b| (&a.thread, &a.frames).cmp(&(&b.thread, &b.frames)));
        let rate = u32::try_from(report.timing.frequency).unwrap_or(1).max(1);
        Self {
            started: report.timing.start_time,
            duration: report.timing.duration,
            period: Duration::from_secs(1) / rate,
            functions: functions.list,
            stacks,
            missed,
        }
    }

    /// The number of samples.
    pub(super) fn samples(&self) -> u64 {
        self.stacks.iter().map(|stack| stack.samples).sum()
    }
}

/// An address in the instruction that a frame executes. A caller's is the one after its call, which can be in the next function.
fn in_call(address: usize, depth: usize) -> u64 {
    (address as u64).saturating_sub(u64::from(depth > 0))
}

#[derive(Debug, Default)]
struct Functions {
    list: Vec<Function>,
    indices: HashMap<Function, usize>,
}

impl Functions {
    fn index(&mut self, function: Option<&Function>) -> usize {
        let function = function.cloned().unwrap_or_else(|| Function::unknown(""));
        *self.indices.entry(function).or_insert_with_key(|function| {
            self.list.push(function.clone());
            self.list.len() - 1
        })
    }
}
