//! The machine that a run was on: figures of different machines are not to be compared.

use serde::{Deserialize, Serialize};

use crate::units::show_size;

/// What matters of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// The processor's name; empty if it is unknown.
    pub cpu: String,
    /// The kernel's release; empty if it is unknown.
    pub kernel: String,
    /// Memory in all; empty if it is unknown.
    pub memory: String,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| kib(&text))
                .map_or_else(String::new, show_size),
        }
    }
}

/// What stands behind `name` and a colon in a file such as `/proc/cpuinfo`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn kib(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_found_by_name() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: X\nmodel\t\t: 85\nmodel name\t: A CPU @ 2: 3 GHz\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("A CPU @ 2: 3 GHz"));
        assert_eq!(field(cpuinfo, "Hardware"), None);
        assert_eq!(kib("2048 kB"), Some(2 << 20));
        assert_eq!(kib("many"), None);
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(Machine::here().cores > 0);
    }
}
