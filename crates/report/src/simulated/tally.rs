//! The figures of one arm, made from its records as they end.

use std::collections::BTreeMap;

use dualpool_types::records::{EngineSample, Outcome, RequestRecord, RouterNote};
use dualpool_types::{Arrangement, EngineId, Micros, RequestError, Role};

use super::depth::Depths;
use super::latency::Latencies;
use super::{Cost, SimulatedArm, SimulatedEngine};
use crate::measure::{is_done, within_objectives};

/// What an engine did, as the simulation counted it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineWork {
    pub tier: String,
    pub busy: Micros,
    pub output_tokens: u64,
    pub prompt_tokens_computed: u64,
    pub prompt_tokens_cached: u64,
    pub died: Option<Micros>,
}

pub struct Tally {
    requests: u64,
    done: u64,
    within_objectives: u64,
    output_tokens: u64,
    rejected: BTreeMap<String, u64>,
    failed: BTreeMap<String, u64>,
    notes: BTreeMap<String, u64>,
    handoffs: u64,
    recomputed: u64,
    first: Option<Micros>,
    last: Micros,
    ttft: Latencies,
    by_pool: BTreeMap<Role, Latencies>,
    itl: Latencies,
    e2e: Latencies,
    depths: Depths,
}

impl Tally {
    pub fn new(sample_every: Micros) -> Tally {
        Tally {
            requests: 0,
            done: 0,
            within_objectives: 0,
            output_tokens: 0,
            rejected: BTreeMap::new(),
            failed: BTreeMap::new(),
            notes: BTreeMap::new(),
            handoffs: 0,
            recomputed: 0,
            first: None,
            last: Micros::ZERO,
            ttft: Latencies::default(),
            by_pool: BTreeMap::new(),
            itl: Latencies::default(),
            e2e: Latencies::default(),
            depths: Depths::new(sample_every),
        }
    }

    pub fn request(&mut self, record: &RequestRecord) {
        self.requests += 1;
        self.done += u64::from(is_done(record));
        self.within_objectives += u64::from(within_objectives(record));
        self.output_tokens += record.token_us.len() as u64;
        self.first = Some(self.first.unwrap_or(record.arrived_us).min(record.arrived_us));
        self.last = self.last.max(record.ended_us);
        self.handoffs += record.handoffs.iter().filter(|handoff| !handoff.recomputed).count() as u64;
        self.recomputed += record.handoffs.iter().filter(|handoff| handoff.recomputed).count() as u64;
        if let Some(&first) = record.token_us.first() {
            let ttft = first - record.arrived_us;
            self.ttft.add(ttft);
            if let Some(leg) = record.legs.iter().find(|leg| leg.first_token_us.is_some()) {
                self.by_pool.entry(leg.role).or_default().add(ttft);
            }
        }
        record.token_us.windows(2).for_each(|pair| self.itl.add(pair[1] - pair[0]));
        match &record.outcome {
            Outcome::Done => self.e2e.add(record.ended_us - record.arrived_us),
            Outcome::Failed { error: RequestError::Rejected { reason } } => count(&mut self.rejected, name(reason)),
            Outcome::Failed { error } => count(&mut self.failed, name(error)),
        }
    }

    pub fn sample(&mut self, sample: &EngineSample) {
        self.depths.add(sample);
    }

    pub fn note(&mut self, note: &RouterNote) {
        count(&mut self.notes, name(note));
    }

    /// The engines' own counts, by `EngineId`, and what an hour of all of them costs.
    pub fn finish(mut self, arrangement: &Arrangement, engines: &[EngineWork], cost_per_hour: Option<f64>) -> SimulatedArm {
        let span = self.last - self.first.unwrap_or(self.last);
        let span_s = span.as_secs();
        let per_s = |count: u64| (span_s > 0.0).then(|| count as f64 / span_s);
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let cached: u64 = engines.iter().map(|engine| engine.prompt_tokens_cached).sum();
        let computed: u64 = engines.iter().map(|engine| engine.prompt_tokens_computed).sum();
        let engine = |(i, (work, &role)): (usize, (&EngineWork, &Role))| SimulatedEngine {
            id: EngineId(i as u16),
            tier: work.tier.clone(),
            role,
            utilisation: share(work.busy.0, span.0),
            output_tokens: work.output_tokens,
            prompt_tokens_computed: work.prompt_tokens_computed,
            died_s: work.died.map(Micros::as_secs),
        };
        let spent = cost_per_hour.map(|per_hour| per_hour * span_s / 3600.0);
        let cost = cost_per_hour.zip(spent).map(|(per_hour, spent)| Cost {
            per_hour,
            per_million_output_tokens: (self.output_tokens > 0).then(|| spent * 1e6 / self.output_tokens as f64),
            requests_within_objectives_per_unit: (spent > 0.0).then(|| self.within_objectives as f64 / spent),
        });
        SimulatedArm {
            name: arrangement.name.clone(),
            policy: arrangement.policy,
            requests: self.requests,
            done: self.done,
            goodput_share: share(self.within_objectives, self.requests),
            goodput_rps: per_s(self.within_objectives),
            within_objectives: self.within_objectives,
            span_s,
            output_tokens: self.output_tokens,
            output_tokens_per_s: per_s(self.output_tokens),
            ttft_ms: self.ttft.drawn(),
            ttft_ms_by_pool: self.by_pool.iter().map(|(&role, latencies)| (role, latencies.summary())).collect(),
            itl_ms: self.itl.drawn(),
            e2e_ms: self.e2e.summary(),
            queue_depth_mean: self.depths.mean(),
            queue_depth: self.depths.points(),
            prefix_hit_share: share(cached, cached + computed),
            handoffs: self.handoffs,
            recomputed: self.recomputed,
            rejected: self.rejected,
            failed: self.failed,
            notes: self.notes,
            engines: engines.iter().zip(&arrangement.roles).enumerate().map(engine).collect(),
            cost,
        }
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: String) {
    *counts.entry(name).or_default() += 1;
}

/// The name that an error, a reason or a note has in JSON: its `kind`, its only key, or itself.
pub(crate) fn name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(object)) => match object.get("kind").and_then(|kind| kind.as_str()) {
            Some(kind) => kind.to_string(),
            None => object.keys().next().cloned().unwrap_or_default(),
        },
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use dualpool_types::{Phase, RejectReason};

    #[test]
    fn names_are_those_in_the_files() {
        assert_eq!(name(&RejectReason::EmptyPrompt), "empty_prompt");
        assert_eq!(name(&RejectReason::TooManyInFlight { in_flight: 3 }), "too_many_in_flight");
        assert_eq!(name(&RequestError::Cancelled { phase: Phase::Decode }), "cancelled");
        assert_eq!(
            name(&RouterNote::RoleChanged { engine: EngineId(0), from: Role::Prefill, to: Role::Decode, why: "".into() }),
            "role_changed"
        );
    }

    /// The streamed figures against those of the report over the same records.
    #[test]
    fn the_tally_agrees_with_the_report() {
        let artifacts = fixture::small();
        let arrangement = artifacts.run.arms.iter().find(|arm| arm.name == "dual_pool").unwrap();
        let of_arm = |repetition| artifacts.requests.iter().filter(move |r| r.arm == "dual_pool" && r.repetition == repetition);
        let mut tally = Tally::new(Micros(50_000));
        of_arm(0).for_each(|record| tally.request(record));
        let work = vec![EngineWork { busy: Micros(1), ..EngineWork::default() }; arrangement.roles.len()];
        let arm = tally.finish(arrangement, &work, Some(7.2));
        let records: Vec<&RequestRecord> = of_arm(0).collect();
        let exact = crate::figures("dual_pool", false, &records, &[], &artifacts.run.environment);
        assert_eq!((arm.requests, arm.goodput_share), (u64::from(exact.requests), exact.goodput_share));
        assert!((arm.span_s * 1e3 - exact.completion_ms.unwrap()).abs() < 1e-6);
        assert!((arm.output_tokens_per_s.unwrap() - exact.output_tokens_per_s.unwrap()).abs() < 1e-6);
        for (streamed, exact) in [
            (arm.ttft_ms.p95, exact.ttft_ms.overall.p95),
            (arm.itl_ms.p99, exact.itl_ms.p99),
            (arm.ttft_ms_by_pool[&Role::Prefill].p50, exact.ttft_ms.prefill_pool.p50),
        ] {
            let (streamed, exact) = (streamed.unwrap(), exact.unwrap());
            assert!((streamed / exact - 1.0).abs() < 2e-3, "{streamed} for {exact}");
        }
        let cost = arm.cost.unwrap();
        let spent = 7.2 * arm.span_s / 3600.0;
        assert!((cost.per_million_output_tokens.unwrap() * arm.output_tokens as f64 / 1e6 - spent).abs() < 1e-9);
    }
}
