//! Who is let in, and when (`router.admission.*`). By default everybody is let in at once, up to `router.max_in_flight`.

use serde::{Deserialize, Serialize};

/// What bounds the prompt tokens that are dispatched and have no first token yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowKind {
    #[default]
    Off,
    /// A window that narrows by a factor when TTFTs grow over their objectives, and widens step by step while they are well.
    Aimd,
}

/// When a request is turned away because its objectives would be broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EarlyRejection {
    #[default]
    Off,
    /// By what decodes now.
    Naive,
    /// By what will decode when the request gets there.
    Predictive,
}

/// Lists are by priority: 1, 2, 3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionSettings {
    /// Requests of each priority that may wait for admission; 0 = nobody waits.
    pub queue_max: u32,
    /// Who waits is let in by the time of arrival plus this. A request gives way to those of other priorities that arrive within the
    /// difference, and to none that arrives later.
    pub patience_ms: [u64; 3],
    pub window: WindowKind,
    /// The window is never narrower. A prompt that is longer is let in when no other is under way.
    pub window_tokens_min: u32,
    /// The window is never wider, and starts so.
    pub window_tokens_max: u32,
    /// What a window's worth of prompt tokens widens it by.
    pub window_step_tokens: u32,
    /// What narrowing leaves of the window.
    pub window_cut: f64,
    pub reject: EarlyRejection,
    /// A request is rejected when more than this share of an objective is predicted to be used up. Forecasts err by a tenth or so: at the
    /// whole of an objective, half of those that are just let in would miss it.
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
