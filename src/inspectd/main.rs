//! The `inspectd` program: see `inspectd --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match inspectd::cli::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("inspectd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
