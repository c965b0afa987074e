//! The `tilewise` program: parses the command line, runs a command, turns an error into a message and an exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            cli::note(&format!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
