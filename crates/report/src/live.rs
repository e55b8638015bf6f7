//! What live migrations looked like to the clients of the requests that moved.

use dualpool_types::Micros;
use dualpool_types::artifact::{LiveMigrationSummary, MoveStages, Quantiles};
use dualpool_types::records::{HandoffKind, HandoffRecord, RequestRecord};

use super::measure::{itls_ms, quantile, sorted};

/// Over all these requests. Moves whose KV was computed again are in `HandoffSummary::recomputed`, not here.
pub fn live_migrations(requests: &[&RequestRecord]) -> LiveMigrationSummary {
    let is_live = |handoff: &&HandoffRecord| handoff.kind == HandoffKind::LiveMigration && !handoff.recomputed;
    let moves: Vec<&HandoffRecord> = requests.iter().flat_map(|r| &r.handoffs).filter(is_live).collect();
    let moved = requests.iter().filter(|r| r.handoffs.iter().any(|handoff| is_live(&handoff)));
    let quantiles = |values: Vec<f64>| Quantiles { p50: quantile(&values, 0.5), p95: quantile(&values, 0.95) };
    LiveMigrationSummary {
        count: moves.len() as u32,
        downtime_ms: quantiles(sorted(moves.iter().filter_map(|h| Some((h.ended_us? - h.started_us).as_ms())))),
        copy_ms: quantiles(sorted(moves.iter().filter(|h| h.bytes.0 > 0).filter_map(|h| h.copy_us).map(Micros::as_ms))),
        stages_ms_p50: stages(&moves),
        itl_ms_p50: quantile(&sorted(moved.flat_map(|r| itls_ms(r))), 0.5),
    }
}

fn stages(moves: &[&HandoffRecord]) -> MoveStages {
    let spans: Vec<[Micros; 4]> = moves.iter().filter_map(|handoff| spans(handoff)).collect();
    let median = |stage: usize| quantile(&sorted(spans.iter().map(|spans| spans[stage].as_ms())), 0.5);
    MoveStages { submit: median(0), copy: median(1), step: median(2), deliver: median(3) }
}

fn spans(handoff: &HandoffRecord) -> Option<[Micros; 4]> {
    let begun = handoff.copy_started_us.filter(|_| handoff.bytes.0 > 0)?;
    let (wanted, copied) = (begun - handoff.copy_wait_us?, begun + handoff.copy_us?);
    let (computed, ended) = (handoff.computed_us?, handoff.ended_us?);
    Some([wanted - handoff.started_us, copied - wanted, computed - copied, ended - computed])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn only_moves_in_mid_decode_count() {
        let mut requests = fixture::small().requests;
        let all: Vec<&RequestRecord> = requests.iter().collect();
        assert_eq!(
            live_migrations(&all),
            LiveMigrationSummary::default(),
            "the fixture moves requests between prefill and decode only"
        );
        let moved = requests.iter_mut().find(|r| !r.handoffs.is_empty()).unwrap();
        let (started, took) = (moved.handoffs[0].started_us, Micros(7_000));
        moved.handoffs[0].kind = HandoffKind::LiveMigration;
        moved.handoffs[0].ended_us = Some(started + took);
        let all: Vec<&RequestRecord> = requests.iter().collect();
        let live = live_migrations(&all);
        assert_eq!((live.count, live.downtime_ms.p50, live.downtime_ms.p95), (1, Some(7.0), Some(7.0)));
        assert!(live.copy_ms.p50.is_some() && live.itl_ms_p50.is_some());
    }

    #[test]
    fn the_stages_of_a_move_make_up_its_downtime() {
        let mut requests = fixture::small().requests;
        let moved = &mut requests.iter_mut().find(|r| !r.handoffs.is_empty()).unwrap().handoffs[0];
        moved.kind = HandoffKind::LiveMigration;
        let at = moved.started_us;
        (moved.copy_wait_us, moved.copy_started_us) = (Some(Micros(200)), Some(at + Micros(2_200)));
        (moved.copy_us, moved.computed_us, moved.ended_us) =
            (Some(Micros(300)), Some(at + Micros(6_500)), Some(at + Micros(7_000)));
        let stages = |requests: &[RequestRecord]| live_migrations(&requests.iter().collect::<Vec<_>>()).stages_ms_p50;
        let expected = MoveStages { submit: Some(2.0), copy: Some(0.5), step: Some(4.0), deliver: Some(0.5) };
        assert_eq!(stages(&requests), expected);
        let moved = &mut requests.iter_mut().find(|r| !r.handoffs.is_empty()).unwrap().handoffs[0];
        moved.bytes = dualpool_types::Bytes(0);
        assert_eq!(stages(&requests), MoveStages::default(), "it was in the prefix cache");
    }
}
