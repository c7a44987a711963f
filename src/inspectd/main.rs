//! The `inspectd` program: see `inspectd --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match inspectd::cli::main() {
        Ok(code) => code,
        Err(error) => {
            // Errors here name their cause in their own words; only what they leave out is added.
            let text = error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
                match (text.is_empty(), text.contains(&cause)) {
                    (true, _) => cause,
                    (_, true) => text,
                    _ => format!("{text}: {cause}"),
                }
            });
            eprintln!("inspectd: {text}");
            ExitCode::FAILURE
        }
    }
}
