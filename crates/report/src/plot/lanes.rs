//! What every engine did: one lane per engine, in it one thin bar per leg, in as many rows as were in flight at once.

use std::collections::BTreeMap;

use dualpool_types::records::{HandoffRecord, LegRecord, RequestRecord};
use dualpool_types::{Class, EngineId, Micros, Role};

use super::{Anchor, Axis, Scale, WIDTH, drawing, label, line, plain, rect, x_axis};
use crate::arms::Arm;
use crate::svg::Svg;

const ROW: f64 = 4.0;
const LEFT: f64 = 96.0;
const LANE_GAP: f64 = 12.0;
/// Room for an engine's name and role.
const ROWS_MIN: usize = 6;

/// What a leg did in a span of time; the name is its class in the style sheet.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    what: &'static str,
    from: Micros,
    to: Micros,
}

struct Bar<'a> {
    request: &'a RequestRecord,
    leg: &'a LegRecord,
    from: Micros,
    to: Micros,
    spans: Vec<Span>,
}

/// An engine's bars, each in its row.
struct Lane<'a> {
    engine: EngineId,
    rows: usize,
    bars: Vec<(usize, Bar<'a>)>,
}

/// The lanes of one repetition of one arm; `end` is where the time axis ends, the same for all arms.
pub(crate) fn lanes(m: &mut Svg, arm: &Arm, end: Micros) {
    let mut engines: BTreeMap<EngineId, Vec<Bar>> = BTreeMap::new();
    let repetition = arm.pictured();
    for request in arm.requests.iter().filter(|r| Some(r.repetition) == repetition) {
        for (i, leg) in request.legs.iter().enumerate() {
            let spans = spans(request, i);
            let (from, to) = (leg.submitted_us, spans.last().map_or(leg.submitted_us, |s| s.to));
            engines.entry(leg.engine).or_default().push(Bar { request, leg, from, to, spans });
        }
    }
    let lanes: Vec<Lane> = engines.into_iter().map(|(id, bars)| pack(id, bars)).collect();
    let height = |lane: &Lane| lane.rows.max(ROWS_MIN) as f64 * ROW + LANE_GAP;
    let bottom: f64 = lanes.iter().map(height).sum();
    let x = Axis { scale: Scale::Linear, low: 0.0, high: end.as_secs().max(1e-3), from: LEFT, to: WIDTH - 10.0 };
    drawing(m, bottom + 38.0, &format!("What each engine did under {}", arm.name), |m| {
        x_axis(m, &x, (0.0, bottom), "s since the start of the repetition", plain);
        let mut top = LANE_GAP / 2.0;
        for lane in &lanes {
            let role = lane.bars.first().map_or(Role::Shared, |(_, bar)| bar.leg.role);
            label(m, 0.0, top + 12.0, Anchor::Start, "panel", lane.engine);
            label(m, 0.0, top + 26.0, Anchor::Start, "tick", role.name());
            for (row, bar) in &lane.bars {
                draw(m, &x, top + *row as f64 * ROW, bar);
            }
            top += height(lane);
            line(m, (0.0, top - LANE_GAP / 2.0), (WIDTH - 10.0, top - LANE_GAP / 2.0), "grid");
        }
    });
}

fn draw(m: &mut Svg, x: &Axis, y: f64, bar: &Bar) {
    m.el("g", &[], |m| {
        let r = bar.request;
        m.leaf("title", &[], format!("{}, {} prompt tokens, {} to {}", r.id, r.prompt_tokens, bar.from, bar.to));
        for span in &bar.spans {
            let (from, to) = (x.at(span.from.as_secs()), x.at(span.to.as_secs()));
            // A copy of a few ms would vanish on an axis of many seconds.
            rect(m, (from, y), ((to - from).max(1.5), ROW - 1.0), span.what);
        }
    });
}

/// Puts each bar into the first row that is free when it starts.
fn pack(engine: EngineId, mut bars: Vec<Bar>) -> Lane {
    bars.sort_by_key(|b| (b.from, b.request.index));
    let mut free_at: Vec<Micros> = Vec::new();
    let mut placed = Vec::with_capacity(bars.len());
    for bar in bars {
        let row = free_at.iter().position(|&at| at <= bar.from).unwrap_or(free_at.len());
        match free_at.get_mut(row) {
            Some(at) => *at = bar.to,
            None => free_at.push(bar.to),
        }
        placed.push((row, bar));
    }
    Lane { engine, rows: free_at.len(), bars: placed }
}

/// What the request's `i`-th leg did, in order and without a break.
fn spans(request: &RequestRecord, i: usize) -> Vec<Span> {
    let leg = &request.legs[i];
    let ended = leg.ended_us.unwrap_or(request.ended_us).max(leg.submitted_us);
    let first = leg.first_token_us.unwrap_or(ended).min(ended);
    let prefill = if request.class == Class::Long { "prefill-long" } else { "prefill-short" };
    let mut spans = Vec::new();
    let mut at = leg.submitted_us;
    let mut until = |what, to: Micros| {
        let to = to.clamp(at, ended);
        if to > at {
            spans.push(Span { what, from: at, to });
        }
        at = to;
    };
    match handoff_into(request, i).and_then(|h| Some((h.copy_started_us?, h.copy_us?))) {
        Some((started, copy)) => {
            until("idle", started);
            until("copy", started + copy);
            until("idle", first);
        }
        None => until(prefill, first),
    }
    until("decode", ended);
    spans
}

/// The copy that brought a leg its KV; none when the leg computed its prompt.
fn handoff_into(request: &RequestRecord, i: usize) -> Option<&HandoffRecord> {
    let (from, to) = (request.legs.get(i.checked_sub(1)?)?, &request.legs[i]);
    let between = |h: &&HandoffRecord| h.from == from.engine && h.to == to.engine && h.started_us >= from.submitted_us;
    request.handoffs.iter().filter(|h| !h.recomputed).find(between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn spans_follow_each_other_and_cover_the_leg() {
        let artifacts = fixture::small();
        let mut copies = 0;
        for request in &artifacts.requests {
            for (i, leg) in request.legs.iter().enumerate() {
                let spans = spans(request, i);
                assert_eq!(spans.first().unwrap().from, leg.submitted_us);
                assert_eq!(spans.last().unwrap().to, leg.ended_us.unwrap());
                assert!(spans.windows(2).all(|pair| pair[0].to == pair[1].from));
                copies += spans.iter().filter(|s| s.what == "copy").count();
            }
        }
        assert_eq!(copies, artifacts.requests.iter().map(|r| r.handoffs.len()).sum::<usize>());
    }

    #[test]
    fn bars_of_a_row_do_not_overlap() {
        let artifacts = fixture::small();
        let bars = artifacts.requests.iter().filter(|r| r.arm == "shared_tuned" && r.repetition == 0).map(|r| {
            let spans = spans(r, 0);
            Bar { request: r, leg: &r.legs[0], from: spans[0].from, to: spans.last().unwrap().to, spans }
        });
        let lane = pack(EngineId(0), bars.collect());
        assert!(lane.rows > 1 && lane.bars.len() == 24);
        for row in 0..lane.rows {
            let own: Vec<_> = lane.bars.iter().filter(|(r, _)| *r == row).map(|(_, b)| (b.from, b.to)).collect();
            assert!(own.windows(2).all(|pair| pair[0].1 <= pair[1].0), "row {row}: {own:?}");
        }
    }
}
