//! What a router's decisions came to, beside how fast they were: which engine had the work, and how much of it was in a cache already.

use std::collections::BTreeMap;

use dualpool_types::artifact::{EngineQueue, Environment, RoutingSummary};
use dualpool_types::records::{EngineSample, RequestRecord};
use dualpool_types::{EngineId, Micros, SessionId};

pub fn routing(requests: &[&RequestRecord], samples: &[&EngineSample], environment: &Environment) -> RoutingSummary {
    RoutingSummary {
        cached_share: cached_share(requests),
        same_engine_share: same_engine_share(requests),
        queue_spread_mean: queue_spread(samples),
        engines: environment.engines.iter().map(|engine| queue(engine.id, requests, samples)).collect(),
    }
}

/// Of the prompt tokens of all requests that reached an engine.
pub(crate) fn cached_share(requests: &[&RequestRecord]) -> Option<f64> {
    let first_legs = || requests.iter().filter_map(|r| Some((r, r.legs.first()?)));
    let prompt: u64 = first_legs().map(|(r, _)| u64::from(r.prompt_tokens)).sum();
    let cached: u64 = first_legs().map(|(_, leg)| u64::from(leg.cached_tokens)).sum();
    (prompt > 0).then(|| cached as f64 / prompt as f64)
}

/// Of the turns that have one before them.
pub(crate) fn same_engine_share(requests: &[&RequestRecord]) -> Option<f64> {
    let mut turns: BTreeMap<(u32, SessionId, u32), EngineId> = BTreeMap::new();
    for request in requests {
        if let (Some(turn), Some(leg)) = (request.turn, request.legs.first()) {
            turns.insert((request.repetition, turn.session, turn.index), leg.engine);
        }
    }
    let pairs = turns.iter().filter_map(|(&(repetition, session, index), engine)| {
        Some(turns.get(&(repetition, session, index.checked_sub(1)?))? == engine)
    });
    let (mut same, mut all) = (0u32, 0u32);
    pairs.for_each(|is_same| (same, all) = (same + u32::from(is_same), all + 1));
    (all > 0).then(|| f64::from(same) / f64::from(all))
}

/// The mean over time of the deepest queue less the shallowest one. Engines are sampled together.
pub(crate) fn queue_spread(samples: &[&EngineSample]) -> Option<f64> {
    let mut moments: BTreeMap<(u32, Micros), (u32, u32)> = BTreeMap::new();
    for sample in samples {
        let depth = sample.waiting + sample.running;
        let (least, most) = moments.entry((sample.repetition, sample.at_us)).or_insert((depth, depth));
        (*least, *most) = (depth.min(*least), depth.max(*most));
    }
    let spread: f64 = moments.values().map(|(least, most)| f64::from(most - least)).sum();
    (!moments.is_empty()).then(|| spread / moments.len() as f64)
}

fn queue(id: EngineId, requests: &[&RequestRecord], samples: &[&EngineSample]) -> EngineQueue {
    let depths = || samples.iter().filter(|s| s.engine == id).map(|s| f64::from(s.waiting + s.running));
    let sampled = depths().count();
    let prompts =
        requests.iter().filter(|r| r.legs.first().is_some_and(|leg| leg.engine == id)).map(|r| u64::from(r.prompt_tokens));
    EngineQueue {
        id,
        queue_depth_mean: (sampled > 0).then(|| depths().sum::<f64>() / sampled as f64),
        prompt_tokens: prompts.sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use dualpool_types::Turn;

    #[test]
    fn shares_and_spread_are_those_of_the_records() {
        let mut artifacts = fixture::small();
        let arm = artifacts.run.arms[0].name.clone();
        artifacts.requests.retain(|r| r.arm == arm && r.repetition == 0);
        artifacts.samples.retain(|s| s.arm == arm && s.repetition == 0);
        let prompt: u64 = artifacts.requests.iter().map(|r| u64::from(r.prompt_tokens)).sum();
        for (request, i) in artifacts.requests.iter_mut().zip(0..) {
            request.legs[0].engine = EngineId((i % 2) as u16);
            request.legs[0].cached_tokens = request.prompt_tokens / 2;
            // Two sessions: the first one's turns alternate between the engines, the second one's stay.
            let (session, index) = if i < 4 { (0, i) } else { (1, i / 2) };
            request.turn = Some(Turn { session: SessionId(session), index: index as u32 }).filter(|_| i < 4 || i % 2 == 0);
        }
        let turns = artifacts.requests.iter().filter(|r| r.turn.is_some()).count() as f64;
        let requests: Vec<&RequestRecord> = artifacts.requests.iter().collect();
        let samples: Vec<&EngineSample> = artifacts.samples.iter().collect();
        let found = routing(&requests, &samples, &artifacts.run.environment);

        let cached: u64 = artifacts.requests.iter().map(|r| u64::from(r.prompt_tokens / 2)).sum();
        assert_eq!(found.cached_share, Some(cached as f64 / prompt as f64));
        // 3 pairs of the first session change engines, all of the second one's stay.
        assert_eq!(found.same_engine_share, Some((turns - 5.0) / (turns - 2.0)));
        assert_eq!(found.engines.iter().map(|e| e.prompt_tokens).sum::<u64>(), prompt);
        let depths: Vec<f64> = found.engines.iter().filter_map(|e| e.queue_depth_mean).collect();
        assert!(found.queue_spread_mean.unwrap() >= (depths[0] - depths[1]).abs() - 1e-9);
    }

    #[test]
    fn nothing_measured_is_none() {
        let found = routing(&[], &[], &fixture::small().run.environment);
        assert_eq!((found.cached_share, found.same_engine_share, found.queue_spread_mean), (None, None, None));
        assert!(found.engines.iter().all(|e| e.queue_depth_mean.is_none() && e.prompt_tokens == 0));
    }
}
