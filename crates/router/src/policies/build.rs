//! One policy for each kind.

use dualpool_types::PolicyKind;

use crate::settings::RouterSettings;

use super::balanced::Balanced;
use super::cache_aware::CacheAware;
use super::dedicated::Dedicated;
use super::dual_pool::DualPool;
use super::full_disaggregation::FullDisaggregation;
use super::least_load::LeastLoad;
use super::policy::Policy;
use super::power_of_two::PowerOfTwo;
use super::predicted_latency::PredictedLatency;
use super::round_robin::RoundRobin;
use super::score::Score;

/// A policy that has decided nothing yet.
pub(crate) fn build(kind: PolicyKind, settings: &RouterSettings) -> Box<dyn Policy> {
    match kind {
        PolicyKind::RoundRobin => Box::<RoundRobin>::default(),
        // It begins so, and chooses once it has seen requests.
        PolicyKind::LeastLoad | PolicyKind::Auto => Box::<LeastLoad>::default(),
        PolicyKind::PowerOfTwo => Box::new(PowerOfTwo::new(settings.seed)),
        PolicyKind::CacheAware => Box::new(CacheAware::new(&settings.cache_aware)),
        PolicyKind::Score => Box::new(Score::new(&settings.score, settings.seed)),
        PolicyKind::PredictedLatency => Box::<PredictedLatency>::default(),
        PolicyKind::Balanced => Box::<Balanced>::default(),
        PolicyKind::Dedicated => Box::<Dedicated>::default(),
        PolicyKind::DualPool => Box::<DualPool>::default(),
        PolicyKind::FullDisaggregation => Box::<FullDisaggregation>::default(),
    }
}
