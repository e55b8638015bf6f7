//! `mixed`: chats and long prompts of all lengths, arriving whenever they like. What a fleet sees on an ordinary day.

use rand::Rng as _;

use dualpool_types::{Class, seeded};

use super::item::{ModelLimits, WorkItem};
use super::lengths::Lengths;
use super::parameter::{ParameterError, countable, fits, within};
use super::process::ArrivalProcess;
use super::tokens::{Text, Writer};

/// The requests of `mixed`. By default they fit the default context, and keep two one-core CPU engines busy with a 135M-parameter
/// model.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    pub requests: u32,
    /// Requests per second, on average.
    pub rate: f64,
    pub arrivals: ArrivalProcess,
    /// The share of requests with a long prompt.
    pub long_share: f64,
    pub chat_prompt: Lengths,
    pub chat_output: Lengths,
    pub long_prompt: Lengths,
    pub long_output: Lengths,
}

impl Default for Mixed {
    fn default() -> Self {
        Mixed {
            requests: 120,
            rate: 6.0,
            arrivals: ArrivalProcess::Poisson,
            long_share: 0.12,
            chat_prompt: Lengths { median: 64, spread: 0.6, min: 16, max: 240 },
            chat_output: Lengths { median: 32, spread: 0.6, min: 4, max: 128 },
            long_prompt: Lengths { median: 1024, spread: 0.4, min: 384, max: 3072 },
            long_output: Lengths { median: 32, spread: 0.6, min: 4, max: 128 },
        }
    }
}

impl Mixed {
    /// The requests, in order of arrival, made one by one: memory does not grow with their number.
    pub fn items(&self, model: ModelLimits, seed: u64) -> Result<impl Iterator<Item = WorkItem> + use<>, ParameterError> {
        self.check(model)?;
        let (mixed, writer) = (self.clone(), Writer::new(model.vocab_size, seed));
        let (mut kinds, mut lengths) = (seeded(seed, "kinds"), seeded(seed, "lengths"));
        let mut scratch = Vec::new();
        let arrivals = self.arrivals.times(self.rate, seeded(seed, "arrivals"));
        Ok((0..self.requests).zip(arrivals).map(move |(index, at)| {
            let long = kinds.random_bool(mixed.long_share);
            let (class, prompt, output) = if long {
                (Class::Long, mixed.long_prompt, mixed.long_output)
            } else {
                (Class::Short, mixed.chat_prompt, mixed.chat_output)
            };
            scratch.clear();
            writer.append(&mut scratch, Text::Request(index.into()), prompt.draw(&mut lengths) as usize);
            WorkItem::new(index, at, scratch[..].into(), output.draw(&mut lengths), class)
        }))
    }

    fn check(&self, model: ModelLimits) -> Result<(), ParameterError> {
        model.check()?;
        countable("requests", self.requests.into())?;
        self.arrivals.check(self.rate)?;
        within("long_share", self.long_share, 0.0..=1.0, "from 0 to 1")?;
        self.chat_prompt.check("chat_prompt")?;
        self.chat_output.check("chat_output")?;
        self.long_prompt.check("long_prompt")?;
        self.long_output.check("long_output")?;
        let longest = |prompt: Lengths, output: Lengths| u64::from(prompt.max) + u64::from(output.max);
        fits("chat_prompt.max + chat_output.max", longest(self.chat_prompt, self.chat_output), model.max_model_len)?;
        fits("long_prompt.max + long_output.max", longest(self.long_prompt, self.long_output), model.max_model_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ModelLimits = ModelLimits { vocab_size: 49_152, max_model_len: 4608 };

    #[test]
    fn chats_and_long_prompts_come_in_all_lengths() {
        let mixed = Mixed { requests: 2000, ..Mixed::default() };
        let items: Vec<WorkItem> = mixed.items(MODEL, 1).unwrap().collect();
        assert_eq!(items.len(), 2000);
        assert!(items.iter().enumerate().all(|(i, item)| item.index == i as u32) && items.is_sorted_by_key(|item| item.at));
        let longs = items.iter().filter(|item| item.class == Class::Long).count();
        assert!((180..300).contains(&longs), "{longs} of 2000 are long");
        for (class, prompt) in [(Class::Short, mixed.chat_prompt), (Class::Long, mixed.long_prompt)] {
            let mut lengths: Vec<u32> =
                items.iter().filter(|item| item.class == class).map(|item| item.prompt.len() as u32).collect();
            assert!(lengths.iter().all(|n| (prompt.min..=prompt.max).contains(n)));
            lengths.sort();
            lengths.dedup();
            assert!(lengths.len() > 80, "only {} lengths of {class:?}", lengths.len());
        }
    }

    #[test]
    fn prompts_share_nothing() {
        let items: Vec<WorkItem> = Mixed::default().items(MODEL, 1).unwrap().collect();
        let mut beginnings: Vec<&[u32]> = items.iter().map(|item| &item.prompt[..8]).collect();
        beginnings.sort();
        beginnings.dedup();
        assert_eq!(beginnings.len(), items.len());
    }

    #[test]
    fn what_the_context_does_not_hold_is_refused() {
        let error = |mixed: Mixed| mixed.items(ModelLimits { max_model_len: 2048, ..MODEL }, 1).err().unwrap();
        let message = error(Mixed::default()).to_string();
        assert_eq!(
            message,
            "long_prompt.max + long_output.max is 3200; it must be at most 2048 tokens, which is what the model's context holds; \
             make it shorter"
        );
        assert_eq!(error(Mixed { long_share: 1.5, ..Mixed::default() }).key, "long_share");
        assert_eq!(error(Mixed { rate: 0.0, ..Mixed::default() }).key, "rate");
        assert_eq!(error(Mixed { requests: 0, ..Mixed::default() }).key, "requests");
    }
}
