//! What has to be the same in two runs for their figures to be comparable: machine, load, server and store, by name.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{TestedServer, TestedStore, Trial};
use crate::server::Program;
use crate::units::show_size;

/// A program that supports `--version` responds at once; another is not waited for.
const VERSION_LIMIT: Duration = Duration::from_secs(2);

/// Variables with one of these in their names are left out: reports are passed on.
const SECRET: [&str; 4] = ["SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY"];

impl Trial {
    /// The settings of the run; `started` is the server's program as it is started.
    pub(super) async fn settings(&self, started: Option<&Program>) -> BTreeMap<String, String> {
        let plan = &self.plan;
        let mut settings = machine();
        let mut set = |name: &str, value: String| {
            if !value.is_empty() {
                settings.insert(name.to_owned(), value);
            }
        };
        let protocol =
            if plan.streams > 0 { format!("HTTP/2, {} streams", plan.streams) } else { "HTTP/1.1".to_owned() };
        let tls = if self.tls || plan.target.scheme() == "https" { " over TLS" } else { "" };
        set("load protocol", protocol + tls);
        set("load rate", plan.rate.to_string());
        set("load connections", plan.connections.to_string());
        set("load new connections", format!("{}%", plan.new_connections * 100.0));
        set("load payloads", plan.shape.to_string());
        set("load payload size", plan.payload_size.to_string());
        set("load form", format!("{:?}", plan.form).to_lowercase());
        set("load encoding", format!("{:?}", plan.encoding).to_lowercase());
        set("load path", plan.path.clone());
        set("load threads", plan.threads.to_string());
        set("load duration", plan.duration.map(|duration| format!("{duration:?}")).unwrap_or_default());
        set("load requests", plan.requests.map(|requests| requests.to_string()).unwrap_or_default());
        set("store", self.store.to_string());
        if let TestedStore::InProcess(faults) | TestedStore::InMemory(faults) = &self.store {
            set("store faults", faults.to_string());
        }
        match (&self.server, started) {
            (TestedServer::Spawn(program) | TestedServer::Baseline(program), Some(started)) => {
                set("server", program.path.display().to_string());
                set("server version", version(started).await.unwrap_or_default());
                for (name, value) in &program.env {
                    let is_secret = SECRET.iter().any(|part| name.to_uppercase().contains(part));
                    set(&format!("server {name}"), if is_secret { "(secret)".to_owned() } else { value.clone() });
                }
            }
            (TestedServer::Running, _) | (_, None) => set("server", format!("{:?}", plan.target)),
        }
        settings
    }
}

fn machine() -> BTreeMap<String, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| kib(&text)).map(show_size);
    let all = [
        ("machine cores", std::thread::available_parallelism().ok().map(|cores| cores.to_string())),
        ("machine cpu", field(&read("/proc/cpuinfo"), "model name")),
        ("machine kernel", Some(read("/proc/sys/kernel/osrelease").trim().to_owned())),
        ("machine memory", memory),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The value of `name` in a file such as `/proc/cpuinfo`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn kib(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The first line that a program prints for `--version`.
async fn version(program: &Program) -> Option<String> {
    let mut command = Command::new(&program.path);
    command
        .arg("--version")
        // One that ignores the argument and serves does so on free ports, and in its own directories.
        .envs([("LISTEN_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")])
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_LIMIT, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::load::Plan;

    #[test]
    fn the_processor_is_found_by_name() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: X\nmodel\t\t: 85\nmodel name\t: A CPU @ 2: 3 GHz\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("A CPU @ 2: 3 GHz"));
        assert_eq!(field(cpuinfo, "Hardware"), None);
        assert_eq!((kib("2048 kB"), kib("many")), (Some(2 << 20), None));
        assert!(machine().contains_key("machine cores"));
    }

    #[tokio::test]
    async fn secrets_are_left_out_and_a_program_without_a_version_has_none() {
        let env = [("ACK", "memory"), ("AWS_SECRET_ACCESS_KEY", "s3cr3t"), ("api_token", "s3cr3t")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let program = Program { path: "/bin/false".into(), args: Vec::new(), env, log: None };
        let plan = Plan::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let trial = Trial::new("x", plan, TestedServer::Spawn(program.clone()), TestedStore::Fresh);
        let settings = trial.settings(Some(&program)).await;
        assert_eq!((&*settings["server ACK"], &*settings["server"]), ("memory", "/bin/false"));
        assert!(!format!("{settings:?}").contains("s3cr3t") && !settings.contains_key("server version"));
    }
}
