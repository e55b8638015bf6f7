//! The callers that wait for an engine to be drained.

use anyhow::anyhow;
use tokio::sync::oneshot;

use dualpool_host::{Entry, Fold};
use dualpool_router::{Action, Event};
use dualpool_types::records::RouterNote;
use dualpool_types::{EngineId, Time};

/// Callers that wait at a time; further ones are refused.
const WAITING_MAX: usize = 64;

type Answer = oneshot::Sender<anyhow::Result<()>>;

#[derive(Default)]
pub(super) struct Drains(Vec<(EngineId, Answer)>);

impl Drains {
    pub(super) fn wait(&mut self, engine: EngineId, answer: Answer) {
        self.0.retain(|(_, answer)| !answer.is_closed());
        if self.0.len() >= WAITING_MAX {
            let why = anyhow!(
                "{WAITING_MAX} callers wait for drains already; {engine} is drained, but this call cannot wait until it is empty"
            );
            // A caller that no longer waits is not told: here, and below.
            return drop(answer.send(Err(why)));
        }
        self.0.push((engine, answer));
    }

    /// The engine is no longer being drained.
    fn ended(&mut self, engine: EngineId, why: &str) {
        self.answer(engine, || Err(anyhow!("{engine} was not drained: {why}")));
    }

    fn answer(&mut self, engine: EngineId, result: impl Fn() -> anyhow::Result<()>) {
        for (_, answer) in self.0.extract_if(.., |(of, _)| *of == engine) {
            let _ = answer.send(result());
        }
    }
}

impl Fold for Drains {
    fn entry(&mut self, _: Time, entry: &Entry<'_>) {
        match *entry {
            Entry::Action(Action::Note(note), _) => match &**note {
                RouterNote::Drained { engine } => self.answer(*engine, || Ok(())),
                RouterNote::DrainEnded { engine, why } => self.ended(*engine, why),
                _ => {}
            },
            Entry::Event(&Event::Undrain { engine }) => self.ended(engine, "it was told to take requests again"),
            Entry::Event(&Event::EngineDied { engine, .. }) => self.ended(engine, "it died, and its requests went on elsewhere"),
            _ => {}
        }
    }
}
