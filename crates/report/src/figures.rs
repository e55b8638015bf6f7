//! The figures of one arm, from its raw records: what `summary.json` says, and what the report shows when there is none.

use std::collections::BTreeMap;

use dualpool_types::artifact::{
    ArmSummary, EngineSummary, Environment, ErrorCount, HandoffSummary, ItlSummary, PerRole, Quantiles, TtftSummary,
};
use dualpool_types::records::{EngineSample, HandoffRecord, LegRecord, Outcome, RequestRecord};
use dualpool_types::{EngineId, Micros, Wave};

use super::live::live_migrations;
use super::measure::{class_name, quantile, sorted};
use super::metric::{self, Metric, Records};

/// Percentiles are nearest ranks over the pooled samples of all repetitions; sums and means are per repetition.
pub fn figures(
    name: &str,
    control: bool,
    requests: &[&RequestRecord],
    samples: &[&EngineSample],
    environment: &Environment,
) -> ArmSummary {
    let records = Records::new(requests, samples);
    let of = |metric: Metric| metric.of(&records);
    ArmSummary {
        name: name.to_string(),
        control,
        overloaded: None,
        requests: requests.len() as u32,
        completion_ms: of(metric::COMPLETION),
        throughput_rps: of(metric::THROUGHPUT),
        output_tokens_per_s: of(metric::OUTPUT_RATE),
        goodput_share: of(metric::GOODPUT),
        tpot_share: of(metric::TPOT_SHARE),
        goodput_rps: of(metric::GOODPUT_RPS),
        tpot_goodput_rps: of(metric::TPOT_GOODPUT_RPS),
        longest_itl_ms_p99: of(metric::LONGEST_ITL_P99),
        ttft_ms: ttft(&records),
        itl_ms: ItlSummary { p50: of(metric::ITL_P50), p95: of(metric::ITL_P95), p99: of(metric::ITL_P99) },
        queue_depth_mean: PerRole {
            prefill: of(metric::PREFILL_DEPTH),
            decode: of(metric::DECODE_DEPTH),
            shared: of(metric::SHARED_DEPTH),
        },
        engines: environment.engines.iter().filter_map(|e| engine(e.id, &e.device, requests)).collect(),
        handoffs: handoffs(requests),
        live_migrations: live_migrations(requests),
        errors: errors(requests),
        routing: None,
    }
}

fn ttft(records: &Records) -> TtftSummary {
    let of = |p50: Metric, p95: Metric| Quantiles { p50: p50.of(records), p95: p95.of(records) };
    let comes_in = |wave| records.requests.iter().any(|r| r.wave == Some(wave));
    TtftSummary {
        overall: of(metric::TTFT_P50, metric::TTFT_P95),
        short: of(metric::SHORT_TTFT_P50, metric::SHORT_TTFT_P95),
        long: of(metric::LONG_TTFT_P50, metric::LONG_TTFT_P95),
        prefill_pool: of(metric::PREFILL_POOL_TTFT_P50, metric::PREFILL_POOL_TTFT_P95),
        decode_pool: of(metric::DECODE_POOL_TTFT_P50, metric::DECODE_POOL_TTFT_P95),
        background: comes_in(Wave::Background).then(|| of(metric::BACKGROUND_TTFT_P50, metric::BACKGROUND_TTFT_P95)),
        foreground: comes_in(Wave::Foreground).then(|| of(metric::FOREGROUND_TTFT_P50, metric::FOREGROUND_TTFT_P95)),
    }
}

/// None when the arm sent this engine nothing.
fn engine(id: EngineId, device: &str, requests: &[&RequestRecord]) -> Option<EngineSummary> {
    let legs: Vec<(&RequestRecord, &LegRecord)> =
        requests.iter().flat_map(|r| r.legs.iter().map(move |l| (*r, l))).filter(|(_, l)| l.engine == id).collect();
    let role = legs.first()?.1.role;
    let tpots: Vec<f64> = legs.iter().filter_map(|(_, l)| tpot_ms(l)).collect();
    let busy = busy_s(&legs);
    let tokens: u32 = legs.iter().map(|(_, l)| l.output_tokens).sum();
    Some(EngineSummary {
        id,
        device: device.to_string(),
        role,
        tpot_ms: (!tpots.is_empty()).then(|| tpots.iter().sum::<f64>() / tpots.len() as f64),
        tokens_per_busy_s: (busy > 0.0).then(|| f64::from(tokens) / busy),
        requests: legs.len() as u32,
    })
}

/// The mean gap between the output tokens of one leg.
fn tpot_ms(leg: &LegRecord) -> Option<f64> {
    let gaps = leg.output_tokens.checked_sub(1).filter(|&gaps| gaps > 0)?;
    Some((leg.ended_us? - leg.first_token_us?).as_ms() / f64::from(gaps))
}

/// The time with at least one leg: the union of the legs' stays, repetition by repetition.
fn busy_s(legs: &[(&RequestRecord, &LegRecord)]) -> f64 {
    let mut stays: Vec<(u32, Micros, Micros)> =
        legs.iter().map(|(r, l)| (r.repetition, l.submitted_us, l.ended_us.unwrap_or(r.ended_us))).collect();
    stays.sort();
    let mut busy = Micros::ZERO;
    let mut covered = (u32::MAX, Micros::ZERO);
    for (repetition, from, to) in stays {
        let seen = if covered.0 == repetition { covered.1 } else { Micros::ZERO };
        busy += to - from.max(seen);
        covered = (repetition, seen.max(to));
    }
    busy.as_secs()
}

fn handoffs(requests: &[&RequestRecord]) -> HandoffSummary {
    let (recomputed, all): (Vec<&HandoffRecord>, Vec<&HandoffRecord>) =
        requests.iter().flat_map(|r| &r.handoffs).partition(|h| h.recomputed);
    // A hand-off to an engine that had it all in its prefix cache moved nothing, and says nothing of copies.
    let copies = sorted(all.iter().filter(|h| h.bytes.0 > 0).filter_map(|h| h.copy_us).map(Micros::as_ms));
    let totals = sorted(all.iter().filter_map(|h| Some((h.ended_us? - h.started_us).as_ms())));
    HandoffSummary {
        count: all.len() as u32,
        recomputed: recomputed.len() as u32,
        bytes: all.iter().map(|h| h.bytes.0).sum(),
        copy_ms_p50: quantile(&copies, 0.5),
        copy_ms_p95: quantile(&copies, 0.95),
        total_ms_p50: quantile(&totals, 0.5),
        total_ms_p95: quantile(&totals, 0.95),
    }
}

fn errors(requests: &[&RequestRecord]) -> Vec<ErrorCount> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for r in requests {
        if let Outcome::Failed { error } = &r.outcome {
            *counts.entry(format!("{} prompt: {error}", class_name(r.class))).or_default() += 1;
        }
    }
    counts.into_iter().map(|(message, count)| ErrorCount { message, count }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::{Bytes, Class, Objectives, RequestError, RequestId, Role};

    fn leg(engine: u16, role: Role, submitted: u64, first: u64, ended: u64, output_tokens: u32) -> LegRecord {
        let (first_token_us, ended_us) = (Some(Micros(first)), Some(Micros(ended)));
        let submitted_us = Micros(submitted);
        LegRecord { engine: EngineId(engine), role, submitted_us, first_token_us, ended_us, output_tokens, cached_tokens: 0 }
    }

    fn request(index: u32, class: Class, arrived: u64, token_us: &[u64], legs: Vec<LegRecord>) -> RequestRecord {
        RequestRecord {
            arm: "arm".into(),
            repetition: 0,
            id: RequestId(index.into()),
            index,
            class,
            wave: None,
            turn: None,
            prompt_tokens: 10,
            objectives: Objectives { ttft_us_max: Micros(100_000), itl_us_max: Micros(50_000) },
            arrived_us: Micros(arrived),
            admitted_us: Some(Micros(arrived)),
            token_us: token_us.iter().map(|&at| Micros(at)).collect(),
            tokens: vec![1; token_us.len()],
            legs,
            handoffs: vec![],
            ended_us: Micros(token_us.last().copied().unwrap_or(arrived)),
            outcome: Outcome::Done,
        }
    }

    /// Three requests small enough to work out by hand.
    #[test]
    fn figures_are_those_worked_out_by_hand() {
        let mut moved = request(
            0,
            Class::Long,
            0,
            &[100_000, 140_000, 180_000],
            vec![leg(0, Role::Prefill, 0, 100_000, 100_000, 1), leg(1, Role::Decode, 100_000, 140_000, 180_000, 2)],
        );
        moved.handoffs.push(HandoffRecord {
            kind: dualpool_types::records::HandoffKind::Handoff,
            from: EngineId(0),
            to: EngineId(1),
            started_us: Micros(100_000),
            copy_wait_us: Some(Micros(500)),
            copy_started_us: Some(Micros(101_000)),
            copy_us: Some(Micros(3_000)),
            computed_us: Some(Micros(139_000)),
            ended_us: Some(Micros(140_000)),
            bytes: Bytes(4096),
            byte_ranges: 2,
            recomputed: false,
        });
        // Its second gap is 60 ms: over the ITL objective.
        let slow = vec![leg(1, Role::Decode, 50_000, 80_000, 200_000, 3)];
        let slow = request(1, Class::Short, 50_000, &[80_000, 140_000, 200_000], slow);
        let mut failed = request(2, Class::Short, 60_000, &[], vec![]);
        failed.outcome = Outcome::Failed { error: RequestError::Cancelled { phase: dualpool_types::Phase::Prefill } };

        let environment = crate::fixture::small().run.environment;
        let f = figures("arm", false, &[&moved, &slow, &failed], &[], &environment);
        assert_eq!(f.requests, 3);
        assert_eq!((f.goodput_share, f.tpot_share), (Some(1.0 / 3.0), Some(1.0 / 3.0)));
        assert_eq!((f.goodput_rps, f.tpot_goodput_rps, f.longest_itl_ms_p99), (Some(5.0), Some(5.0), Some(60.0)));
        assert_eq!((f.completion_ms, f.throughput_rps, f.output_tokens_per_s), (Some(200.0), Some(10.0), Some(30.0)));
        assert_eq!((f.ttft_ms.short.p95, f.ttft_ms.long.p50), (Some(30.0), Some(100.0)));
        assert_eq!((f.ttft_ms.prefill_pool.p50, f.ttft_ms.decode_pool.p50), (Some(100.0), Some(30.0)));
        assert_eq!((f.itl_ms.p50, f.itl_ms.p99), (Some(40.0), Some(60.0)));
        assert_eq!((f.handoffs.count, f.handoffs.bytes), (1, 4096));
        assert_eq!((f.handoffs.copy_ms_p50, f.handoffs.total_ms_p95), (Some(3.0), Some(40.0)));
        // Engine 1 has legs from 50 to 200 ms without a break, and its two requests had mean gaps of 40 and 60 ms.
        let decode = &f.engines[1];
        assert_eq!((decode.tpot_ms, decode.requests), (Some(50.0), 2));
        assert!((decode.tokens_per_busy_s.unwrap() - 5.0 / 0.15).abs() < 1e-9);
        assert_eq!(f.errors[0].message, "short prompt: the client went away during prefill");
        assert_eq!(f.queue_depth_mean, PerRole::default());
    }

    #[test]
    fn nothing_measured_stays_nothing() {
        let f = figures("arm", false, &[], &[], &crate::fixture::small().run.environment);
        assert_eq!((f.goodput_share, f.completion_ms, f.throughput_rps), (None, None, None));
        assert_eq!((f.ttft_ms.overall.p50, f.itl_ms.p99), (None, None));
    }
}
