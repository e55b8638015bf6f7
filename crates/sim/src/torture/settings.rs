//! Settings of the router, drawn: every one that may matter to what must always hold, most of them restless.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use dualpool_router::{
    AdmissionSettings, AutoSettings, EarlyRejection, MigrationSettings, PrefixTracking, RoleSettings, RouterSettings, WindowKind,
};
use dualpool_types::Rng;

use super::scenario::REQUESTS_MAX;

pub(super) fn router(rng: &mut Rng) -> RouterSettings {
    let mut router = RouterSettings {
        max_in_flight: rng.random_range(1..=2 * REQUESTS_MAX as u32),
        resumes_max: rng.random_range(0..=4),
        tick_ms: rng.random_range(1..=100),
        explain: rng.random_bool(0.1),
        // What counts as long is the arrangement's.
        ..RouterSettings::default()
    };
    router.prefix.track = *[PrefixTracking::Auto, PrefixTracking::Always].choose(rng).unwrap_or(&PrefixTracking::Auto);
    router.score.temperature = if rng.random_bool(0.3) { 1.0 } else { 0.0 };
    if rng.random_bool(0.5) {
        router.admission = admission(rng);
    }
    router.migration = migration(rng);
    router.roles = RoleSettings {
        enabled: rng.random_bool(0.5),
        smooth_ms: rng.random_range(1..=500),
        hold_ms: rng.random_range(0..=200),
        cool_down_ms: rng.random_range(10..=500),
        margin: rng.random_range(0.0..0.2),
    };
    router.auto = AutoSettings {
        period_ms: rng.random_range(50..=500),
        hold: rng.random_range(1..=2),
        cool_down_ms: rng.random_range(0..=500),
        margin: rng.random_range(0.0..0.05),
        ..AutoSettings::default()
    };
    router
}

fn admission(rng: &mut Rng) -> AdmissionSettings {
    let mut patience_ms = [(); 3].map(|()| rng.random_range(0..=3_000));
    patience_ms.sort_unstable();
    let window_tokens_min = rng.random_range(1..=512);
    let kinds = [EarlyRejection::Off, EarlyRejection::Naive, EarlyRejection::Predictive];
    AdmissionSettings {
        queue_max: rng.random_range(0..=20),
        patience_ms,
        window: *[WindowKind::Off, WindowKind::Aimd].choose(rng).unwrap_or(&WindowKind::Off),
        window_tokens_min,
        window_tokens_max: window_tokens_min * rng.random_range(1..=16),
        window_step_tokens: rng.random_range(1..=256),
        window_cut: rng.random_range(0.1..0.9),
        reject: *kinds.choose(rng).unwrap_or(&EarlyRejection::Off),
        ..AdmissionSettings::default()
    }
}

fn migration(rng: &mut Rng) -> MigrationSettings {
    MigrationSettings {
        enabled: rng.random_bool(0.5),
        in_flight_max: rng.random_range(1..=8),
        window_ms: rng.random_range(10..=1_000),
        requests_max: rng.random_range(1..=20),
        tokens_max: rng.random_range(100..=100_000),
        kv_share_max: 1.0,
        itl_share_from: 0.01,
        itl_share_to: 0.009,
        sustained_ms: rng.random_range(0..=50),
        per_request_max: rng.random_range(1..=5),
        cool_down_ms: rng.random_range(0..=200),
        contention: 0.0,
        ..MigrationSettings::default()
    }
}
