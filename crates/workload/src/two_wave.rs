//! `two_wave_imbalance`: a trap for routers that count requests. First a background of long prompts and chats in an order that sends
//! all the long ones to one engine when requests are dealt out in turn; then, while that engine is still busy and the others have
//! long been idle, a foreground wave of chats. Dealt out in turn again, a share of the wave queues behind the long prompts; a router
//! that sees which engine is idle sends it there.
//!
//! All times are pinned: it is the seed's business what is said, and the workload's when.

use dualpool_types::{Class, Micros, Wave, seeded};

use super::item::{ModelLimits, WorkItem};
use super::lengths::Lengths;
use super::parameter::{ParameterError, countable, fits, require, within};
use super::tokens::{Text, Writer};

/// The requests of `two_wave_imbalance`. The default times suit two one-core CPU engines with a 135M-parameter model, on which a long
/// prompt takes about 0.7 s; `pace` fits them to other machines.
#[derive(Clone, Debug, PartialEq)]
pub struct TwoWave {
    /// How often the two waves come.
    pub rounds: u32,
    /// From the beginning of one round to that of the next.
    pub period: Micros,
    /// In the background, one request of so many is long, the first of them: as many as there are engines.
    pub engines: u32,
    /// Long prompts in the background of a round.
    pub longs: u32,
    /// Between two requests of the background.
    pub background_gap: Micros,
    /// From the beginning of a round to its first foreground request.
    pub foreground_after: Micros,
    /// Chats in the foreground of a round.
    pub foreground: u32,
    /// Between two requests of the foreground.
    pub foreground_gap: Micros,
    /// All times are multiplied by this: 0.1 is ten times as fast.
    pub pace: f64,
    pub long_prompt: Lengths,
    pub chat_prompt: Lengths,
    /// Of all requests.
    pub output: Lengths,
}

impl Default for TwoWave {
    fn default() -> Self {
        TwoWave {
            rounds: 4,
            period: Micros(6_000_000),
            engines: 2,
            longs: 4,
            background_gap: Micros(50_000),
            foreground_after: Micros(1_200_000),
            foreground: 16,
            foreground_gap: Micros(50_000),
            pace: 1.0,
            long_prompt: Lengths { median: 1024, spread: 0.2, min: 768, max: 1536 },
            chat_prompt: Lengths { median: 64, spread: 0.2, min: 32, max: 128 },
            output: Lengths { median: 16, spread: 0.0, min: 1, max: 64 },
        }
    }
}

impl TwoWave {
    /// The requests, in order of arrival, each with its wave.
    pub fn items(&self, model: ModelLimits, seed: u64) -> Result<impl Iterator<Item = WorkItem> + use<>, ParameterError> {
        self.check(model)?;
        let (waves, writer) = (self.clone(), Writer::new(model.vocab_size, seed));
        let mut lengths = seeded(seed, "lengths");
        let mut scratch = Vec::new();
        let planned = (0..self.rounds).flat_map({
            let waves = self.clone();
            move |round| waves.round(round)
        });
        Ok((0..).zip(planned).map(move |(index, (at, class, wave))| {
            let prompt = if class == Class::Long { waves.long_prompt } else { waves.chat_prompt };
            scratch.clear();
            writer.append(&mut scratch, Text::Request(index.into()), prompt.draw(&mut lengths) as usize);
            let item = WorkItem::new(index, at, scratch[..].into(), waves.output.draw(&mut lengths), class);
            WorkItem { wave: Some(wave), ..item }
        }))
    }

    fn round(&self, round: u32) -> impl Iterator<Item = (Micros, Class, Wave)> + use<> {
        let waves = self.clone();
        let background = (0..self.background()).map({
            let waves = waves.clone();
            move |i| {
                let class = if i % waves.engines == 0 { Class::Long } else { Class::Short };
                (waves.at(round, Micros::ZERO, waves.background_gap, i), class, Wave::Background)
            }
        });
        let foreground = (0..self.foreground)
            .map(move |i| (waves.at(round, waves.foreground_after, waves.foreground_gap, i), Class::Short, Wave::Foreground));
        background.chain(foreground)
    }

    fn background(&self) -> u32 {
        self.longs.saturating_mul(self.engines)
    }

    fn at(&self, round: u32, after: Micros, gap: Micros, i: u32) -> Micros {
        let us = after.0 as f64 + self.period.0 as f64 * f64::from(round) + gap.0 as f64 * f64::from(i);
        Micros((us * self.pace).round() as u64)
    }

    fn check(&self, model: ModelLimits) -> Result<(), ParameterError> {
        model.check()?;
        within("pace", self.pace, 1e-4..=1e4, "from 0.0001 to 10000")?;
        require("engines", self.engines, (2..=1024).contains(&self.engines), "from 2 to 1024: one engine has no other to be idle")?;
        require("longs", self.longs, (1..=10_000).contains(&self.longs), "from 1 to 10000")?;
        require("foreground", self.foreground, (1..=1_000_000).contains(&self.foreground), "from 1 to 1000000")?;
        let requests = u64::from(self.background()) + u64::from(self.foreground);
        countable("rounds * (longs * engines + foreground)", u64::from(self.rounds) * requests)?;
        let background_ends = self.background_gap.0.saturating_mul(u64::from(self.background() - 1));
        let after = format!("from {} on, when the background has arrived", Micros(background_ends));
        require("foreground_after", self.foreground_after, self.foreground_after.0 >= background_ends, after)?;
        let foreground_ends =
            self.foreground_after.0.saturating_add(self.foreground_gap.0.saturating_mul(u64::from(self.foreground - 1)));
        let after = format!("from {} on, when a round has arrived", Micros(foreground_ends));
        require("period", self.period, self.period.0 >= foreground_ends, after)?;
        self.long_prompt.check("long_prompt")?;
        self.chat_prompt.check("chat_prompt")?;
        self.output.check("output")?;
        let longest = u64::from(self.long_prompt.max.max(self.chat_prompt.max)) + u64::from(self.output.max);
        fits("the longest prompt.max + output.max", longest, model.max_model_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ModelLimits = ModelLimits { vocab_size: 49_152, max_model_len: 4608 };

    fn items(waves: &TwoWave, seed: u64) -> Vec<WorkItem> {
        waves.items(MODEL, seed).unwrap().collect()
    }

    #[test]
    fn every_round_is_a_background_and_then_a_foreground() {
        let waves = TwoWave::default();
        let items = items(&waves, 1);
        assert_eq!(items.len(), 4 * (8 + 16));
        assert!(items.iter().enumerate().all(|(i, item)| item.index == i as u32) && items.is_sorted_by_key(|item| item.at));
        for (round, items) in items.chunks(24).enumerate() {
            let start = round as u64 * waves.period.0;
            let (background, foreground) = items.split_at(8);
            assert!(background.iter().all(|item| item.wave == Some(Wave::Background)));
            assert!(foreground.iter().all(|item| (item.wave, item.class) == (Some(Wave::Foreground), Class::Short)));
            assert_eq!(background[0].at.0, start);
            assert_eq!(foreground[0].at.0, start + waves.foreground_after.0);
        }
    }

    /// What the trap consists of.
    #[test]
    fn dealt_out_in_turn_all_long_prompts_go_to_one_engine() {
        for engines in [2, 3, 8] {
            let waves = TwoWave { engines, longs: 3, ..TwoWave::default() };
            let longs: Vec<WorkItem> = items(&waves, 1).into_iter().filter(|item| item.class == Class::Long).collect();
            assert_eq!(longs.len(), 12);
            let round = waves.background() + waves.foreground;
            assert!(longs.iter().all(|item| (item.index % round).is_multiple_of(engines)), "{engines} engines");
        }
    }

    #[test]
    fn seeds_change_what_is_said_and_never_when() {
        let (first, second) = (items(&TwoWave::default(), 1), items(&TwoWave::default(), 2));
        assert!(first.iter().zip(&second).all(|(a, b)| a.at == b.at && a.class == b.class && a.prompt != b.prompt));
    }

    #[test]
    fn a_pace_stretches_all_times_alike() {
        let slow = TwoWave { pace: 2.5, ..TwoWave::default() };
        for (item, slow) in items(&TwoWave::default(), 1).iter().zip(items(&slow, 1)) {
            assert_eq!(slow.at.0, item.at.0 * 5 / 2);
            assert_eq!(slow.prompt, item.prompt);
        }
    }

    #[test]
    fn waves_that_overlap_are_refused() {
        let key = |waves: TwoWave| waves.items(MODEL, 1).err().unwrap().key;
        assert_eq!(key(TwoWave { foreground_after: Micros(100_000), ..TwoWave::default() }), "foreground_after");
        assert_eq!(key(TwoWave { period: Micros(1_300_000), ..TwoWave::default() }), "period");
        assert_eq!(key(TwoWave { engines: 1, ..TwoWave::default() }), "engines");
        assert_eq!(key(TwoWave { rounds: 0, ..TwoWave::default() }), "rounds * (longs * engines + foreground)");
        assert_eq!(key(TwoWave { longs: 0, ..TwoWave::default() }), "longs");
        assert_eq!(key(TwoWave { pace: f64::NAN, ..TwoWave::default() }), "pace");
        let short = ModelLimits { max_model_len: 1024, ..MODEL };
        assert_eq!(TwoWave::default().items(short, 1).err().unwrap().key, "the longest prompt.max + output.max");
    }
}
