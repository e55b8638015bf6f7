//! The mixes: what a repetition holds, by name.

use std::ops::RangeInclusive;

use crate::{Mix, WorkloadSettings};

/// Where `long_context` stops making long prompts longer: what a default engine's context holds beside an answer.
const LONG_CONTEXT_TOKENS_MAX: u32 = 4096;

/// A mix that stays what it is, with its numbers filled in. Each is sized so that one repetition at 70 % load takes about 12 to 18 seconds
/// on two one-core CPU engines serving a 135M-parameter model; the count settings scale all of them alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub mix: Mix,
    pub longs: u32,
    pub shorts: u32,
    /// Prompt lengths of the long requests, drawn uniformly.
    pub long_tokens: RangeInclusive<u32>,
    pub short_tokens: u32,
    pub max_tokens: u32,
    /// Long prompts that arrive at the same moment.
    pub clump: u32,
}

impl Shape {
    /// What a repetition consists of, one after the other.
    pub(crate) fn of(settings: &WorkloadSettings) -> Vec<Shape> {
        match settings.mix {
            Mix::Balanced => vec![Shape::balanced(settings)],
            Mix::DecodeHeavy => vec![Shape::decode_heavy(settings)],
            Mix::LongContext => vec![Shape::long_context(settings)],
            Mix::Burst => vec![Shape::burst(settings)],
            Mix::Changing => vec![Shape::balanced(settings), Shape::long_context(settings), Shape::decode_heavy(settings)],
        }
    }

    fn balanced(settings: &WorkloadSettings) -> Shape {
        let long = settings.long_prompt_tokens;
        Shape {
            mix: Mix::Balanced,
            longs: settings.prefill_burst,
            shorts: settings.decode_requests.saturating_add(settings.continue_requests),
            long_tokens: long..=long,
            short_tokens: settings.short_prompt_tokens,
            max_tokens: settings.max_tokens,
            clump: 1,
        }
    }

    fn decode_heavy(settings: &WorkloadSettings) -> Shape {
        let balanced = Shape::balanced(settings);
        Shape {
            mix: Mix::DecodeHeavy,
            longs: share(balanced.longs, 1.0 / 3.0),
            shorts: share(balanced.shorts, 5.0 / 8.0),
            max_tokens: balanced.max_tokens.saturating_mul(4),
            ..balanced
        }
    }

    fn long_context(settings: &WorkloadSettings) -> Shape {
        let (long, balanced) = (settings.long_prompt_tokens, Shape::balanced(settings));
        let longest = long.saturating_mul(4).min(long.max(LONG_CONTEXT_TOKENS_MAX));
        Shape {
            mix: Mix::LongContext,
            longs: share(balanced.longs, 1.0 / 3.0),
            shorts: share(balanced.shorts, 3.0 / 4.0),
            long_tokens: long.saturating_mul(2).min(longest)..=longest,
            ..balanced
        }
    }

    fn burst(settings: &WorkloadSettings) -> Shape {
        let balanced = Shape::balanced(settings);
        Shape { mix: Mix::Burst, clump: share(balanced.longs, 1.0 / 3.0).max(2), ..balanced }
    }

    pub(crate) fn scaled(&self, factor: f64) -> Shape {
        // A burst with smaller clumps would be another, milder mix: at least one whole clump stays.
        let longs = share(self.longs, factor).max(self.clump.min(self.longs));
        Shape { longs, shorts: share(self.shorts, factor), ..self.clone() }
    }

    pub(crate) fn requests(&self) -> usize {
        self.longs as usize + self.shorts as usize
    }
}

/// The mix by the name users give it.
pub fn mix_name(mix: Mix) -> &'static str {
    match mix {
        Mix::Balanced => "balanced",
        Mix::DecodeHeavy => "decode_heavy",
        Mix::LongContext => "long_context",
        Mix::Burst => "burst",
        Mix::Changing => "changing",
    }
}

/// A share of a count, rounded; at least 1 of anything there is.
fn share(count: u32, factor: f64) -> u32 {
    if count == 0 { 0 } else { ((f64::from(count) * factor).round() as u32).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> WorkloadSettings {
        WorkloadSettings::default()
    }

    #[test]
    fn counts_scale_and_never_vanish() {
        let half = Shape::balanced(&settings()).scaled(0.5);
        assert_eq!((half.longs, half.shorts), (6, 48));
        let crumb = Shape::balanced(&settings()).scaled(0.001);
        assert_eq!((crumb.longs, crumb.shorts), (1, 1));
        let chats = WorkloadSettings { prefill_burst: 0, ..settings() };
        assert_eq!(Shape::balanced(&chats).scaled(0.5).longs, 0);
    }

    #[test]
    fn a_smaller_burst_keeps_its_clumps_whole() {
        for factor in [0.12, 0.25, 0.5] {
            let burst = Shape::burst(&settings()).scaled(factor);
            assert_eq!(burst.clump, 4);
            assert!(burst.longs >= 4, "{burst:?}");
        }
    }

    #[test]
    fn long_context_stretches_prompts_only_as_far_as_a_context_holds() {
        let lengths = |long_prompt_tokens| Shape::long_context(&WorkloadSettings { long_prompt_tokens, ..settings() }).long_tokens;
        assert_eq!([512, 1024, 2048].map(lengths), [1024..=2048, 2048..=4096, 4096..=4096]);
        assert_eq!([4096, 9000].map(lengths), [4096..=4096, 9000..=9000]);
    }

    #[test]
    fn decode_heavy_makes_four_times_the_output() {
        let shape = Shape::decode_heavy(&settings());
        assert_eq!((shape.longs, shape.shorts, shape.max_tokens), (4, 60, 128));
    }

    #[test]
    fn what_changes_consists_of_mixes_that_stay() {
        let changing = Shape::of(&WorkloadSettings { mix: Mix::Changing, ..settings() });
        let alone = [Mix::Balanced, Mix::LongContext, Mix::DecodeHeavy]
            .map(|mix| Shape::of(&WorkloadSettings { mix, ..settings() }))
            .concat();
        assert_eq!(changing, alone);
    }
}
