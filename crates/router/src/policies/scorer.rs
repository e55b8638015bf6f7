//! The score of an engine for a request: a weighted sum of what speaks for it and what speaks against it.
//!
//! ```text
//! score = alpha / TTFT + alpha' / ITL + beta * prefill rate + beta' * decode rate + gamma * free memory + locality
//!         - delta * queue - urgency - hand-off - cost per hour                            (each with its weight `router.score.*`)
//! ```
//! Every term is between 0 and 1. A raw sum does not do: gigabytes of free memory drown the inverse of milliseconds. Quantities are
//! divided by the largest one among the candidates, which keeps their ratio: a hundredth more is a hundredth more. (Spreading them from
//! the least to the largest would turn noise between equals into the full weight.) Shares of the request's own - of its prompt, of its
//! objective - mean the same on any fleet and stay as they are.
//!
//! A term that is not known of a candidate is the mean of those of which it is: nothing speaks for or against the unknown, so that a
//! new engine neither draws a herd nor starves. One that is not known of any is one half for all, and has no say.

use dualpool_types::EngineId;

use crate::explain::Terms;
use crate::fleet::{EngineState, FleetView, Signal};
use crate::placement::Ask;
use crate::settings::ScoreSettings;

/// What is scored: a stay for the whole request, or for one half of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Whole,
    /// The request will decode on this engine, as far as one can tell.
    Prefill {
        to: Option<EngineId>,
    },
    /// Its KV is on this engine.
    Decode {
        from: EngineId,
    },
}

pub(super) const TERMS: usize = 10;
const TTFT: usize = 0;
const ITL: usize = 1;
const PREFILL_RATE: usize = 2;
const DECODE_RATE: usize = 3;
const MEMORY: usize = 4;
const LOCALITY: usize = 5;
const QUEUE: usize = 6;
const URGENCY: usize = 7;
const HANDOFF: usize = 8;
const COST: usize = 9;

const NAMES: [&str; TERMS] =
    ["ttft", "itl", "prefill_rate", "decode_rate", "memory", "locality", "queue", "urgency", "handoff", "cost"];

/// One value per term; NaN where it is not known.
type Row = [f64; TERMS];
const UNKNOWN: f64 = f64::NAN;

impl Stage {
    /// Whether the term is a question at this stage.
    fn asks(self, term: usize) -> bool {
        match self {
            Stage::Whole => term != HANDOFF,
            Stage::Prefill { .. } => ![ITL, DECODE_RATE].contains(&term),
            Stage::Decode { .. } => ![TTFT, PREFILL_RATE, URGENCY].contains(&term),
        }
    }
}

/// Scores fleets; owns the memory that this takes, so that a decision allocates nothing once the fleet's size is known.
#[derive(Debug)]
pub(crate) struct Scorer {
    /// Those of terms against an engine are negative.
    weights: Row,
    /// By engine.
    rows: Vec<Row>,
    costs: Vec<f64>,
}

impl Scorer {
    pub(crate) fn new(settings: &ScoreSettings) -> Scorer {
        let weights = NAMES.map(|name| settings.weight(name).unwrap_or_default());
        Scorer { weights, rows: Vec::new(), costs: Vec::new() }
    }

    /// The score of every engine alive that fits, by engine, with its sign turned: the lowest is the best. Infinite for the others.
    pub(crate) fn costs<T: Terms>(
        &mut self,
        fleet: &FleetView<'_>,
        ask: &Ask,
        stage: Stage,
        fits: impl Fn(&EngineState) -> bool,
        terms: &mut T,
    ) -> &[f64] {
        let Scorer { weights, rows, costs } = self;
        rows.resize(fleet.engines.len(), [UNKNOWN; TERMS]);
        costs.resize(fleet.engines.len(), f64::INFINITY);
        let (mut sum, mut known, mut max) = ([0.0; TERMS], [0.0; TERMS], [0.0; TERMS]);
        for (engine, row) in fleet.engines.iter().zip(rows.iter_mut()) {
            if !engine.takes_work() || !fits(engine) {
                continue;
            }
            *row = raw(fleet, ask, stage, engine);
            for (term, value) in row.iter_mut().enumerate() {
                if value.is_finite() {
                    *value = value.max(0.0);
                    sum[term] += *value;
                    known[term] += 1.0;
                    max[term] = f64::max(max[term], *value);
                } else {
                    *value = UNKNOWN;
                }
            }
        }
        let scale: Row = std::array::from_fn(|term| match term {
            LOCALITY | URGENCY => 1.0,
            // Where all are zero they stay so; one over the smallest numbers is not finite.
            _ if max[term] < f64::MIN_POSITIVE => 0.0,
            _ => 1.0 / max[term],
        });
        let neutral: Row = std::array::from_fn(|term| match known[term] {
            0.0 => 0.5,
            known => share(sum[term] / known * scale[term]),
        });
        for ((engine, row), cost) in fleet.engines.iter().zip(rows.iter()).zip(costs.iter_mut()) {
            if !engine.takes_work() || !fits(engine) {
                *cost = f64::INFINITY;
                continue;
            }
            *cost = 0.0;
            for (term, &value) in row.iter().enumerate() {
                let value = if value.is_nan() { neutral[term] } else { share(value * scale[term]) };
                *cost -= weights[term] * value;
                if stage.asks(term) {
                    terms.term(engine.id, NAMES[term], value);
                }
            }
        }
        costs
    }
}

/// Between 0 and 1, whatever rounding made of it.
fn share(value: f64) -> f64 {
    value.clamp(0.0, 1.0)
}

/// The terms in their own units, larger for more of what they are called, but for times, which are inverted: faster is larger.
fn raw(fleet: &FleetView<'_>, ask: &Ask, stage: Stage, engine: &EngineState) -> Row {
    let (signals, now, costs) = (&engine.signals, fleet.now, fleet.costs);
    let signal = |signal| signals.get(signal, now).unwrap_or(UNKNOWN);
    let prompt = f64::from(ask.prompt_tokens);
    let (uncached, pace) = (fleet.uncached(engine.id, prompt), fleet.pace(engine));
    let mut row = [UNKNOWN; TERMS];
    if stage.asks(TTFT) {
        // What this prompt takes on an idle engine, times how much longer than that prompts took there lately.
        row[TTFT] = 1.0 / (signal(Signal::Stretch) * costs.alone(uncached.max(1.0)));
        row[PREFILL_RATE] = signal(Signal::PrefillRate);
        row[URGENCY] = share(pace * fleet.ttft(engine, prompt) / ask.objectives.ttft_us_max.0 as f64);
    }
    if stage.asks(ITL) {
        row[ITL] = 1.0 / signal(Signal::Itl);
        row[DECODE_RATE] = signal(Signal::DecodeRate);
    }
    row[MEMORY] = (1.0 - engine.kv_usage()) * engine.facts.kv_tokens as f64;
    row[LOCALITY] = (prompt - uncached) / prompt;
    row[QUEUE] = pace * fleet.work(engine);
    row[HANDOFF] = match stage {
        Stage::Whole | Stage::Prefill { to: None } => UNKNOWN,
        Stage::Prefill { to: Some(to) } => fleet.handoff(engine.id, to, fleet.uncached(to, prompt)),
        Stage::Decode { from } => fleet.handoff(from, engine.id, uncached),
    };
    row[COST] = engine.facts.cost_per_hour.unwrap_or(UNKNOWN);
    row
}
