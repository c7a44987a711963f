//! The command line of `inspect-train`.

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Fits the anomaly model of inspectd on pictures of good parts, and judges it.
///
/// Put pictures of good parts into a folder (one subfolder for each lot or session), run `fit`, give the
/// .onnx file to inspectd. Labelled pictures (test/good, test/<class>) let `evaluate` say what it is worth.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look at the made defects that a model learns from
    Defects(cli::defects::DefectsArgs),
    /// Fit a model on good parts and write it as one .onnx file
    Fit(cli::fit::FitArgs),
    /// Judge a model file on labelled pictures
    Evaluate(cli::evaluate::EvaluateArgs),
    Calibrate(cli::calibrate::CalibrateArgs),
    Suspects(cli::suspects::SuspectsArgs),
    Split(cli::split::SplitArgs),
    Bench(cli::bench::BenchArgs),
}

fn main() -> ExitCode {
    if std::env::var_os("GOMP_SPINCOUNT").is_none() {
        return rerun_calm();
    }
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let result = match Cli::parse().command {
        Command::Defects(args) => cli::defects::run(&args),
        Command::Fit(args) => cli::fit::run(&args),
        Command::Evaluate(args) => cli::evaluate::run(&args),
        Command::Calibrate(args) => cli::calibrate::run(&args),
        Command::Suspects(args) => cli::suspects::run(&args),
        Command::Split(args) => cli::split::run(&args),
        Command::Bench(args) => cli::bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Errors here name their cause in their own words; only what they leave out is added.
            let text = error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
                match (text.is_empty(), text.contains(&cause)) {
                    (true, _) => cause,
                    (_, true) => text,
                    _ => format!("{text}: {cause}"),
                }
            });
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

/// What libgomp and the C library read when the program is loaded, and never again.
///
/// OpenMP waits calmly: threads that spin for long take the cores from everything else; threads that sleep at
/// once make a step on two cores as slow as on one (42 ms against 27 ms measured). Some microseconds are enough.
///
/// Freed memory is kept: a step takes and frees some hundred tensors, and to give them back to the system and
/// to have them zeroed again cost 5 % of its time. 32 MiB is the largest limit that all releases of glibc take.
const CALM: [(&str, &str); 4] = [
    ("GOMP_SPINCOUNT", "5000"),
    ("OMP_WAIT_POLICY", "PASSIVE"),
    ("MALLOC_MMAP_THRESHOLD_", "33554432"),
    ("MALLOC_TRIM_THRESHOLD_", "1073741824"),
];

/// Starts this program again in place with [`CALM`]; a variable that is set already wins.
fn rerun_calm() -> ExitCode {
    use std::os::unix::process::CommandExt as _;
    let Ok(program) = std::env::current_exe() else {
        eprintln!("error: cannot find the path of this program; set GOMP_SPINCOUNT=5000 yourself");
        return ExitCode::FAILURE;
    };
    let unset = CALM.iter().filter(|(name, _)| std::env::var_os(name).is_none());
    let error =
        std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(unset.copied()).exec();
    eprintln!("error: cannot start again with GOMP_SPINCOUNT=5000: {error}");
    ExitCode::FAILURE
}
