//! What this program timed itself, without any tool: copies from the hand-offs of `requests.jsonl`, and when engines had no leg.
//!
//! Kernels are not seen from here, so their overlap with copies is none.

use std::collections::BTreeMap;

use dualpool_types::records::RequestRecord;
use dualpool_types::{EngineId, Micros};

use super::intervals::{Intervals, device_use};
use super::{Copies, DeviceUse, Profile, Source, gb_per_s};

/// An engine without a leg for this long counts as a gap.
const GAP_NS_MIN: u64 = 1_000_000;

pub fn profile(requests: &[RequestRecord]) -> Profile {
    Profile { copies: copies(requests), devices: engines(requests), ..Profile::new(Source::InProcess) }
}

fn copies(requests: &[RequestRecord]) -> Vec<Copies> {
    let mut sums: BTreeMap<(EngineId, EngineId), (u64, u64, f64)> = BTreeMap::new();
    for handoff in requests.iter().flat_map(|request| &request.handoffs) {
        // Without a copy, or with one that failed, there is nothing that was moved.
        let Some(took) = handoff.copy_us else { continue };
        let (count, bytes, time_us) = sums.entry((handoff.from, handoff.to)).or_default();
        *count += 1;
        *bytes += handoff.bytes.0;
        *time_us += took.0 as f64;
    }
    let copies = sums.into_iter().map(|((from, to), (count, bytes, time_us))| Copies {
        kind: "hand-off".into(),
        from: from.to_string(),
        to: to.to_string(),
        device: None,
        count,
        bytes,
        time_us,
        gb_per_s: gb_per_s(bytes, time_us),
    });
    copies.collect()
}

/// One arm's run: what times count from the start of.
type Run<'a> = (&'a str, u32);

fn engines(requests: &[RequestRecord]) -> Vec<DeviceUse> {
    let ns = |time: Micros| time.0 * 1000;
    let mut legs: BTreeMap<EngineId, BTreeMap<Run<'_>, Vec<(u64, u64)>>> = BTreeMap::new();
    let mut copies = legs.clone();
    for request in requests {
        let run = (request.arm.as_str(), request.repetition);
        for leg in &request.legs {
            let stretch = (ns(leg.submitted_us), ns(leg.ended_us.unwrap_or(request.ended_us)));
            legs.entry(leg.engine).or_default().entry(run).or_default().push(stretch);
        }
        for handoff in &request.handoffs {
            if let Some((started, took)) = handoff.copy_started_us.zip(handoff.copy_us) {
                copies.entry(handoff.to).or_default().entry(run).or_default().push((ns(started), ns(started) + ns(took)));
            }
        }
    }
    let sets = |runs: BTreeMap<Run<'_>, Vec<(u64, u64)>>| -> Vec<Intervals> {
        runs.into_values().map(|stretches| stretches.into_iter().collect()).collect()
    };
    let used = legs.into_iter().map(|(engine, runs)| {
        let copying: u64 = sets(copies.remove(&engine).unwrap_or_default()).iter().map(Intervals::total).sum();
        DeviceUse { copy_us: Some(copying as f64 / 1e3), ..device_use(&engine.to_string(), &sets(runs), GAP_NS_MIN) }
    });
    used.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::records::{HandoffKind, HandoffRecord, LegRecord, Outcome};
    use dualpool_types::{Bytes, Class, Objectives, RequestId, Role};

    fn request(legs: Vec<LegRecord>, handoffs: Vec<HandoffRecord>) -> RequestRecord {
        RequestRecord {
            arm: "a".into(),
            repetition: 0,
            id: RequestId(0),
            index: 0,
            class: Class::Short,
            wave: None,
            turn: None,
            prompt_tokens: 1,
            objectives: Objectives { ttft_us_max: Micros(1), itl_us_max: Micros(1) },
            arrived_us: Micros(0),
            admitted_us: Some(Micros(0)),
            token_us: vec![],
            tokens: vec![],
            legs,
            handoffs,
            ended_us: Micros(10_000),
            outcome: Outcome::Done,
        }
    }

    fn leg(engine: u16, submitted: u64, ended: Option<u64>) -> LegRecord {
        LegRecord {
            engine: EngineId(engine),
            role: Role::Shared,
            submitted_us: Micros(submitted),
            first_token_us: None,
            ended_us: ended.map(Micros),
            output_tokens: 1,
            cached_tokens: 0,
        }
    }

    fn handoff(bytes: u64, copy: Option<(u64, u64)>) -> HandoffRecord {
        HandoffRecord {
            kind: HandoffKind::Handoff,
            from: EngineId(0),
            to: EngineId(1),
            started_us: Micros(0),
            copy_wait_us: copy.map(|_| Micros(0)),
            copy_started_us: copy.map(|(at, _)| Micros(at)),
            copy_us: copy.map(|(_, took)| Micros(took)),
            computed_us: None,
            ended_us: None,
            bytes: Bytes(bytes),
            byte_ranges: 1,
            recomputed: copy.is_none(),
        }
    }

    #[test]
    fn hand_offs_become_copies_and_legs_busy_time() {
        let there = handoff(3_000_000, Some((6_000, 1_000)));
        let also = handoff(1_000_000, Some((6_500, 1_000)));
        let requests = [
            request(vec![leg(0, 0, Some(5_000)), leg(1, 5_000, Some(9_000))], vec![there, handoff(0, None)]),
            request(vec![leg(0, 8_000, None)], vec![also]),
        ];
        let profile = profile(&requests);
        let [copies] = &profile.copies[..] else { panic!("{:?}", profile.copies) };
        assert_eq!((copies.from.as_str(), copies.to.as_str(), copies.count), ("engine-0", "engine-1", 2));
        assert_eq!((copies.bytes, copies.time_us, copies.gb_per_s), (4_000_000, 2_000.0, Some(2.0)));
        let [first, second] = &profile.devices[..] else { panic!("{:?}", profile.devices) };
        assert_eq!((first.span_us, first.busy_us, first.idle.gaps, first.idle.longest_us), (10_000.0, 7_000.0, 1, 3_000.0));
        assert_eq!((second.copy_us, second.overlap_us, second.kernel_us), (Some(1_500.0), None, None));
    }

    #[test]
    fn nothing_recorded_is_nothing_measured() {
        let profile = profile(&[]);
        assert!(profile.copies.is_empty() && profile.devices.is_empty());
    }
}
