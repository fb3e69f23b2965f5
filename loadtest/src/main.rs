//! The program `loadtest`. It exits with 0 if all promises held, with 1 if one was broken, and with 2 if that could not be
//! checked.

use std::process::ExitCode;

fn main() -> ExitCode {
    loadtest::cli::main()
}
