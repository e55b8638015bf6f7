//! Refuses workloads whose prompts are over the engines' context. What concerns a setting alone is `config`'s to refuse; how long a
//! prompt can get depends on the mix, which is known here.

use thiserror::Error;

use dualpool_types::UserError;

use super::mix::{Shape, mix_name};
use crate::WorkloadSettings;

/// The setting, its value, and the mend.
#[derive(Clone, Debug, Error, PartialEq)]
#[error(
    "workload.{key} is {value}: with `{mix}` a prompt has up to {prompt_tokens} tokens, plus {max_tokens} of output, which is over \
     engine.max_model_len {max_model_len}; shorten it, or raise engine.max_model_len to {needed} if the model allows that"
)]
pub struct WorkloadError {
    key: &'static str,
    value: u32,
    mix: &'static str,
    prompt_tokens: u32,
    max_tokens: u32,
    max_model_len: u32,
    needed: u64,
}

impl UserError for WorkloadError {
    fn hint(&self) -> &'static str {
        "`dualpool config` shows every setting and where it came from"
    }
}

/// Checks the settings against the longest prompt + output that the engines take.
pub fn check(settings: &WorkloadSettings, max_model_len: u32) -> Result<(), WorkloadError> {
    Shape::of(settings).iter().try_for_each(|shape| check_shape(shape, settings, max_model_len))
}

fn check_shape(shape: &Shape, settings: &WorkloadSettings, max_model_len: u32) -> Result<(), WorkloadError> {
    let longest_long = if shape.longs > 0 { *shape.long_tokens.end() } else { 0 };
    let longest_short = if shape.shorts > 0 { shape.short_tokens } else { 0 };
    let (key, value) = if longest_long >= longest_short {
        ("long_prompt_tokens", settings.long_prompt_tokens)
    } else {
        ("short_prompt_tokens", settings.short_prompt_tokens)
    };
    let prompt_tokens = longest_long.max(longest_short);
    let needed = u64::from(prompt_tokens) + u64::from(shape.max_tokens);
    if needed > u64::from(max_model_len) {
        let (mix, max_tokens) = (mix_name(shape.mix), shape.max_tokens);
        return Err(WorkloadError { key, value, mix, prompt_tokens, max_tokens, max_model_len, needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mix;

    #[test]
    fn a_prompt_over_the_context_is_refused_with_the_mend() {
        let settings = WorkloadSettings { mix: Mix::LongContext, long_prompt_tokens: 1200, ..WorkloadSettings::default() };
        let message = check(&settings, 4000).unwrap_err().to_string();
        assert!(message.contains("workload.long_prompt_tokens is 1200"), "{message}");
        assert!(message.contains("up to 4096 tokens, plus 32 of output"), "{message}");
        assert!(message.contains("raise engine.max_model_len to 4128"), "{message}");
    }
}
