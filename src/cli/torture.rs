//! `dualpool torture`: simulations drawn at random, one per seed.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use anyhow::{Context, ensure};

use dualpool_sim::Totals;
use dualpool_sim::torture::{Scenario, torture};
use dualpool_types::FAILED;

use super::terminal::print;

/// Failing seeds that are shown, at most; the others are only counted.
const SHOWN_MAX: usize = 20;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Seeds to simulate: from the first one up to, but not including, the last one.
    #[arg(long, value_name = "A..B", value_parser = seeds, default_value = "0..1000")]
    seeds: Range<u64>,
    /// One seed, with what it comes to.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
}

fn seeds(text: &str) -> anyhow::Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("expected two numbers with `..` between them, such as 0..1000")?;
    let seeds = from.parse()?..to.parse()?;
    ensure!(!seeds.is_empty(), "there is no seed in {text}");
    Ok(seeds)
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let seeds = match args.seed {
        Some(seed) => {
            print(&format!("{:#?}\n", Scenario::draw(seed)))?;
            seed..seed + 1
        }
        None => args.seeds.clone(),
    };
    let mut sums = Totals::default();
    let mut failed = 0;
    for seed in seeds.clone() {
        match outcome(seed) {
            Ok(totals) => {
                sums.requests += totals.requests;
                sums.steps += totals.steps;
                sums.events += totals.events;
            }
            Err(why) => {
                failed += 1;
                if failed <= SHOWN_MAX {
                    print(&format!("seed {seed}: {why}\n  replay: dualpool torture --seed {seed}\n"))?;
                }
            }
        }
    }
    let (count, Totals { requests, steps, events, .. }) = (seeds.end - seeds.start, sums);
    print(&format!(
        "{count} simulations, {failed} failed; {requests} requests, {steps} engine steps, {events} events in the others\n"
    ))?;
    Ok(ExitCode::from(if failed > 0 { FAILED } else { 0 }))
}

/// A panic is a failure of its seed, and not the end of the others.
fn outcome(seed: u64) -> Result<Totals, String> {
    match catch_unwind(AssertUnwindSafe(|| torture(seed))) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked; the lines above say where".to_owned()),
    }
}
