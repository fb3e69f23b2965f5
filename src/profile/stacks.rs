//! The result of the CPU profiler, with one entry for each distinct stack.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use rpprof::{Frames, Report, Symbol};

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

/// A function of the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Function {
    /// Its path, demangled.
    pub(super) name: String,
    /// The name of its symbol. pprof shortens names that are equal to this one.
    pub(super) symbol: String,
    /// Its source file; empty if it is unknown.
    pub(super) file: String,
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
    /// Sums up the samples of threads with the same name.
    pub(super) fn new(report: Report, missed: u64) -> Self {
        let mut functions = Functions::default();
        let mut samples: HashMap<(String, Vec<usize>), u64> = HashMap::new();
        for (Frames { frames, thread_name, .. }, count) in report.data {
            let frames = frames.iter().filter_map(|symbols| Some(functions.index(physical(symbols)?))).collect();
            *samples.entry((thread_name, frames)).or_default() += u64::try_from(count).unwrap_or(0);
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

/// The function of a frame, without those that were inlined into it. The profiler counts samples by function, so it knows the
/// inlined ones for the first sample only.
fn physical(symbols: &[Symbol]) -> Option<Function> {
    let symbol = symbols.last()?;
    let file = symbol.filename.as_ref().map(|file| file.display().to_string());
    Some(Function { name: symbol.name(), symbol: symbol.sys_name().into_owned(), file: file.unwrap_or_default() })
}

#[derive(Debug, Default)]
struct Functions {
    list: Vec<Function>,
    indices: HashMap<Function, usize>,
}

impl Functions {
    fn index(&mut self, function: Function) -> usize {
        *self.indices.entry(function).or_insert_with_key(|function| {
            self.list.push(function.clone());
            self.list.len() - 1
        })
    }
}
