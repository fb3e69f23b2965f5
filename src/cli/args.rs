//! The commands and their arguments. Settings are environment variables; an argument is what differs from call to call.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config;
use crate::segment::{JobId, SegmentId};

#[derive(Debug, Parser)]
#[command(
    name = "millpond",
    version,
    about = "millpond receives batches of JSON payloads over HTTP and stores them in S3."
)]
#[command(args_conflicts_with_subcommands = true, max_term_width = 120)]
pub(super) struct Arguments {
    /// The same as `millpond check`
    #[arg(long)]
    pub(super) check: bool,
    #[command(subcommand)]
    pub(super) command: Option<Subcommands>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Subcommands {
    /// Run the server until SIGTERM or SIGINT; also without a command
    #[command(after_help = "\
Exit codes:
  0   every accepted job is stored or kept in SPOOL_DIR
  1   accepted jobs are lost or possibly lost, or the server failed
  64  the settings are invalid, or the spool cannot be used

Example: S3_BUCKET=my-telemetry AWS_REGION=eu-central-1 millpond serve")]
    Serve,
    /// Check the settings and the store, and exit; writes, reads and deletes one object
    #[command(after_help = "\
Exit codes:
  0   the settings are valid and the store is usable
  1   the store is not usable
  64  the settings are invalid, or the spool cannot be used

Example: S3_BUCKET=my-telemetry millpond check")]
    Check,
    /// Show what a running server does, every second
    #[command(after_help = "\
Keys: q or Ctrl-C exits. If the output is not a terminal, one snapshot is printed as text.
While the server does not respond, the last values stay on the screen and are marked as stale.
Rates are per second over the last seconds, latencies are percentiles of the last 10 s, sizes are in units of 1,024.

Exit codes:
  0   the snapshot was printed, or the view was closed
  1   the server does not respond, or rejects the request
  64  the arguments are invalid

Examples: millpond top
          millpond top --once --json | jq .ledger")]
    Top(Top),
    /// List, read and requeue the segments of exited processes
    #[command(after_help = "\
The folder of a running process is shown as in use and is left alone. Run these commands as the user of the server.

Example: millpond spool ls")]
    Spool(Spool),
    /// Show the state of a job, by the receipt from the `job` of a response
    #[command(after_help = "\
Asks the server. If that does not know the job or does not respond, looks for its segment in SPOOL_DIR of this machine.
The token of a tenant is read from MILLPOND_TOKEN or --token-file. SSL_CERT_FILE names the authority of a private certificate.

States: spooled (accepted, in the spool), stored (in the store), dead (damaged on disk, lost), unknown (too many dead jobs to
tell).

Exit codes:
  0   the job was found
  1   the job is unknown, or neither the server nor the spool can be asked
  64  the arguments are invalid

Example: millpond job 01949b1f-5a6c-7cc3-98c4-dc0c0c07398f.0 --wait 10s")]
    Job(Job),
    /// Profile a running server, and write the profile to a file
    #[command(after_help = "\
Without --flamegraph the file is a gzipped pprof protobuf: `go tool pprof FILE`, Speedscope and Pyroscope read it.
The server makes one profile at a time.

Exit codes:
  0   the profile was written
  1   the server does not respond, or cannot make the profile
  64  the arguments are invalid

Example: millpond profile --seconds 30 --out cpu.pb.gz")]
    Profile(Profile),
    /// Stop a running server from accepting batches, and have it store everything
    #[command(after_help = "\
The server responds 503 to new batches, seals and uploads everything, and keeps running: stop it with SIGTERM. A drain cannot be
undone.

Exit codes:
  0   the server is draining; with --wait: everything is stored
  1   the server does not respond; with --wait: not everything is stored within the timeout
  64  the arguments are invalid

Example: millpond drain --wait --timeout 10m")]
    Drain(Drain),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples: source <(millpond completions bash)
          millpond completions zsh > ~/.zfunc/_millpond
          millpond completions fish > ~/.config/fish/completions/millpond.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// How to reach the admin listener.
#[derive(Debug, Args)]
pub(super) struct Admin {
    /// URL of the admin listener [default: ADMIN_ADDR, else http://127.0.0.1:9090]
    #[arg(long, value_name = "URL")]
    pub(super) admin: Option<String>,
    /// File with the token of the admin listener [default: ADMIN_TOKEN, ADMIN_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Top {
    /// Print one snapshot and exit
    #[arg(long)]
    pub(super) once: bool,
    /// Print the snapshot as JSON, as GET /v1/status returns it
    #[arg(long, requires = "once")]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) admin: Admin,
}

#[derive(Debug, Args)]
pub(super) struct Job {
    /// The receipt: `<segment id>.<index>`
    #[arg(value_name = "JOB")]
    pub(super) job: JobId,
    /// Wait for the job to be stored, at most this long (up to 60s)
    #[arg(long, value_name = "TIME", value_parser = config::duration, default_value = "0s")]
    pub(super) wait: Duration,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// URL of the public listener [default: LISTEN_ADDR, else http://127.0.0.1:8080; https if TLS_CERT is set]
    #[arg(long, value_name = "URL")]
    pub(super) server: Option<String>,
    /// File with the token of a tenant [default: MILLPOND_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) spool: SpoolDir,
}

#[derive(Debug, Args)]
pub(super) struct Profile {
    /// Length of the profile in seconds, 1 to 60
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(super) seconds: u64,
    /// The file to write [default: millpond-cpu.pb.gz, millpond-heap.pb.gz, millpond-cpu.html]
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Write a flame graph as a page to open in a browser
    #[arg(long)]
    pub(super) flamegraph: bool,
    /// Profile the heap instead of the CPU; needs a server that was built with the feature
    #[arg(long, conflicts_with_all = ["flamegraph", "seconds"])]
    pub(super) heap: bool,
    #[command(flatten)]
    pub(super) admin: Admin,
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    /// Wait until everything is stored
    #[arg(long)]
    pub(super) wait: bool,
    /// The longest wait
    #[arg(long, value_name = "TIME", value_parser = config::duration, default_value = "5m", requires = "wait")]
    pub(super) timeout: Duration,
    #[command(flatten)]
    pub(super) admin: Admin,
}

/// The folder of the spool.
#[derive(Debug, Args)]
pub(super) struct SpoolDir {
    /// The spool [default: SPOOL_DIR, else ./millpond-data/spool]
    #[arg(long = "spool", value_name = "FOLDER")]
    pub(super) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Spool {
    #[command(subcommand)]
    pub(super) command: SpoolCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// List the folders, their segments and the files under dead/
    #[command(after_help = "\
Sizes are in bytes. The age counts from the opening of the segment. The jobs of an open segment are unknown until it is read.

Exit codes:
  0   the spool was listed
  1   the spool cannot be read
  64  the arguments are invalid

Example: millpond spool ls --json | jq '.dead[].name'")]
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        spool: SpoolDir,
    },
    /// Show the frames of a segment, its jobs, and what of it is damaged; prints no payload
    #[command(after_help = "\
Offsets and sizes are in bytes, in the segment's file.

Exit codes:
  0   the segment is undamaged
  1   it is damaged, or cannot be read
  64  the arguments are invalid

Example: millpond spool show 01949b1f-5a6c-7cc3-98c4-dc0c0c07398f")]
    Show {
        /// The id of the segment
        segment: SegmentId,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        spool: SpoolDir,
    },
    /// Write the readable lines of a segment
    #[command(after_help = "\
Writes NDJSON, or with --raw the compressed frames as they are in the file. The spool is not changed.

Exit codes:
  0   the whole segment was written
  1   the segment is damaged: what is readable was written; or it cannot be read
  64  the arguments are invalid

Example: millpond spool export 01949b1f-5a6c-7cc3-98c4-dc0c0c07398f --out lines.ndjson")]
    Export {
        /// The id of the segment
        segment: SegmentId,
        /// The file to write; - is standard output
        #[arg(long, value_name = "FILE", default_value = "-")]
        out: PathBuf,
        /// Write the compressed frames
        #[arg(long)]
        raw: bool,
        #[command(flatten)]
        spool: SpoolDir,
    },
    /// Bring segments under dead/ back, so that the next process stores what is readable of them
    #[command(after_help = "\
Repair the files first: restore them from a backup, or move the spool to a disk that can be read. What was readable when they
were moved to dead/ is stored already, under the same keys. An object is replaced only by one with more payloads. A segment
that is still damaged is moved to dead/ again. Files without a readable job stay in dead/.

The files are moved to a new folder. The next process that starts on this spool, or a running one within seconds, stores them and
counts their jobs as accepted once more.

Exit codes:
  0   the files were moved, or there is nothing to move
  1   not confirmed, or a file could not be moved
  64  the arguments are invalid, or --yes is missing where no terminal can ask

Example: millpond spool requeue --yes")]
    Requeue {
        /// Segments to requeue [default: all under dead/]
        segments: Vec<SegmentId>,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        spool: SpoolDir,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}
