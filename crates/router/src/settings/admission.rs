//! The settings of admission control (`router.admission.*`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Rule, Section, count, is_positive, rule};

/// What bounds the prompt tokens that are dispatched and have no first token yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WindowKind {
    #[default]
    Off,
    /// A window that narrows by a factor when TTFTs grow over their objectives, and widens step by step while they are well.
    Aimd,
}

/// When a request is turned away because its objectives would be broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EarlyRejection {
    #[default]
    Off,
    /// By what decodes now.
    Naive,
    /// By what will decode when the request gets there.
    Predictive,
}

/// Which requests are admitted, and when; docs/admission.md explains it. By default every request is admitted at once, up to
/// `router.max_in_flight`. Lists are by priority: 1, 2, 3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionSettings {
    /// Requests of each priority that may wait for admission. 0 = a request that cannot start at once is rejected.
    pub queue_max: u32,
    /// For priorities 1, 2 and 3: milliseconds added to a waiting request's arrival to get its deadline; the earliest deadline is
    /// admitted first. A request can be overtaken only by requests of a higher priority that arrive within the difference between
    /// the two values.
    pub patience_ms: [u64; 3],
    /// What bounds the prompt tokens that engines have been sent and whose request has no token yet: `off` (nothing) or `aimd`, a
    /// window that is cut when first tokens come late and widens in steps while they come in time.
    pub window: WindowKind,
    /// Lower bound of the window, in prompt tokens. A longer prompt is admitted when no other prompt token is under way.
    pub window_tokens_min: u32,
    /// Upper bound of the window, in prompt tokens, and the size it starts with.
    pub window_tokens_max: u32,
    /// Prompt tokens by which the window widens for each full window of prompts that got their first token in time.
    pub window_step_tokens: u32,
    /// Factor by which the window is cut: the new window is this share of the prompt tokens that were under way, or of the window
    /// if that is smaller.
    pub window_cut: f64,
    /// Early rejection: whether a request is rejected when it is predicted to miss its objectives. `off`; `naive` predicts from the
    /// requests that decode now; `predictive` from those that will decode when this one has its first token.
    pub reject: EarlyRejection,
    /// For priorities 1, 2 and 3: the share of a TTFT or ITL objective above which a prediction rejects a request. Predictions err
    /// by a tenth or so; at 1.0 about half of the requests that are just admitted would miss their objective.
    pub reject_over: [f64; 3],
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        AdmissionSettings {
            queue_max: 0,
            patience_ms: [0, 1_000, 5_000],
            window: WindowKind::Off,
            window_tokens_min: 512,
            window_tokens_max: 65_536,
            window_step_tokens: 256,
            window_cut: 0.7,
            reject: EarlyRejection::Off,
            reject_over: [1.0, 0.85, 0.7],
        }
    }
}

/// An hour: no client waits longer for a first token.
const PATIENCE_MS_MAX: u64 = 3_600_000;

impl Section for AdmissionSettings {
    fn rules(&self) -> Vec<Rule> {
        let over = self.reject_over;
        vec![
            rule("router.admission.queue_max", "a whole number from 0 to 100000", self.queue_max <= 100_000),
            rule(
                "router.admission.patience_ms",
                "three whole numbers up to 3600000, for priorities 1, 2 and 3, each at least the one before it",
                self.patience_ms.is_sorted() && self.patience_ms[2] <= PATIENCE_MS_MAX,
            ),
            count("router.admission.window_tokens_min", self.window_tokens_min),
            rule(
                "router.admission.window_tokens_max",
                "at least router.admission.window_tokens_min",
                self.window_tokens_max >= self.window_tokens_min,
            ),
            count("router.admission.window_step_tokens", self.window_step_tokens),
            rule("router.admission.window_cut", "a share over 0 and under 1", self.window_cut > 0.0 && self.window_cut < 1.0),
            rule(
                "router.admission.reject_over",
                "three numbers over 0, for priorities 1, 2 and 3, each at most the one before it",
                over.into_iter().all(is_positive) && over.is_sorted_by(|higher, lower| higher >= lower),
            ),
        ]
    }
}
