//! The server's CPU by thread.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::server::Thread;

/// The names of the worker threads of a tokio runtime: those of millpond, and tokio's own as the kernel keeps them.
const RUNTIME_WORKERS: [&str; 3] = ["runtime", "tokio-rt-worker", "tokio-runtime-w"];

/// The threads of one name, and their CPU during the load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ThreadReport {
    pub name: String,
    pub count: usize,
    /// Of all of them together.
    pub cpu_micros_per_request: f64,
    pub busiest_micros_per_request: f64,
}

impl fmt::Display for ThreadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, count, cpu_micros_per_request: all, busiest_micros_per_request: busiest } = self;
        write!(f, "{name} {all:.2} us")?;
        if *count > 1 { write!(f, " ({count} threads, the busiest {busiest:.2} us)") } else { Ok(()) }
    }
}

/// The threads by name, those with the most CPU first.
pub(crate) fn by_name(threads: &[Thread], requests: u64) -> Vec<ThreadReport> {
    let mut by_name: BTreeMap<&str, ThreadReport> = BTreeMap::new();
    for thread in threads {
        let micros = per_request(thread, requests);
        let all = by_name.entry(&thread.name).or_default();
        all.count += 1;
        all.cpu_micros_per_request += micros;
        all.busiest_micros_per_request = all.busiest_micros_per_request.max(micros);
    }
    let named = by_name.into_iter().map(|(name, all)| ThreadReport { name: name.to_owned(), ..all });
    let mut reports: Vec<_> = named.collect();
    reports.sort_by(|a, b| b.cpu_micros_per_request.total_cmp(&a.cpu_micros_per_request));
    reports
}

/// The CPU a request of the busiest thread that is no worker of the runtime. `None` if the main thread is the only such
/// thread: then the serial work may be on a worker.
pub(crate) fn serial(threads: &[Thread], requests: u64) -> Option<f64> {
    let others = || threads.iter().filter(|thread| !RUNTIME_WORKERS.contains(&&*thread.name));
    others().find(|thread| !thread.is_main)?;
    others().map(|thread| per_request(thread, requests)).max_by(f64::total_cmp)
}

fn per_request(thread: &Thread, requests: u64) -> f64 {
    thread.cpu_micros as f64 / requests.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(name: &str, cpu_micros: u64) -> Thread {
        Thread { name: name.to_owned(), is_main: name == "millpond", cpu_micros }
    }

    #[test]
    fn threads_of_one_name_are_counted_together_and_the_busiest_alone() {
        let threads = [thread("dispatcher", 90), thread("runtime", 60), thread("millpond", 10), thread("runtime", 40)];
        let reports = by_name(&threads, 10);
        let names: Vec<_> = reports.iter().map(|report| &*report.name).collect();
        assert_eq!(names, ["runtime", "dispatcher", "millpond"]);
        let ThreadReport { count, cpu_micros_per_request, busiest_micros_per_request, .. } = reports[0];
        assert_eq!((count, cpu_micros_per_request, busiest_micros_per_request), (2, 10.0, 6.0));
    }

    #[test]
    fn the_serial_cpu_is_that_of_the_busiest_thread_which_is_no_worker_of_the_runtime() {
        let mut threads = vec![thread("tokio-rt-worker", 90), thread("runtime", 60), thread("millpond", 10)];
        assert_eq!(serial(&threads, 10), None);
        threads.extend([thread("packer-0", 20), thread("dispatcher", 30)]);
        assert_eq!(serial(&threads, 10), Some(3.0));
        assert_eq!(serial(&[], 10), None);
    }
}
