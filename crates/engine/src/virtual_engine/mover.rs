//! Copies the KV of virtual engines: nothing but time passes, yet holds, failures and releases are those of a real mover.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use dualpool_cuda::nvtx::Range;
use dualpool_kv::{KvEvent, KvMover};
use dualpool_model::{FetchRequest, Fingerprint, VirtualSettings};
use dualpool_types::{Bytes, Clock, EngineId, LegId, Micros};

use super::inbox::{Command, Inbox};

/// Events that the fleet has not read yet. An engine that finds the channel full waits.
pub(super) const KV_EVENTS_MAX: usize = 1024;

/// What copies of modelled KV go over. Tests put one in its place that is not sound.
pub trait KvLink: Send + Sync {
    /// How long a copy takes for which the timing says this.
    fn takes(&self, usual: Micros) -> Micros;

    /// What arrives of this KV, or why nothing does.
    fn carry(&self, kv: Fingerprint) -> Result<Fingerprint, String>;
}

pub(super) struct SoundLink;

impl KvLink for SoundLink {
    fn takes(&self, usual: Micros) -> Micros {
        usual
    }

    fn carry(&self, kv: Fingerprint) -> Result<Fingerprint, String> {
        Ok(kv)
    }
}

/// A handle; clones share one mover.
#[derive(Clone)]
pub struct VirtualMover(Arc<Shared>);

struct Shared {
    settings: VirtualSettings,
    link: Arc<dyn KvLink>,
    clock: Arc<dyn Clock>,
    events: mpsc::Sender<KvEvent>,
    inboxes: Vec<Arc<Inbox>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: HashMap<(EngineId, LegId), Held>,
    /// Engines without a link, for they are dead or were cut off.
    gone: HashSet<EngineId>,
}

#[derive(Clone, Copy)]
pub(super) struct Held {
    pub tokens: u32,
    pub blocks: u32,
    pub kv: Fingerprint,
}

impl VirtualMover {
    pub(super) fn new(
        settings: &VirtualSettings,
        link: Arc<dyn KvLink>,
        clock: Arc<dyn Clock>,
        inboxes: Vec<Arc<Inbox>>,
    ) -> (VirtualMover, mpsc::Receiver<KvEvent>) {
        let (events, receiver) = mpsc::channel(KV_EVENTS_MAX);
        let shared = Shared { settings: settings.clone(), link, clock, events, inboxes, state: Mutex::default() };
        (VirtualMover(Arc::new(shared)), receiver)
    }

    /// Cuts the engine's link, as if its control connection broke: it goes on serving, and lets go of all it holds.
    pub async fn cut(&self, engine: EngineId) {
        self.forget(engine);
        self.tell(KvEvent::Disconnected { engine }).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one insertion or removal, so the state is whole even if its holder panicked.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An engine holds blocks for a leg that ended.
    pub(super) async fn held(&self, engine: EngineId, leg: LegId, held: Held) {
        {
            let mut state = self.state();
            if state.gone.contains(&engine) {
                drop(state);
                return self.release(engine, leg);
            }
            state.held.insert((engine, leg), held);
        }
        self.tell(KvEvent::Held { engine, leg }).await;
    }

    pub(super) async fn released(&self, engine: EngineId, leg: LegId) {
        self.state().held.remove(&(engine, leg));
        self.tell(KvEvent::Released { engine, leg }).await;
    }

    async fn tell(&self, event: KvEvent) {
        // Fails only when the receiver is gone.
        let _ = self.0.events.send(event).await;
    }

    /// Copies the blocks that `request` names to engine `to`, and gives the source's back.
    pub(super) async fn copy(&self, request: FetchRequest, to: EngineId) -> (LegId, Option<Fingerprint>) {
        let FetchRequest { leg, source } = request;
        let takes = self.0.link.takes(self.0.settings.timing.copy(source.tokens));
        let started = self.0.clock.now();
        let copying = Range::begin(|| format!("copy {} > {to}", source.engine));
        tokio::time::sleep(Micros((takes.0 as f64 / self.0.settings.speed) as u64).into()).await;
        drop(copying);
        let result = {
            let state = self.state();
            match state.held.get(&(source.engine, source.leg)) {
                _ if state.gone.contains(&source.engine) || state.gone.contains(&to) => {
                    Err("one of the two engines has lost its KV link")
                }
                None => Err("the source holds no blocks for this leg"),
                Some(held) if held.tokens != source.tokens => Err("the source holds another number of tokens"),
                Some(held) => Ok(held.kv),
            }
        };
        let result = result.map_err(str::to_owned).and_then(|kv| self.0.link.carry(kv));
        if result.is_ok() {
            self.release(source.engine, source.leg);
        }
        self.tell(KvEvent::Fetched {
            leg,
            source: source.leg,
            from: source.engine,
            to,
            // Copies by the model go beside each other.
            waited: Micros::ZERO,
            started,
            copy: self.0.clock.now().since(started),
            bytes: Bytes(if result.is_ok() { u64::from(source.tokens) * self.0.settings.kv_bytes_per_token } else { 0 }),
            byte_ranges: u32::from(result.is_ok()),
            error: result.as_ref().err().cloned(),
        })
        .await;
        (leg, result.ok())
    }
}

#[async_trait::async_trait]
impl KvMover for VirtualMover {
    fn release(&self, engine: EngineId, leg: LegId) {
        if let Some(inbox) = self.0.inboxes.get(engine.index()) {
            inbox.push(Command::Release(leg));
        }
    }

    fn held_blocks(&self) -> u64 {
        self.state().held.values().map(|held| u64::from(held.blocks)).sum()
    }

    fn forget(&self, engine: EngineId) {
        let mut state = self.state();
        state.gone.insert(engine);
        let held: Vec<LegId> = state.held.extract_if(|&(holder, _), _| holder == engine).map(|((_, leg), _)| leg).collect();
        drop(state);
        // An engine that still lives notices that its link is gone, and gives its blocks back; a dead one takes no commands.
        held.into_iter().for_each(|leg| self.release(engine, leg));
    }

    async fn shutdown(self: Box<Self>) {
        // Copies run in the tasks of the engines they go to, and end with them.
    }
}
