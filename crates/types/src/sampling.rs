//! How an engine picks a token, and whether it could go on doing so on another engine.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How the next token is picked from what the model says (vLLM's names and meanings). The default is greedy. Guided decoding is not
/// among them: an engine runs without the model's tokenizer, which it needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Over 0, at most 1, which considers all tokens.
    pub top_p: f32,
    /// 0 considers all tokens.
    pub top_k: u32,
    pub seed: Option<u64>,
    /// -2 to 2 each; 0 for none.
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// Over 0; 1 for none.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

/// What of a sampling does not survive a change of engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Stays {
    #[error("its seed's random numbers would begin anew on another engine")]
    Seed,
    #[error("its presence or frequency penalty counts output tokens, which another engine would take for a prompt")]
    Penalty,
}

/// Seeds over this do not fit the engines' generators.
const SEED_MAX: u64 = i64::MAX as u64;

impl Sampling {
    /// Whether an answer can be continued on another engine, whose prompt is the prompt and all tokens so far, as if it had not moved.
    ///
    /// Greedy picks depend on the tokens before them alone, and so do `top_p`, `top_k` and the repetition penalty, which counts prompt
    /// and output alike. Without a seed it does not matter which random numbers were to come.
    pub fn continues(&self) -> Result<(), Stays> {
        if self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 {
            return Err(Stays::Penalty);
        }
        if self.seed.is_some() && self.temperature > 0.0 {
            return Err(Stays::Seed);
        }
        Ok(())
    }

    /// What no engine would take: the parameter, and what it may be.
    pub fn wrong(&self) -> Option<&'static str> {
        let within = |value: f32, low: f32, high: f32| (low..=high).contains(&value);
        let rules = [
            (within(self.temperature, 0.0, 2.0), "`temperature` must be from 0 to 2"),
            (self.top_p > 0.0 && self.top_p <= 1.0, "`top_p` must be over 0 and at most 1"),
            (self.seed.is_none_or(|seed| seed <= SEED_MAX), "`seed` must be below 2^63"),
            (within(self.presence_penalty, -2.0, 2.0), "`presence_penalty` must be from -2 to 2"),
            (within(self.frequency_penalty, -2.0, 2.0), "`frequency_penalty` must be from -2 to 2"),
            (within(self.repetition_penalty, f32::MIN_POSITIVE, f32::MAX), "`repetition_penalty` must be a number over 0"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map(|(_, rule)| rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_engine_keeps_to_itself_ties_a_request_to_it() {
        let greedy = Sampling::default();
        let warm = Sampling { temperature: 0.8, top_p: 0.9, top_k: 40, repetition_penalty: 1.2, ..greedy };
        assert_eq!((greedy.continues(), warm.continues()), (Ok(()), Ok(())));
        assert_eq!(Sampling { seed: Some(7), ..warm }.continues(), Err(Stays::Seed));
        assert_eq!(Sampling { seed: Some(7), ..greedy }.continues(), Ok(()), "a greedy pick draws nothing");
        for penalised in [Sampling { presence_penalty: 0.5, ..greedy }, Sampling { frequency_penalty: -1.0, ..greedy }] {
            assert_eq!(penalised.continues(), Err(Stays::Penalty));
        }
    }

    #[test]
    fn impossible_parameters_are_named() {
        let greedy = Sampling::default();
        assert_eq!(greedy.wrong(), None);
        for (wrong, name) in [
            (Sampling { temperature: f32::NAN, ..greedy }, "temperature"),
            (Sampling { top_p: 0.0, ..greedy }, "top_p"),
            (Sampling { seed: Some(u64::MAX), ..greedy }, "seed"),
            (Sampling { presence_penalty: 3.0, ..greedy }, "presence_penalty"),
            (Sampling { frequency_penalty: f32::NEG_INFINITY, ..greedy }, "frequency_penalty"),
            (Sampling { repetition_penalty: 0.0, ..greedy }, "repetition_penalty"),
        ] {
            assert!(wrong.wrong().is_some_and(|rule| rule.contains(name)), "{name}");
        }
    }
}
