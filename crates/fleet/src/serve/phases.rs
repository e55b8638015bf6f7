//! What every request is at, as ranges on a profiler's timeline.

use dualpool_cuda::nvtx::Range;
use dualpool_host::{Entry, Fold};
use dualpool_router::{Action, Event};
use dualpool_types::{EngineId, IdMap, LegId, RequestId, Time};

/// One range per request that is with an engine.
#[derive(Debug, Default)]
pub(super) struct Phases(IdMap<RequestId, Phase>);

#[derive(Debug)]
struct Phase {
    leg: LegId,
    engine: EngineId,
    decodes: bool,
    range: Range,
}

impl Fold for Phases {
    fn entry(&mut self, _: Time, entry: &Entry<'_>) {
        match *entry {
            Entry::Action(Action::Submit { engine, leg }, _) => {
                // One ends before the next one begins.
                self.0.remove(&leg.id.request);
                let range = Range::begin(|| match leg.kv_source {
                    Some(source) => format!("handoff {} > {engine}", source.engine),
                    None => format!("prefill {engine}"),
                });
                self.0.insert(leg.id.request, Phase { leg: leg.id, engine: *engine, decodes: false, range });
            }
            Entry::Event(Event::Output { leg, tokens, finish, .. }) => {
                let Some(phase) = self.0.get_mut(&leg.request).filter(|phase| phase.leg == *leg) else { return };
                if !tokens.is_empty() && !std::mem::replace(&mut phase.decodes, true) {
                    phase.range = Range::default();
                    phase.range = Range::begin(|| format!("decode {}", phase.engine));
                }
                if finish.is_some() {
                    self.0.remove(&leg.request);
                }
            }
            Entry::Action(Action::Finish { request, .. }, _) => {
                self.0.remove(request);
            }
            _ => {}
        }
    }
}
