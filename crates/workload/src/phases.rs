//! Traffic that changes its mix: one `mixed` after another, each for its span of time. What a fleet sees when the day turns into the
//! night's batch jobs, and what a fixed split between prefill and decode engines cannot be right for throughout.

use dualpool_types::Micros;

use super::item::{ModelLimits, WorkItem};
use super::mixed::Mixed;
use super::parameter::{ParameterError, countable, require};

/// Traffic of one kind, for a span of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// None: until the requests run out. Only the last phase may leave it open.
    pub lasts: Option<Micros>,
    /// Its `requests` are not used: the phases share the number that `Phases` has.
    pub mixed: Mixed,
}

/// Phases in their order. The requests end with the last phase, or when there have been as many as asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Phases {
    pub requests: u32,
    pub phases: Vec<Phase>,
}

impl Phases {
    /// The requests, in order of arrival, made one by one: memory does not grow with their number.
    pub fn items(&self, model: ModelLimits, seed: u64) -> Result<impl Iterator<Item = WorkItem> + use<>, ParameterError> {
        countable("requests", self.requests.into())?;
        require("phases", self.phases.len(), !self.phases.is_empty(), "at least 1")?;
        let (mut start, mut traffic) = (Micros::ZERO, Vec::with_capacity(self.phases.len()));
        for (i, phase) in self.phases.iter().enumerate() {
            let open = phase.lasts.is_none() && i + 1 < self.phases.len();
            require("lasts_s", "open", !open, format!("a time for phase {}: only the last phase may go on without an end", i + 1))?;
            let mixed = Mixed { requests: self.requests, ..phase.mixed.clone() };
            // Another seed for each, or a phase would say again what the one before it said.
            let items = mixed.items(model, seed.wrapping_add((i as u64).wrapping_mul(PHASE_SEEDS)))?;
            let (from, lasts) = (start, phase.lasts.unwrap_or(Micros(u64::MAX)));
            traffic.push(items.take_while(move |item| item.at < lasts).map(move |item| (from + item.at, item)));
            start += phase.lasts.unwrap_or_default();
        }
        let numbered = |(index, (at, item))| WorkItem { index, at, ..item };
        Ok((0..self.requests).zip(traffic.into_iter().flatten()).map(numbered))
    }
}

/// What lies between the seeds of two phases: odd and large, so that neighbouring seeds of users do not share phases.
const PHASE_SEEDS: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lengths;

    const MODEL: ModelLimits = ModelLimits { vocab_size: 49_152, max_model_len: 4608 };

    fn exactly(tokens: u32) -> Lengths {
        Lengths { median: tokens, spread: 0.0, min: tokens, max: tokens }
    }

    fn phase(lasts: Option<Micros>, prompt: u32, output: u32) -> Phase {
        let mixed =
            Mixed { rate: 10.0, long_share: 0.0, chat_prompt: exactly(prompt), chat_output: exactly(output), ..Mixed::default() };
        Phase { lasts, mixed }
    }

    #[test]
    fn each_phase_has_its_time_and_the_last_one_the_rest() {
        let phases = Phases { requests: 400, phases: vec![phase(Some(Micros(20_000_000)), 500, 8), phase(None, 50, 80)] };
        let items: Vec<WorkItem> = phases.items(MODEL, 3).unwrap().collect();
        assert_eq!(items.len(), 400);
        assert!(items.is_sorted_by_key(|item| item.at) && items.iter().enumerate().all(|(i, item)| item.index == i as u32));
        for item in &items {
            let expected = if item.at < Micros(20_000_000) { (500, 8) } else { (50, 80) };
            assert_eq!((item.prompt.len(), item.max_tokens), expected, "at {}", item.at);
        }
        let first = items.iter().filter(|item| item.prompt.len() == 500).count();
        assert!((150..250).contains(&first), "{first} of about 200 are of the first phase");
        assert_eq!(items, phases.items(MODEL, 3).unwrap().collect::<Vec<_>>());
    }

    #[test]
    fn a_phase_says_nothing_that_another_one_said() {
        let phases = Phases { requests: 100, phases: vec![phase(Some(Micros(5_000_000)), 50, 8), phase(None, 50, 8)] };
        let mut beginnings: Vec<Vec<u32>> = phases.items(MODEL, 3).unwrap().map(|item| item.prompt[..8].to_vec()).collect();
        beginnings.sort();
        beginnings.dedup();
        assert_eq!(beginnings.len(), 100);
    }

    #[test]
    fn only_the_last_phase_may_be_open() {
        let error = |phases| Phases { requests: 9, phases }.items(MODEL, 1).err().unwrap().to_string();
        let said = error(vec![phase(None, 50, 8), phase(None, 50, 8)]);
        assert_eq!(said, "lasts_s is open; it must be a time for phase 1: only the last phase may go on without an end");
        assert!(error(vec![]).starts_with("phases is 0"));
    }
}
