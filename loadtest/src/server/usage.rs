//! CPU and memory of a process, from `/proc` (proc(5)).

use serde::{Deserialize, Serialize};

/// CPU time and memory of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Usage {
    /// User and system time of all its threads, in microseconds, to the clock tick (10 ms).
    pub cpu_micros: u64,
    /// Resident memory now, in bytes.
    pub resident: u64,
    pub peak: u64,
}

impl Usage {
    /// The usage of a running process; `None` if it has exited.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        parse(&stat, &status)
    }

    /// CPU seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu_micros as f64 / 1e6
    }

    /// CPU microseconds from `before` to this measurement.
    pub(crate) fn cpu_since(&self, before: &Self) -> u64 {
        self.cpu_micros.saturating_sub(before.cpu_micros)
    }
}

/// User and system time in the `stat` of a process or of a thread, in microseconds.
pub(super) fn cpu_micros(stat: &str) -> Option<u64> {
    // The second field is the program's name in brackets, which may contain spaces and brackets; user and system time are
    // the 12th and 13th after it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) * 1_000_000 / rustix::param::clock_ticks_per_second())
}

fn parse(stat: &str, status: &str) -> Option<Usage> {
    // A process that has exited and was not waited for has no such lines.
    let memory = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some(Usage { cpu_micros: cpu_micros(stat)?, resident: memory("VmRSS")?, peak: memory("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "42 (a) (b 1) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 3 0 100 1 2";
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let usage = parse(stat, status).unwrap();
        let cpu_micros = 200 * 1_000_000 / rustix::param::clock_ticks_per_second();
        assert_eq!(usage, Usage { cpu_micros, resident: 1 << 20, peak: 2 << 20 });
        assert_eq!(parse(stat, "Name:\ta\n"), None);
        assert_eq!(parse("nonsense", status), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.peak >= usage.resident && usage.resident > 0);
    }
}
