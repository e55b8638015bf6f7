//! A window on the prompt tokens under way, as TCP has one on bytes: it narrows by a factor when first tokens come late, and widens by a
//! step while they come in time.
//!
//! Prompts that are in an engine cannot be taken back, overtaken or rejected any more; those that wait outside can. So no more is let in
//! than keeps the engines busy within the objective.
//!
//! What counts is the time from dispatch to first token. The wait before dispatch must not: it grows when the window narrows, and a
//! window that narrows for its own queue never opens again.

use dualpool_types::Time;

use crate::settings::AdmissionSettings;

/// The window narrows when, on average, more than this share of the objectives is used up: at the whole of it, half of the requests
/// would miss theirs.
const AIM: f64 = 0.8;
/// What one sample counts for in that average.
const WEIGHT: f64 = 0.2;
/// After a cut the average starts here, so that several late samples make a trend and a single one does not.
const NEUTRAL: f64 = 0.4;
/// A sample counts as at most so late: a page fault is not a trend.
const LATE_MAX: f64 = 2.0;

/// What a request's first token tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When the request was dispatched.
    pub sent: Time,
    pub prompt_tokens: u32,
    /// Prompt tokens under way with it then, its own included.
    pub in_flight: u64,
    /// Time from dispatch to first token, as a share of the TTFT objective.
    pub used_up: f64,
}

#[derive(Debug)]
pub(super) struct Window {
    min: f64,
    max: f64,
    step: f64,
    cut: f64,
    tokens: f64,
    /// Samples of requests sent before the last cut say nothing of the window since.
    cut_at: Option<Time>,
    used_up: f64,
}

impl Window {
    pub(super) fn new(settings: &AdmissionSettings) -> Window {
        let max = f64::from(settings.window_tokens_max);
        Window {
            min: f64::from(settings.window_tokens_min),
            max,
            step: settings.window_step_tokens.into(),
            cut: settings.window_cut,
            tokens: max,
            cut_at: None,
            used_up: NEUTRAL,
        }
    }

    pub(super) fn tokens(&self) -> u64 {
        self.tokens as u64
    }

    /// Whether a prompt may join what is under way. Where nothing is, any prompt may.
    pub(super) fn admits(&self, in_flight: u64, prompt_tokens: u32) -> bool {
        in_flight == 0 || in_flight + u64::from(prompt_tokens) <= self.tokens()
    }

    pub(super) fn observe(&mut self, now: Time, sample: Sample) {
        let before_cut = self.cut_at.is_some_and(|cut| sample.sent <= cut);
        if before_cut || !sample.used_up.is_finite() {
            return;
        }
        self.used_up += WEIGHT * (sample.used_up.min(LATE_MAX) - self.used_up);
        let in_flight = sample.in_flight as f64;
        if self.used_up > AIM {
            // Of what was under way, not of what might have been: a window far wider than the traffic would be cut many times in vain.
            self.tokens = (self.tokens.min(in_flight) * self.cut).max(self.min);
            self.cut_at = Some(now);
            self.used_up = NEUTRAL;
        } else if 2.0 * in_flight >= self.tokens {
            // Only a window that is made use of has shown that it is not too wide.
            self.tokens = (self.tokens + self.step * f64::from(sample.prompt_tokens) / self.tokens).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::new(&AdmissionSettings { window_tokens_max: 10_000, ..AdmissionSettings::default() })
    }

    fn sample(sent: u64, in_flight: u64, used_up: f64) -> Sample {
        Sample { sent: Time(sent), prompt_tokens: 100, in_flight, used_up }
    }

    #[test]
    fn one_late_token_is_no_trend_and_a_row_of_them_makes_one_cut_per_round_trip() {
        let mut window = window();
        window.observe(Time(10), sample(1, 4_000, 50.0));
        assert_eq!(window.tokens(), 10_000);
        for at in 11..100 {
            // All of them sent before the cut that the first few cause.
            window.observe(Time(at), sample(2, 4_000, 1.5));
        }
        assert_eq!(window.tokens(), 2_800, "once, and from what was under way");
        for at in 100..110 {
            window.observe(Time(at), sample(99, 2_800, 1.5));
        }
        assert!((1_959..=1_960).contains(&window.tokens()), "{}", window.tokens());
    }

    #[test]
    fn it_widens_only_as_far_as_it_is_used_and_by_a_step_per_window() {
        let mut window = window();
        window.tokens = 1_000.0;
        for at in 0..1_000 {
            window.observe(Time(at), sample(at, 499, 0.1));
        }
        assert_eq!(window.tokens(), 1_000);
        for at in 0..10 {
            window.observe(Time(at), sample(at, 1_000, 0.1));
        }
        assert!((1_200..=1_256).contains(&window.tokens()), "{}", window.tokens());
        for at in 0..10_000 {
            window.observe(Time(at), sample(at, 100_000, 0.1));
        }
        assert_eq!(window.tokens(), 10_000);
    }

    /// Runs an engine that computes prompts of 100 tokens one after the other, always with more to do than the window lets in, until this
    /// many have their first token. Returns the mean width over the second half.
    fn keep_busy(window: &mut Window, now: &mut u64, us_per_token: u64, prompts: usize) -> f64 {
        const OBJECTIVE_US: f64 = 1e6;
        let mut under_way = std::collections::VecDeque::new();
        let mut widths = 0.0;
        for done in 0..prompts {
            while window.admits(100 * under_way.len() as u64, 100) {
                under_way.push_back((*now, 100 * (under_way.len() as u64 + 1)));
            }
            *now += 100 * us_per_token;
            let Some((sent, in_flight)) = under_way.pop_front() else { panic!("one request always passes") };
            window.observe(Time(*now), sample(sent, in_flight, (*now - sent) as f64 / OBJECTIVE_US));
            widths += if done >= prompts / 2 { window.tokens } else { 0.0 };
        }
        widths / (prompts - prompts / 2) as f64
    }

    #[test]
    fn it_finds_what_the_engine_does_in_time_and_opens_again_when_it_does_more() {
        let settings = AdmissionSettings {
            window_tokens_min: 100,
            window_tokens_max: 100_000,
            window_step_tokens: 50,
            ..AdmissionSettings::default()
        };
        let (mut window, mut now) = (Window::new(&settings), 0);
        for us_per_token in [700, 2_000, 350, 700] {
            let width = keep_busy(&mut window, &mut now, us_per_token, 2_000);
            let in_time = 1e6 * AIM / us_per_token as f64;
            assert!(
                (0.6..1.1).contains(&(width / in_time)),
                "{width} tokens at {us_per_token} us each, of which {in_time} are in time"
            );
        }
    }

    #[test]
    fn it_never_closes() {
        let mut window = window();
        for at in 0..1_000 {
            window.observe(Time(at), sample(at, 100, f64::MAX));
            window.observe(Time(at), sample(at, 100, f64::NAN));
        }
        assert_eq!(window.tokens(), 512);
        assert!(window.admits(0, 4_000) && window.admits(412, 100) && !window.admits(413, 100));
    }
}
