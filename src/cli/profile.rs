//! `millpond profile`.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;

use super::args::Profile;
use super::client::Client;
use super::environment::Environment;
use super::output::OutputFile;
use super::{CliError, block_on, tell};

/// In addition to the length of the profile.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A profile is some hundred KiB, a flame graph a few MiB.
const MAX_BYTES: usize = 256 << 20;

pub(super) fn run(arguments: &Profile, environment: &Environment) -> Result<(), CliError> {
    let Profile { seconds, flamegraph, heap, .. } = *arguments;
    let (path, default) = match (heap, flamegraph) {
        (true, _) => ("/debug/pprof/heap".to_owned(), "millpond-heap.pb.gz"),
        (false, true) => (format!("/debug/pprof/flamegraph?seconds={seconds}"), "millpond-cpu.html"),
        (false, false) => (format!("/debug/pprof/profile?seconds={seconds}"), "millpond-cpu.pb.gz"),
    };
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from(default));
    let client = Client::admin(&arguments.admin, environment)?;
    if !heap {
        tell(&format!("profiling {} for {seconds} s", client.url()));
    }
    let after = TIMEOUT + Duration::from_secs(if heap { 0 } else { seconds });
    let profile = block_on(async { Ok(client.call(Method::GET, &path, after, MAX_BYTES).await?) })?;
    OutputFile::write(&out, &profile).map_err(|error| CliError::Failed(error.to_string()))?;
    let next = if flamegraph { "open it in a browser" } else { "read it with: go tool pprof -http=: FILE" };
    tell(&format!("wrote {}; {next}", out.display()));
    Ok(())
}
