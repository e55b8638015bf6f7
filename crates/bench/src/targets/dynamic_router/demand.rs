//! The workloads of the target, sized for a run and fitted to its engines.

use std::path::PathBuf;

use anyhow::{Context, bail};

use dualpool_types::{Failure, Micros};
use dualpool_workload::trace::{Replay, ReplayOptions, ReplayReport, open};
use dualpool_workload::{Lengths, Mixed, ModelLimits, PrefixSessions, TwoWave, WorkItem};

use crate::{Settings, WorkloadKind};

/// Requests of a repetition, at most: their records are kept in memory until the run is over.
const REQUESTS_MAX: u32 = 100_000;

/// What the workloads' own times suit: engines that take so long for this prompt when it is alone.
pub(super) const PROBE_TOKENS: u32 = 1024;
const PROBE: Micros = Micros(700_000);

/// Conversations as they are measured here: questions so long that it matters where the history lies, and pauses so short that a
/// repetition is one of seconds.
fn sessions(settings: &Settings) -> PrefixSessions {
    PrefixSessions {
        sessions: settings.dynamic_router.sessions,
        prefixes: 6,
        turns: 3..=5,
        question: Lengths { median: 160, spread: 0.5, min: 48, max: 512 },
        think: Micros(1_000_000),
        long_prompt_tokens_min: settings.router.prefill_ctx_thresh,
        ..PrefixSessions::default()
    }
}

/// One workload: what is asked of the engines in a repetition.
#[derive(Clone, Debug)]
pub(super) enum Demand {
    Mixed(Mixed),
    TwoWave(TwoWave),
    Sessions(PrefixSessions),
    Trace { path: PathBuf, speed: f64, offset: u64, limit: Option<u32>, long_prompt_tokens_min: u32 },
}

impl Demand {
    pub(super) fn new(kind: WorkloadKind, settings: &Settings) -> Demand {
        let chosen = &settings.dynamic_router;
        match kind {
            WorkloadKind::Mixed => Demand::Mixed(Mixed { requests: chosen.requests, ..Mixed::default() }),
            WorkloadKind::TwoWaveImbalance => {
                // With one engine there is none to be idle; the workload is the same as for two.
                let engines = (settings.pools.engines() as u32).max(2);
                Demand::TwoWave(TwoWave { rounds: chosen.rounds, engines, ..TwoWave::default() })
            }
            WorkloadKind::PrefixSessions => Demand::Sessions(sessions(settings)),
            WorkloadKind::Trace => Demand::Trace {
                path: chosen.trace.clone(),
                speed: chosen.replay_speed,
                offset: chosen.offset,
                limit: (chosen.limit > 0).then_some(chosen.limit),
                long_prompt_tokens_min: settings.router.prefill_ctx_thresh,
            },
        }
    }

    /// Refuses what no engine with such a context could serve, and a trace that cannot be read.
    pub(super) fn check(&self, model: ModelLimits) -> anyhow::Result<()> {
        match self {
            Demand::Mixed(mixed) => drop(mixed.items(model, 0).map_err(Failure::from).context("mixed")?),
            Demand::TwoWave(waves) => drop(waves.items(model, 0).map_err(Failure::from).context("two_wave_imbalance")?),
            Demand::Sessions(sessions) => drop(sessions.items(model, 0).map_err(Failure::from).context("prefix_sessions")?),
            Demand::Trace { .. } => drop(self.replay(model, 0)?),
        }
        Ok(())
    }

    /// How its requests arrive, as artifacts say it.
    pub(super) fn arrivals(&self) -> &'static str {
        match self {
            Demand::Mixed(_) | Demand::Sessions(_) => "poisson",
            Demand::TwoWave(_) => "planned",
            Demand::Trace { .. } => "recorded",
        }
    }

    /// About this share of the requests, at least one whole of what they come in.
    pub(super) fn scaled(&self, share: f64) -> Demand {
        let scale = |count: u32| ((f64::from(count) * share).round() as u32).max(1);
        match self.clone() {
            Demand::Mixed(mixed) => Demand::Mixed(Mixed { requests: scale(mixed.requests), ..mixed }),
            Demand::TwoWave(waves) => Demand::TwoWave(TwoWave { rounds: scale(waves.rounds), ..waves }),
            Demand::Sessions(sessions) => Demand::Sessions(PrefixSessions { sessions: scale(sessions.sessions), ..sessions }),
            Demand::Trace { path, speed, offset, limit, long_prompt_tokens_min } => {
                Demand::Trace { path, speed, offset, limit: limit.map(scale), long_prompt_tokens_min }
            }
        }
    }

    /// The first so many of all its requests, in whole units of what they come in.
    pub(super) fn cut(&self, requests: u32, all: usize) -> Demand {
        match self.clone() {
            Demand::Trace { path, speed, offset, long_prompt_tokens_min, .. } if (requests as usize) < all => {
                Demand::Trace { path, speed, offset, limit: Some(requests), long_prompt_tokens_min }
            }
            whole => whole.scaled(f64::from(requests) / all.max(1) as f64),
        }
    }

    /// So many of all its requests, or the next more that are whole units of what they come in.
    pub(super) fn whole(&self, requests: u32, all: usize) -> u32 {
        let units = match self {
            Demand::Mixed(mixed) => mixed.requests,
            Demand::TwoWave(waves) => waves.rounds,
            Demand::Sessions(sessions) => sessions.sessions,
            Demand::Trace { .. } => return requests,
        };
        let unit = all as f64 / f64::from(units.max(1));
        ((f64::from(requests) / unit).ceil() * unit).round() as u32
    }

    /// Whether it is offered at a rate of its own, which has to be found.
    pub(super) fn has_rate(&self) -> bool {
        matches!(self, Demand::Mixed(_) | Demand::Sessions(_))
    }

    /// The same at so many requests per second, where it has a rate.
    pub(super) fn at_rate(&self, rps: f64) -> Demand {
        match self.clone() {
            Demand::Mixed(mixed) => Demand::Mixed(Mixed { rate: rps, ..mixed }),
            Demand::Sessions(sessions) => {
                let turns = f64::from(sessions.turns.start() + sessions.turns.end()) / 2.0;
                Demand::Sessions(PrefixSessions { rate: rps / turns, ..sessions })
            }
            other => other,
        }
    }

    /// What to multiply the workload's own times by on engines that take `probe` for a prompt of `PROBE_TOKENS`; none where it has none:
    /// a trace's times are the trace's.
    pub(super) fn pace(&self, probe: Micros) -> Option<f64> {
        let has_times = matches!(self, Demand::TwoWave(_) | Demand::Sessions(_));
        has_times.then(|| (probe.0.max(1) as f64 / PROBE.0 as f64).clamp(1e-4, 1e4))
    }

    pub(super) fn paced(&self, pace: f64) -> Demand {
        let stretched = |span: Micros| Micros((span.0 as f64 * pace).round() as u64);
        match self.clone() {
            Demand::TwoWave(waves) => Demand::TwoWave(TwoWave { pace, ..waves }),
            Demand::Sessions(sessions) => Demand::Sessions(PrefixSessions {
                think: stretched(sessions.think),
                planned_ttft: stretched(sessions.planned_ttft),
                planned_itl: stretched(sessions.planned_itl),
                ..sessions
            }),
            other => other,
        }
    }

    /// The requests in order of arrival, and what became of the rows of a trace.
    pub(super) fn items(&self, model: ModelLimits, seed: u64) -> anyhow::Result<(Vec<WorkItem>, Option<ReplayReport>)> {
        Ok(match self {
            Demand::Mixed(mixed) => (mixed.items(model, seed).map_err(Failure::from)?.collect(), None),
            Demand::TwoWave(waves) => (waves.items(model, seed).map_err(Failure::from)?.collect(), None),
            Demand::Sessions(sessions) => (sessions.items(model, seed).map_err(Failure::from)?.collect(), None),
            Demand::Trace { .. } => {
                let mut replay = self.replay(model, seed)?;
                let mut items = Vec::new();
                for item in replay.by_ref() {
                    if items.len() as u32 >= REQUESTS_MAX {
                        bail!("the trace has more than {REQUESTS_MAX} requests; set --limit to a part of them");
                    }
                    items.push(item.map_err(Failure::from)?);
                }
                let report = replay.report();
                (items, Some(report))
            }
        })
    }

    fn replay(&self, model: ModelLimits, seed: u64) -> anyhow::Result<Replay<impl std::io::BufRead + use<>>> {
        let Demand::Trace { path, speed, offset, limit, long_prompt_tokens_min } = self else {
            bail!("only a trace is replayed");
        };
        let options = ReplayOptions {
            speed: *speed,
            offset: *offset,
            limit: *limit,
            long_prompt_tokens_min: *long_prompt_tokens_min,
            seed,
            ..ReplayOptions::new(model)
        };
        let file = open(path).map_err(Failure::from)?;
        Ok(Replay::new(file, options).map_err(Failure::from)?)
    }
}

/// The same requests, all arriving at once and in the same order.
pub(super) fn upfront(mut items: Vec<WorkItem>) -> Vec<WorkItem> {
    items.iter_mut().for_each(|item| item.at = Micros::ZERO);
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::Wave;

    const MODEL: ModelLimits = ModelLimits { vocab_size: 1000, max_model_len: 4608 };

    fn demands() -> [Demand; 3] {
        WorkloadKind::SYNTHETIC.map(|kind| Demand::new(kind, &Settings::default()))
    }

    fn items(demand: &Demand) -> Vec<WorkItem> {
        demand.items(MODEL, 1).unwrap().0
    }

    #[test]
    fn shares_keep_at_least_one_of_what_there_is() {
        for demand in demands() {
            demand.check(MODEL).unwrap();
            let (whole, part) = (items(&demand).len(), items(&demand.scaled(0.01)).len());
            assert!(part >= 1 && part < whole, "{demand:?}: {part} of {whole}");
        }
    }

    #[test]
    fn what_is_cut_stays_whole() {
        let [mixed, waves, conversations] = demands();
        let cut = |demand: &Demand, requests: u32| {
            let all = items(demand).len();
            let whole = demand.whole(requests, all);
            (whole, items(&demand.cut(whole, all)).len() as u32)
        };
        assert_eq!(cut(&mixed, 25), (25, 25));
        let all = items(&waves).len() as u32;
        let (both, one) = ((all, all), (all / 2, all / 2));
        assert_eq!([all, all - 1, all / 2, 1].map(|requests| cut(&waves, requests)), [both, both, one, one], "two rounds");
        // Conversations have three to five turns each.
        let (whole, made) = cut(&conversations, 21);
        assert!((21..=25).contains(&whole) && (15..=30).contains(&made), "{whole} and {made}");
    }

    /// On engines ten times as fast everything comes ten times as early, and nothing else changes.
    #[test]
    fn pace_stretches_the_times_of_workloads_that_have_times() {
        let [mixed, waves, sessions] = demands();
        assert_eq!((mixed.pace(PROBE), mixed.has_rate(), mixed.arrivals()), (None, true, "poisson"));
        assert_eq!((waves.pace(PROBE), waves.has_rate(), waves.arrivals()), (Some(1.0), false, "planned"));
        assert_eq!(sessions.pace(Micros(70_000)), Some(0.1));
        let fast = items(&waves.paced(0.1));
        for (slow, fast) in items(&waves).iter().zip(&fast) {
            assert_eq!((fast.at.0, &fast.prompt), ((slow.at.0 as f64 / 10.0).round() as u64, &slow.prompt));
        }
        let end = |demand: &Demand| items(demand).last().unwrap().at.as_secs();
        let (slow, fast) = (end(&sessions.at_rate(4.0)), end(&sessions.paced(0.1).at_rate(40.0)));
        assert!((slow / fast - 10.0).abs() < 0.1, "{slow} s and {fast} s");
    }

    #[test]
    fn the_first_wave_is_still_there_when_the_foreground_comes() {
        let waves = items(&demands()[1]);
        let foreground = waves.iter().find(|item| item.wave == Some(Wave::Foreground)).unwrap().at;
        let longs: usize = waves.iter().filter(|i| i.at < foreground && i.prompt.len() > 256).map(|i| i.prompt.len()).sum();
        // All of them on one engine, which takes `PROBE` for `PROBE_TOKENS`.
        let busy_s = PROBE.as_secs() * longs as f64 / f64::from(PROBE_TOKENS);
        assert!(busy_s > 2.0 * foreground.as_secs(), "busy for {busy_s} s, the foreground comes at {foreground}");
    }

    #[test]
    fn sessions_come_at_the_rate_of_their_turns() {
        let demand = Demand::Sessions(PrefixSessions { sessions: 2000, think: Micros::ZERO, ..sessions(&Settings::default()) });
        let all = items(&demand.at_rate(8.0));
        let rate = all.len() as f64 / all.last().unwrap().at.as_secs();
        assert!((7.5..8.5).contains(&rate), "{rate} requests/s");
    }

    #[test]
    fn a_context_that_is_too_small_and_a_trace_that_is_not_there_are_refused() {
        let [mixed, _, _] = demands();
        let error = mixed.check(ModelLimits { max_model_len: 512, ..MODEL }).unwrap_err();
        assert!(format!("{error:#}").contains("mixed: long_prompt.max"), "{error:#}");
        let mut settings = Settings::default();
        settings.dynamic_router.trace = "/nonexistent.jsonl".into();
        let error = Demand::new(WorkloadKind::Trace, &settings).check(MODEL).unwrap_err().to_string();
        assert!(error.contains("cannot open the trace /nonexistent.jsonl"), "{error}");
    }
}
