//! Refuses workloads that cannot be served, before an engine is started for them.

use thiserror::Error;

use super::mix::{Shape, mix_name};
use crate::config::{Arrivals, WorkloadSettings};

/// A setting of the workload that cannot be right: its key, its value, and the mend.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum WorkloadError {
    #[error("workload.{key} is 0; give at least 1")]
    Zero { key: &'static str },
    #[error(
        "workload.prefill_burst, workload.decode_requests and workload.continue_requests are all 0, so there is nothing to serve; \
         give at least one of them a value"
    )]
    NoRequests,
    #[error(
        "workload.prefill_burst + workload.decode_requests + workload.continue_requests is {requests}; at most {requests_max} requests \
         make up a repetition"
    )]
    TooMany { requests: u64, requests_max: u64 },
    #[error("workload.{key} is {value}; give a {allowed}")]
    NotANumber { key: &'static str, value: f64, allowed: &'static str },
    #[error(
        "workload.{key} is {value}: with `{mix}` a prompt has up to {prompt_tokens} tokens, plus {max_tokens} of output, which is over \
         engine.max_model_len {max_model_len}; shorten it, or raise engine.max_model_len to {needed} if the model allows that"
    )]
    TooLong {
        key: &'static str,
        value: u32,
        mix: &'static str,
        prompt_tokens: u32,
        max_tokens: u32,
        max_model_len: u32,
        needed: u64,
    },
}

/// Requests of one repetition, at most: their records are kept in memory until the run is over.
const REQUESTS_MAX: u64 = 100_000;

/// Load as a share of saturation, at most; far beyond 1 a Poisson run is an all-upfront run.
const LOAD_MAX: f64 = 4.0;

/// Checks the settings against the longest prompt + output that the engines take.
pub fn check(settings: &WorkloadSettings, max_model_len: u32) -> Result<(), WorkloadError> {
    let sizes = [
        ("long_prompt_tokens", settings.long_prompt_tokens),
        ("short_prompt_tokens", settings.short_prompt_tokens),
        ("max_tokens", settings.max_tokens),
    ];
    if let Some((key, _)) = sizes.into_iter().find(|(_, value)| *value == 0) {
        return Err(WorkloadError::Zero { key });
    }
    let counts = [settings.prefill_burst, settings.decode_requests, settings.continue_requests];
    match counts.into_iter().map(u64::from).sum::<u64>() {
        0 => return Err(WorkloadError::NoRequests),
        requests if requests > REQUESTS_MAX => return Err(WorkloadError::TooMany { requests, requests_max: REQUESTS_MAX }),
        _ => {}
    }
    if settings.arrivals == Arrivals::Poisson {
        check_rate(settings)?;
    }
    check_context(settings, max_model_len)
}

fn check_rate(settings: &WorkloadSettings) -> Result<(), WorkloadError> {
    if !settings.rate.is_finite() || settings.rate < 0.0 {
        let allowed = "positive number of requests per second, or 0 to derive it from workload.load";
        return Err(WorkloadError::NotANumber { key: "rate", value: settings.rate, allowed });
    }
    if settings.rate == 0.0 && !(settings.load > 0.0 && settings.load <= LOAD_MAX) {
        let allowed = "share of the saturation over 0 and up to 4, such as 0.7";
        return Err(WorkloadError::NotANumber { key: "load", value: settings.load, allowed });
    }
    Ok(())
}

fn check_context(settings: &WorkloadSettings, max_model_len: u32) -> Result<(), WorkloadError> {
    let shape = Shape::of(settings);
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
        let (mix, max_tokens) = (mix_name(settings.mix), shape.max_tokens);
        return Err(WorkloadError::TooLong { key, value, mix, prompt_tokens, max_tokens, max_model_len, needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mix;

    fn refused(change: impl FnOnce(&mut WorkloadSettings)) -> String {
        let mut settings = WorkloadSettings::default();
        change(&mut settings);
        check(&settings, 4608).expect_err("these settings are to be refused").to_string()
    }

    #[test]
    fn every_mix_is_fine_by_default() {
        for mix in [Mix::Balanced, Mix::DecodeHeavy, Mix::LongContext, Mix::Burst] {
            assert_eq!(check(&WorkloadSettings { mix, ..WorkloadSettings::default() }, 4608), Ok(()));
        }
    }

    #[test]
    fn errors_name_key_value_and_mend() {
        assert_eq!(refused(|s| s.max_tokens = 0), "workload.max_tokens is 0; give at least 1");
        assert!(refused(|s| s.load = -0.5).starts_with("workload.load is -0.5; give a share"));
        assert!(refused(|s| s.load = f64::NAN).contains("workload.load is NaN"));
        assert!(refused(|s| s.rate = -1.0).contains("workload.rate is -1; give a positive number"));
        assert!(refused(|s| s.decode_requests = u32::MAX).contains("at most 100000"));
        assert!(
            refused(|s| {
                s.prefill_burst = 0;
                s.decode_requests = 0;
                s.continue_requests = 0;
            })
            .contains("nothing to serve")
        );
    }

    #[test]
    fn a_prompt_over_the_context_is_refused_with_the_mend() {
        let message = refused(|s| {
            s.mix = Mix::LongContext;
            s.long_prompt_tokens = 1200;
        });
        assert!(message.contains("workload.long_prompt_tokens is 1200"), "{message}");
        assert!(message.contains("up to 4800 tokens, plus 32 of output"), "{message}");
        assert!(message.contains("raise engine.max_model_len to 4832"), "{message}");
    }

    #[test]
    fn a_given_rate_makes_the_load_irrelevant() {
        let settings = WorkloadSettings { rate: 3.0, load: 0.0, ..WorkloadSettings::default() };
        assert_eq!(check(&settings, 4608), Ok(()));
    }
}
