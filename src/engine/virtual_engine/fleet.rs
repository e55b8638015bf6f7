//! A fleet of virtual engines, ready for a controller.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::core::{Clock, EngineId};
use crate::engine::{ENGINE_EVENTS_MAX, Engine, EngineEvents, Fleet};
use crate::migrate::MoveEvent;

use super::inbox::Inbox;
use super::{VirtualEngine, VirtualMover, VirtualSettings};

pub struct VirtualFleet {
    pub fleet: Fleet,
    pub events: EngineEvents,
    /// The same engines, for tests that kill one.
    pub engines: Vec<VirtualEngine>,
    pub mover: VirtualMover,
    pub moves: mpsc::Receiver<MoveEvent>,
}

impl VirtualFleet {
    /// Starts this many engines; in a tokio runtime. They end with `Engine::shutdown`, or with the runtime.
    pub fn start(engines: usize, settings: &VirtualSettings, clock: Arc<dyn Clock>) -> VirtualFleet {
        let inboxes: Vec<Arc<Inbox>> = (0..engines).map(|_| Arc::default()).collect();
        let (mover, moves) = VirtualMover::new(settings, clock.clone(), inboxes.clone());
        let (sender, events) = mpsc::channel(ENGINE_EVENTS_MAX);
        let engines: Vec<VirtualEngine> = (0..)
            .map(EngineId)
            .zip(inboxes)
            .map(|(id, inbox)| VirtualEngine::start(id, settings, inbox, mover.clone(), sender.clone(), clock.clone()))
            .collect();
        let fleet = engines.iter().map(|engine| Box::new(engine.clone()) as Box<dyn Engine>).collect();
        VirtualFleet { fleet, events, engines, mover, moves }
    }
}
