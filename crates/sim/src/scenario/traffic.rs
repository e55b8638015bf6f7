//! What a scenario is asked to serve, unless a trace says it.

use serde::{Deserialize, Serialize};

use dualpool_types::Micros;
use dualpool_workload::{ArrivalProcess, Lengths, Mixed, ParameterError, Phase, Phases, WorkItem};

use super::error::require;
use super::{Scenario, ScenarioError};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficSpec {
    pub requests: u32,
    /// One after the other.
    pub phases: Vec<PhaseSpec>,
}

/// Traffic of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseSpec {
    /// Seconds; the last phase may leave it out, and then ends with the requests.
    #[serde(default)]
    pub lasts_s: Option<f64>,
    /// Requests per second on average.
    pub rate: f64,
    /// Variance of the gap between two arrivals over its squared mean; 1 is Poisson. With `burst_s`: the rate within a burst over the
    /// mean rate.
    #[serde(default = "poisson")]
    pub burst_factor: f64,
    /// Seconds that a burst lasts on average, with nothing between two; left out, bursts are a matter of single gaps.
    #[serde(default)]
    pub burst_s: Option<f64>,
    pub prompt: LengthsSpec,
    pub output: LengthsSpec,
    /// The share of requests whose prompt is of `long_prompt` and counts as long.
    #[serde(default)]
    pub long_share: f64,
    #[serde(default)]
    pub long_prompt: Option<LengthsSpec>,
}

fn poisson() -> f64 {
    1.0
}

/// Log-normal lengths in tokens, as `workload::Lengths`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthsSpec {
    pub median: u32,
    #[serde(default)]
    pub spread: f64,
    pub min: u32,
    pub max: u32,
}

impl LengthsSpec {
    pub fn exactly(tokens: u32) -> LengthsSpec {
        LengthsSpec { median: tokens, spread: 0.0, min: tokens, max: tokens }
    }

    fn words(&self) -> String {
        if self.spread == 0.0 { self.median.to_string() } else { format!("about {}", self.median) }
    }
}

impl From<LengthsSpec> for Lengths {
    fn from(LengthsSpec { median, spread, min, max }: LengthsSpec) -> Lengths {
        Lengths { median, spread, min, max }
    }
}

impl TrafficSpec {
    pub(super) fn check(&self, scenario: &Scenario) -> Result<(), ScenarioError> {
        require(scenario, "traffic.phases", self.phases.len(), !self.phases.is_empty(), "at least one [[traffic.phases]]")?;
        for phase in &self.phases {
            let seconds = [("lasts_s", phase.lasts_s), ("burst_s", phase.burst_s)];
            for (key, value) in seconds.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                let key = format!("traffic.phases.{key}");
                require(scenario, &key, value, value.is_finite() && value > 0.0, "seconds, over 0; or leave it out")?;
            }
            let (share, given) = (phase.long_share, phase.long_prompt.is_some());
            let expected = "0 where there is no long_prompt";
            require(scenario, "traffic.phases.long_share", share, share == 0.0 || given, expected)?;
        }
        Ok(())
    }

    /// The requests, in order of arrival, made one by one.
    pub fn items(&self, scenario: &Scenario, seed: u64) -> Result<impl Iterator<Item = WorkItem> + use<>, ScenarioError> {
        self.phases().items(scenario.limits(), seed).map_err(|ParameterError { key, value, expected }| ScenarioError::Value {
            scenario: scenario.name.clone(),
            // A scenario without kinds of requests has no chats to speak of.
            key: format!("traffic: {}", key.replace("chat_", "")),
            value,
            expected,
        })
    }

    /// The traffic in words.
    pub fn words(&self) -> String {
        let phases: Vec<String> = self.phases.iter().map(PhaseSpec::words).collect();
        format!("{} requests: {}", self.requests, phases.join(", then "))
    }

    fn phases(&self) -> Phases {
        Phases { requests: self.requests, phases: self.phases.iter().map(PhaseSpec::phase).collect() }
    }
}

impl PhaseSpec {
    fn phase(&self) -> Phase {
        let arrivals = match self.burst_s {
            Some(on) => ArrivalProcess::OnOff { burst_factor: self.burst_factor, on: Micros::from_secs(on) },
            None if self.burst_factor == 1.0 => ArrivalProcess::Poisson,
            None => ArrivalProcess::Gamma { burst_factor: self.burst_factor },
        };
        let mixed = Mixed {
            rate: self.rate,
            arrivals,
            long_share: self.long_share,
            chat_prompt: self.prompt.into(),
            chat_output: self.output.into(),
            long_prompt: self.long_prompt.unwrap_or(self.prompt).into(),
            long_output: self.output.into(),
            ..Mixed::default()
        };
        Phase { lasts: self.lasts_s.map(Micros::from_secs), mixed }
    }

    /// The traffic in few words.
    fn words(&self) -> String {
        let PhaseSpec { rate, prompt, output, burst_factor, .. } = self;
        let bursts = match self.burst_s {
            Some(on) => format!(" in bursts of {on} s at {burst_factor} times the rate"),
            None if *burst_factor == 1.0 => String::new(),
            None => format!(" with burst factor {burst_factor}"),
        };
        let longs = self.long_prompt.filter(|_| self.long_share > 0.0);
        let longs = longs.map_or(String::new(), |long| format!(", {} % of them {}", self.long_share * 100.0, long.words()));
        let lasts = self.lasts_s.map_or(String::new(), |lasts| format!(" for {lasts} s"));
        let rate = (rate * 1e3).round() / 1e3;
        format!("{rate} requests/s{bursts}, {} prompt tokens{longs}, {} output tokens{lasts}", prompt.words(), output.words())
    }

    /// The same with prompts as long as the answers were, and answers as long as the prompts: what was prefill-heavy is decode-heavy.
    pub fn flipped(&self) -> PhaseSpec {
        PhaseSpec { prompt: self.output, output: self.prompt, long_share: 0.0, long_prompt: None, ..*self }
    }
}
