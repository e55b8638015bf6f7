//! What an arrangement is, for a reader who knows how LLMs are served and nothing of this project.

use crate::{Arrangement, PolicyKind, Role, Tuning};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// A few words that fit beside figures.
    pub brief: String,
    /// Half a sentence.
    pub full: String,
}

impl Arrangement {
    /// What it is, in the field's words.
    pub fn describe(&self) -> Description {
        let tuned = self.tunings.iter().any(|tuning| *tuning != Tuning::default());
        let (brief, full) = self.words();
        let (brief, full) = if self.policy.needs_pools() || self.policy == PolicyKind::Auto {
            (brief.to_string(), full.to_string())
        } else if self.roles.contains(&Role::Prefill) {
            (format!("two pools, {brief}"), format!("there is a prefill and a decode pool, {full}"))
        } else {
            let brief = if tuned { "tuned" } else { brief };
            (format!("all prefill+decode, {brief}"), format!("every engine prefills and decodes, {full}"))
        };
        Description { brief, full: if tuned { format!("{full}, chunk size tuned") } else { full } }
    }

    /// What its policy does. Of one that knows no pools it is the second half only: how it chooses among engines that all do the same.
    fn words(&self) -> (&'static str, &'static str) {
        match self.policy {
            PolicyKind::RoundRobin => ("in turn", "requests in turn"),
            PolicyKind::LeastLoad => ("by load", "requests to the least loaded"),
            PolicyKind::PowerOfTwo => ("of two", "requests to the less loaded of two"),
            PolicyKind::CacheAware => ("by KV", "requests to where their prompt is cached"),
            PolicyKind::Score => ("scored", "requests to the best weighted score"),
            PolicyKind::PredictedLatency => ("by time", "requests to the least predicted time"),
            PolicyKind::Balanced => ("evenly", "long prompts spread evenly"),
            // Every prompt counts as short.
            PolicyKind::Dedicated if self.long_prompt_tokens_min == u32::MAX => {
                ("requests stay on decode engines", "decode engines serve every request from its prompt to its end")
            }
            PolicyKind::Dedicated => {
                ("long prompts apart, no KV moves", "long prompts have engines of their own, and KV never moves")
            }
            PolicyKind::FullDisaggregation => {
                ("all prompts: 2 pools, KV moves", "every prompt prefills in one pool and decodes in the other")
            }
            PolicyKind::DualPool => {
                ("long prompts: 2 pools, KV moves", "long prompts prefill in one pool and decode in the other, short ones stay")
            }
            PolicyKind::Auto => ("changes arrangement as it serves", "the arrangement changes while it serves, by forecast"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineId;

    const UNTUNED: Tuning = Tuning { max_num_batched_tokens: None, long_prefill_token_threshold: None };

    #[test]
    fn each_policy_is_described_in_words_that_fit_beside_figures() {
        let mut descriptions = Vec::new();
        for policy in PolicyKind::ALL {
            let Description { brief, full } = Arrangement::shared(policy.name(), policy, 2, UNTUNED).describe();
            assert!(brief.chars().count() <= 32, "`{brief}` is too long");
            assert!(!descriptions.contains(&full), "`{full}` stands for two policies");
            descriptions.push(full);
        }
    }

    #[test]
    fn pools_and_tuned_chunks_are_in_the_words() {
        let tuning = Tuning { max_num_batched_tokens: Some(128), ..UNTUNED };
        let tuned = Arrangement::shared("shared_tuned", PolicyKind::RoundRobin, 2, tuning).describe();
        assert_eq!(tuned.full, "every engine prefills and decodes, requests in turn, chunk size tuned");
        assert_eq!(tuned.brief, "all prefill+decode, tuned");
        let ids = [EngineId(0), EngineId(1)];
        let pools =
            Arrangement::pools("split", PolicyKind::Score, &ids[..1], &ids[1..], 2, UNTUNED, UNTUNED, 256).unwrap().describe();
        assert_eq!(pools.brief, "two pools, scored");
    }
}
