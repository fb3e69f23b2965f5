//! The command line: its commands, apart from the server itself.
//!
//! The commands talk to a running server over HTTP, as any other client does, or read the spool of exited processes. Text from
//! a server, a client or a file name is made printable before it reaches the terminal (`text::printable`).

mod args;
mod client;
mod drain;
mod environment;
mod help;
mod job;
mod output;
mod profile;
mod spool;
mod text;
mod top;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use args::{Arguments, Subcommands};
pub use environment::Environment;

/// A command line that was parsed.
#[derive(Debug)]
pub enum Invocation {
    /// Run the server.
    Serve,
    /// Check the settings and the store.
    Check,
    /// Print this text and exit: help, version.
    Print(String),
    /// Run another command with [`Tool::run`].
    Tool(Tool),
}

/// A command that needs no settings of the server to be valid.
#[derive(Debug)]
pub struct Tool(Subcommands);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments or the environment are invalid.
    #[error("{0}")]
    Usage(String),
    /// The command failed. The text says what to do.
    #[error("{0}")]
    Failed(String),
    /// The command has said everything already.
    #[error("failed")]
    Reported,
    /// The output cannot be written. A reader that has gone (EPIPE) is no failure.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Parses the arguments of the process, without its name.
///
/// # Errors
/// A text that says what is wrong with them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, String> {
    let arguments: Vec<_> = std::iter::once("millpond".into()).chain(arguments).collect();
    let is_option = arguments.get(1).is_some_and(|first| first.as_encoded_bytes().starts_with(b"-"));
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let text = error.render().to_string();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Invocation::Print(text)),
                _ if is_option => Err(format!("{text}\nSettings are environment variables, see millpond --help.")),
                _ => Err(text),
            };
        }
    };
    let arguments = Arguments::from_arg_matches(&matches).map_err(|error| error.render().to_string())?;
    Ok(match arguments.command {
        None if arguments.check => Invocation::Check,
        None | Some(Subcommands::Serve) => Invocation::Serve,
        Some(Subcommands::Check) => Invocation::Check,
        Some(tool) => Invocation::Tool(Tool(tool)),
    })
}

fn command() -> clap::Command {
    Arguments::command().after_help(help::notes())
}

impl Tool {
    /// Runs the command.
    ///
    /// # Errors
    /// [`CliError`], whose kind decides on the exit code.
    pub fn run(self, environment: &Environment) -> Result<(), CliError> {
        match self.0 {
            Subcommands::Top(arguments) => top::run(&arguments, environment),
            Subcommands::Spool(arguments) => spool::run(arguments.command, environment),
            Subcommands::Job(arguments) => job::run(&arguments, environment),
            Subcommands::Profile(arguments) => profile::run(&arguments, environment),
            Subcommands::Drain(arguments) => drain::run(&arguments, environment),
            Subcommands::Completions { shell } => {
                let mut script = Vec::new();
                let shell = clap_complete::Shell::from(shell);
                // Without the table of settings, which no shell shows.
                clap_complete::generate(shell, &mut Arguments::command(), "millpond", &mut script);
                print(&script)
            }
            Subcommands::Serve | Subcommands::Check => {
                Err(CliError::Usage("this is a command of the server".to_owned()))
            }
        }
    }
}

/// Writes to standard output.
fn print(text: impl AsRef<[u8]>) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    Ok(out.write_all(text.as_ref()).and_then(|()| out.flush())?)
}

/// Writes a line to standard error, for people. An error is ignored: there is no one to tell.
fn tell(text: &str) {
    let _: io::Result<()> = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Runs a command that talks to a server.
fn block_on<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failed(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(command);
    // Without waiting for a thread that reads the terminal or resolves a name.
    runtime.shutdown_background();
    result
}
