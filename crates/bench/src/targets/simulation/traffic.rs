//! The flags about traffic, and what they make of a scenario's own.

use std::path::PathBuf;
use std::str::FromStr;

use dualpool_sim::scenario::{LengthsSpec, PhaseSpec, Scenario, ScenarioError};
use dualpool_types::Failure;

use super::requests::Source;

#[derive(clap::Args)]
#[command(next_help_heading = "Traffic")]
pub(super) struct TrafficFlags {
    /// Requests per second, on average.
    #[arg(long, value_name = "RPS", allow_negative_numbers = true, conflicts_with = "trace")]
    arrival_rate: Option<f64>,
    /// Variance of the gap between arrivals over its squared mean: 1 is Poisson. With --burst-s: rate in a burst over the mean rate.
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, conflicts_with = "trace")]
    burst_factor: Option<f64>,
    /// Bursts last so many seconds on average, and nothing arrives between them.
    #[arg(long, value_name = "S", allow_negative_numbers = true, requires = "burst_factor", conflicts_with = "trace")]
    burst_s: Option<f64>,
    /// Requests, at most.
    #[arg(long, value_name = "N")]
    requests: Option<u32>,
    /// Prompt tokens: one number, or MEDIAN:SPREAD, or MEDIAN:SPREAD:MIN:MAX (log-normal).
    #[arg(long, value_name = "LENGTHS", conflicts_with = "trace")]
    prompt_tokens: Option<Lengths>,
    /// Output tokens, written as --prompt-tokens.
    #[arg(long, value_name = "LENGTHS", conflicts_with = "trace")]
    output_tokens: Option<Lengths>,
    /// From so many seconds on, prompts are as long as the answers were and answers as long as the prompts.
    #[arg(long, value_name = "S", allow_negative_numbers = true, conflicts_with = "trace")]
    flip_at: Option<f64>,
    /// Replay a trace (Azure LLM CSV, Mooncake JSONL or dualpool JSONL) in place of the scenario's traffic.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Gaps between the trace's requests are divided by this.
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, requires = "trace")]
    replay_speed: Option<f64>,
    /// Requests of the trace that are replayed, at most.
    #[arg(long, value_name = "N", requires = "trace", conflicts_with = "requests")]
    limit: Option<u32>,
}

/// How far from the median lengths are drawn when no bounds are given.
const BOUND: u32 = 16;

/// Lengths as a flag says them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Lengths(LengthsSpec);

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Lengths, String> {
        let unreadable =
            || "expected a number of tokens, MEDIAN:SPREAD or MEDIAN:SPREAD:MIN:MAX, such as 1000:0.8:16:8000".to_string();
        let tokens = |text: &str| text.parse::<u32>().map_err(|_| unreadable());
        let spread = |text: &str| text.parse::<f64>().map_err(|_| unreadable());
        let spec = match text.split(':').collect::<Vec<_>>()[..] {
            [median] => LengthsSpec::exactly(tokens(median)?),
            [median, spread_] => {
                let median = tokens(median)?;
                LengthsSpec { median, spread: spread(spread_)?, min: (median / BOUND).max(1), max: median.saturating_mul(BOUND) }
            }
            [median, spread_, min, max] => {
                LengthsSpec { median: tokens(median)?, spread: spread(spread_)?, min: tokens(min)?, max: tokens(max)? }
            }
            _ => return Err(unreadable()),
        };
        Ok(Lengths(spec))
    }
}

impl TrafficFlags {
    /// Changes the scenario's traffic.
    pub(super) fn apply(&self, scenario: &mut Scenario) -> Result<(), ScenarioError> {
        let traffic = &mut scenario.traffic;
        traffic.requests = self.requests.unwrap_or(traffic.requests);
        // A length of the whole traffic leaves no phases that differ in it.
        if self.prompt_tokens.is_some() || self.output_tokens.is_some() {
            traffic.phases.truncate(1);
        }
        for phase in &mut traffic.phases {
            let lasts_s = if self.prompt_tokens.is_some() || self.output_tokens.is_some() { None } else { phase.lasts_s };
            let prompt = self.prompt_tokens.map_or(phase.prompt, |Lengths(spec)| spec);
            let output = self.output_tokens.map_or(phase.output, |Lengths(spec)| spec);
            let long_share = if self.prompt_tokens.is_some() { 0.0 } else { phase.long_share };
            *phase = PhaseSpec {
                lasts_s,
                prompt,
                output,
                long_share,
                rate: self.arrival_rate.unwrap_or(phase.rate),
                burst_factor: self.burst_factor.unwrap_or(phase.burst_factor),
                burst_s: self.burst_s.or(phase.burst_s.filter(|_| self.burst_factor.is_none())),
                ..*phase
            };
        }
        self.flip(scenario)
    }

    fn flip(&self, scenario: &mut Scenario) -> Result<(), ScenarioError> {
        let Some(at) = self.flip_at else { return Ok(()) };
        let phases = &mut scenario.traffic.phases;
        let refuse = |expected: &str| {
            let (scenario, key, expected) = (scenario.name.clone(), "--flip-at".to_string(), expected.to_string());
            Err(ScenarioError::Value { scenario, key, value: at.to_string(), expected })
        };
        let [phase] = phases[..] else { return refuse("left out where the scenario's traffic has phases of its own") };
        if !(at.is_finite() && at > 0.0) {
            return refuse("seconds, over 0");
        }
        *phases = vec![PhaseSpec { lasts_s: Some(at), ..phase }, PhaseSpec { lasts_s: None, ..phase.flipped() }];
        Ok(())
    }

    /// Where the requests come from.
    pub(super) fn source(&self, scenario: &Scenario) -> Result<Source, Failure> {
        let limit = self.limit.or(self.requests);
        let source = match &self.trace {
            Some(file) => Source::Trace { file: file.clone(), speed: self.replay_speed.unwrap_or(1.0), limit },
            None => Source::Made,
        };
        // Before any output is opened: what cannot be opened leaves nothing behind.
        source.open(scenario, 0)?;
        Ok(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_one_number_or_a_distribution() {
        let spec = |median, spread, min, max| Ok(Lengths(LengthsSpec { median, spread, min, max }));
        assert_eq!("512".parse(), spec(512, 0.0, 512, 512));
        assert_eq!("512:0.5".parse(), spec(512, 0.5, 32, 8192));
        assert_eq!("512:0.5:8:900".parse(), spec(512, 0.5, 8, 900));
        for bad in ["", "many", "512:", "512:0.5:8", "1:2:3:4:5", "-4"] {
            assert!(bad.parse::<Lengths>().unwrap_err().contains("such as 1000:0.8:16:8000"), "{bad}");
        }
    }
}
