//! Virtual engines with what moves KV between them, ready to be served by.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use dualpool_kv::KvEvent;
use dualpool_model::VirtualSettings;
use dualpool_types::{Clock, EngineId};

use super::engine::Kv;
use super::inbox::Inbox;
use super::kv::{KvPlace, Lender};
use super::mover::SoundLink;
use super::{KvLink, VirtualEngine, VirtualMover};
use crate::{ENGINE_EVENTS_MAX, Engine, EngineEvents, Engines};

pub struct VirtualEngines {
    pub engines: Engines,
    pub events: EngineEvents,
    /// The same engines, for tests that kill one.
    pub handles: Vec<VirtualEngine>,
    pub mover: VirtualMover,
    pub moves: mpsc::Receiver<KvEvent>,
}

impl VirtualEngines {
    /// Starts this many engines; in a tokio runtime. They end with `Engine::shutdown`, or with the runtime.
    pub fn start(engines: usize, settings: &VirtualSettings, clock: Arc<dyn Clock>) -> VirtualEngines {
        VirtualEngines::start_over(Arc::new(SoundLink), engines, settings, clock)
    }

    /// The same with a link of the caller's making.
    pub fn start_over(link: Arc<dyn KvLink>, engines: usize, settings: &VirtualSettings, clock: Arc<dyn Clock>) -> VirtualEngines {
        let inboxes: Vec<Arc<Inbox>> = (0..engines).map(|_| Arc::default()).collect();
        let (mover, moves) = VirtualMover::new(settings, link, clock.clone(), inboxes.clone());
        let (sender, events) = mpsc::channel(ENGINE_EVENTS_MAX);
        let handles: Vec<VirtualEngine> = (0..)
            .map(EngineId)
            .zip(inboxes)
            .map(|(id, inbox)| {
                VirtualEngine::start(id, settings, inbox, Kv::Modelled(mover.clone()), sender.clone(), clock.clone())
            })
            .collect();
        let engines = handles.iter().map(|engine| Box::new(engine.clone()) as Box<dyn Engine>).collect();
        VirtualEngines { engines, events, handles, mover, moves }
    }
}

/// Starts an engine per place, whose KV memory lies there and is copied by the KV server that listens at `socket`. In a tokio runtime; waits
/// until all memory is registered. The engines end with `Engine::shutdown`, which is to come before the KV server ends.
pub async fn start_with_memory(
    places: &[KvPlace],
    socket: &Path,
    settings: &VirtualSettings,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<(Engines, EngineEvents)> {
    let (sender, events) = mpsc::channel(ENGINE_EVENTS_MAX);
    let mut engines: Vec<Box<dyn Engine>> = Vec::with_capacity(places.len());
    for (id, place) in (0..).map(EngineId).zip(places) {
        let inbox: Arc<Inbox> = Arc::default();
        let (socket, settings_of_engine, place, its) = (socket.to_path_buf(), settings.clone(), place.clone(), inbox.clone());
        let opening = tokio::task::spawn_blocking(move || Lender::open(&socket, id, &settings_of_engine, &place, its));
        let kv = Kv::Lent(opening.await??);
        engines.push(Box::new(VirtualEngine::start(id, settings, inbox, kv, sender.clone(), clock.clone())));
    }
    Ok((engines.into(), events))
}
