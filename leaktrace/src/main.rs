//! The command: parses, calls, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    leaktrace::cli::main()
}
