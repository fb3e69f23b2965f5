//! The program that a run was of.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::server::Program;

/// A program that knows `--version` answers at once; any other is not waited for.
const VERSION_LIMIT: Duration = Duration::from_secs(2);

/// Variables with one of these in their names are not told: a report is passed around.
const SECRET: [&str; 4] = ["SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY"];

/// What was started, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramReport {
    /// The executable.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The first line of what it says to `--version`, if it says anything.
    pub version: Option<String>,
    /// The environment it was given, beside what points it at a fresh spool and store. Secrets are left out.
    pub env: BTreeMap<String, String>,
}

impl ProgramReport {
    /// Of a program as it was given, and as it is started.
    pub(crate) async fn of(given: &Program, started: &Program) -> Self {
        let told = |(name, value): &(String, String)| {
            let secret = SECRET.iter().any(|part| name.to_uppercase().contains(part));
            (name.clone(), if secret { "(not told)".to_owned() } else { value.clone() })
        };
        Self {
            path: given.path.display().to_string(),
            args: given.args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            version: version(started).await,
            env: given.env.iter().map(told).collect(),
        }
    }
}

async fn version(program: &Program) -> Option<String> {
    let mut command = Command::new(&program.path);
    command
        .arg("--version")
        // One that takes no notice of the argument and serves does so on a free port, and in its fresh folders.
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
    use super::*;

    fn program(path: &str) -> Program {
        let env = [("ACK", "memory"), ("AWS_SECRET_ACCESS_KEY", "s3cr3t"), ("api_token", "s3cr3t")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Program { path: path.into(), args: Vec::new(), env, log: None }
    }

    #[tokio::test]
    async fn secrets_are_not_told() {
        let given = program("/bin/false");
        let report = ProgramReport::of(&given, &given).await;
        assert_eq!(report.env["ACK"], "memory");
        assert!(!format!("{report:?}").contains("s3cr3t"), "{report:?}");
    }

    #[tokio::test]
    async fn a_program_that_knows_no_version_has_none() {
        assert_eq!(version(&program("/bin/false")).await, None);
        assert_eq!(version(&program("/bin/there-is-none")).await, None);
    }
}
