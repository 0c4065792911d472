//! Runs targets on mutated inputs for a given time, and keeps the input that makes one fail.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use hull_fuzz::{corpus, Mutator, Target, TARGETS};

/// Runs fuzz targets.
#[derive(Debug, Parser)]
struct Args {
    /// Seconds for each target
    #[arg(short, long, default_value_t = 10)]
    seconds: u64,
    /// Begin of the sequence of inputs; without one it differs each time
    #[arg(long)]
    seed: Option<u64>,
    /// Where the inputs go that make a target fail
    #[arg(long, default_value = "target/fuzz")]
    failures: PathBuf,
    /// Targets; none: all
    targets: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(unknown) = args
        .targets
        .iter()
        .find(|name| !TARGETS.iter().any(|target| target.name == **name))
    {
        let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        anyhow::bail!("no target {unknown:?}; there are {}", known.join(", "));
    }
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap_or_default().as_nanos() as u64
    });
    let mut failed = false;
    for target in TARGETS {
        if args.targets.is_empty() || args.targets.iter().any(|name| name == target.name) {
            failed |= !run(target, &args, seed)?;
        }
    }
    Ok(match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// `false`: the target failed.
fn run(target: &Target, args: &Args, seed: u64) -> anyhow::Result<bool> {
    let corpus = corpus(target).with_context(|| format!("the corpus of {}", target.name))?;
    let mut mutator = Mutator::new(seed);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let (mut count, mut slowest) = (0u64, Duration::ZERO);
    while Instant::now() < until {
        let input = mutator.next(&corpus);
        let started = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        slowest = slowest.max(started.elapsed());
        count += 1;
        if ran.is_err() {
            std::fs::create_dir_all(&args.failures)
                .with_context(|| format!("failed to make {:?}", args.failures))?;
            let path = args
                .failures
                .join(format!("{}-{seed}-{count}", target.name));
            std::fs::write(&path, &input).with_context(|| format!("failed to write {path:?}"))?;
            println!(
                "{:<12} FAILED after {count} inputs: {}",
                target.name,
                path.display()
            );
            return Ok(false);
        }
    }
    println!(
        "{:<12} {count} inputs, slowest {slowest:?}: {}",
        target.name, target.what
    );
    Ok(true)
}
