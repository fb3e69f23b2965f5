//! CPU of the threads of a process, from `/proc` (proc(5)).

use std::collections::BTreeMap;

use super::usage::cpu_micros;

/// CPU time of each thread of a process, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Threads {
    /// By their ids.
    threads: BTreeMap<u32, Thread>,
}

/// CPU time of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its name, of which the kernel keeps 15 characters.
    pub name: String,
    /// Whether it is the first thread of its process.
    pub is_main: bool,
    /// User and system time, in microseconds.
    pub cpu_micros: u64,
}

impl Threads {
    /// The threads of a running process; none if it has exited.
    pub fn of(pid: u32) -> Self {
        let precise = Self::read(pid, "schedstat", schedstat);
        // A kernel without scheduler statistics has no such files, or zeros in them. `stat` has ticks of 10 ms.
        let has_statistics = precise.threads.values().any(|thread| thread.cpu_micros > 0);
        if has_statistics { precise } else { Self::read(pid, "stat", cpu_micros) }
    }

    /// The threads that run at this measurement, with their CPU from `before` on. A thread that has started meanwhile counts
    /// from its start.
    pub fn since(&self, before: &Self) -> Vec<Thread> {
        let since = |(id, now): (&u32, &Thread)| {
            let earlier = before.threads.get(id).map_or(0, |thread| thread.cpu_micros);
            Thread { cpu_micros: now.cpu_micros.saturating_sub(earlier), ..now.clone() }
        };
        self.threads.iter().map(since).collect()
    }

    fn read(pid: u32, file: &str, cpu_micros: fn(&str) -> Option<u64>) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        let thread = |task: std::fs::DirEntry| {
            let id = task.file_name().to_str()?.parse().ok()?;
            let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
            let name = read("comm")?.trim_end_matches('\n').to_owned();
            Some((id, Thread { name, is_main: id == pid, cpu_micros: cpu_micros(&read(file)?)? }))
        };
        // A thread that exits while it is read is left out.
        Self { threads: tasks.flatten().filter_map(thread).collect() }
    }
}

/// The first field: time on a CPU, in nanoseconds.
fn schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|nanos| nanos / 1_000)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn threads(of: &[(u32, &str, u64)]) -> Threads {
        let thread = |&(id, name, cpu_micros): &(u32, &str, u64)| {
            (id, Thread { name: name.to_owned(), is_main: id == 1, cpu_micros })
        };
        Threads { threads: of.iter().map(thread).collect() }
    }

    #[test]
    fn the_time_on_a_cpu_is_the_first_field() {
        assert_eq!(schedstat("1234567 89 10\n"), Some(1_234));
        assert_eq!((schedstat(""), schedstat("many 1 2")), (None, None));
    }

    #[test]
    fn a_new_thread_counts_from_its_start_and_one_that_has_ended_is_left_out() {
        let before = threads(&[(1, "millpond", 10), (2, "runtime", 20), (3, "ended", 30)]);
        let after = threads(&[(1, "millpond", 15), (2, "runtime", 20), (4, "started", 7)]);
        let since = threads(&[(1, "millpond", 5), (2, "runtime", 0), (4, "started", 7)]);
        assert_eq!(after.since(&before), since.threads.into_values().collect::<Vec<_>>());
    }

    #[test]
    fn the_cpu_of_a_thread_is_found_under_its_name() {
        let (pid, stop) = (std::process::id(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let spin = || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            };
            std::thread::Builder::new().name("spins".to_owned()).spawn_scoped(scope, spin).unwrap();
            for read in [Threads::of, |pid| Threads::read(pid, "stat", cpu_micros)] {
                while !read(pid).threads.values().any(|thread| thread.name == "spins" && thread.cpu_micros > 0) {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(Threads::of(u32::MAX), Threads::default());
    }
}
