//! Runs targets on mutated inputs for a given time, and keeps the input that makes one fail.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use hull_fuzz::{corpus, Coverage, Mutator, Target, TARGETS};

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
    /// Where the inputs go that reach code which none before reached, in a folder for each target
    #[arg(long)]
    keep: Option<PathBuf>,
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
    let kept = corpus(target).with_context(|| format!("the corpus of {}", target.name))?;
    let mut session = Session {
        target,
        coverage: Coverage::begin(),
        count: 0,
        slowest: Duration::ZERO,
    };
    for input in &kept {
        if session.try_input(input) == Tried::Failed {
            return session.failed(args, seed, input);
        }
    }
    let (mut mutator, mut inputs) = (Mutator::new(seed), kept.clone());
    let until = Instant::now() + Duration::from_secs(args.seconds);
    while Instant::now() < until {
        let input = mutator.next(&inputs);
        match session.try_input(&input) {
            Tried::Failed => return session.failed(args, seed, &input),
            Tried::New => inputs.push(input),
            Tried::Known => {}
        }
    }
    if let Some(folder) = &args.keep {
        write_all(&folder.join(target.name), seed, &inputs[kept.len()..])?;
    }
    session.report(inputs.len() - kept.len());
    Ok(true)
}

/// One target's time.
struct Session<'a> {
    target: &'a Target,
    coverage: Option<Coverage>,
    count: u64,
    slowest: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Tried {
    Failed,
    /// It reached code that none before it reached.
    New,
    Known,
}

impl Session<'_> {
    fn try_input(&mut self, input: &[u8]) -> Tried {
        if let Some(coverage) = &self.coverage {
            coverage.clear();
        }
        let started = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
        self.slowest = self.slowest.max(started.elapsed());
        self.count += 1;
        if ran.is_err() {
            return Tried::Failed;
        }
        match self.coverage.as_mut().is_some_and(Coverage::note) {
            true => Tried::New,
            false => Tried::Known,
        }
    }

    fn failed(&self, args: &Args, seed: u64, input: &[u8]) -> anyhow::Result<bool> {
        let (name, count) = (self.target.name, self.count);
        std::fs::create_dir_all(&args.failures)
            .with_context(|| format!("failed to make {:?}", args.failures))?;
        let path = args.failures.join(format!("{name}-{seed}-{count}"));
        std::fs::write(&path, input).with_context(|| format!("failed to write {path:?}"))?;
        println!("{name:<12} FAILED after {count} inputs: {}", path.display());
        Ok(false)
    }

    fn report(&self, new: usize) {
        let reached = match &self.coverage {
            Some(coverage) => format!("{} edges, {new} inputs new", coverage.edges()),
            None => "built without counters".to_owned(),
        };
        println!(
            "{:<12} {} inputs, {reached}, slowest {:?}: {}",
            self.target.name, self.count, self.slowest, self.target.what
        );
    }
}

fn write_all(folder: &Path, seed: u64, inputs: &[Vec<u8>]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("failed to make {folder:?}"))?;
    for (number, input) in inputs.iter().enumerate() {
        let path = folder.join(format!("{seed}-{number}"));
        std::fs::write(&path, input).with_context(|| format!("failed to write {path:?}"))?;
    }
    Ok(())
}
