//! Lends a virtual engine's KV memory: holds what it computed, fetches what another one did, and gives blocks back.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::oneshot;

use dualpool_kv::wire::{FetchGroup, LegName, Source, ToBroker, ToEngine};
use dualpool_model::{Fingerprint, VirtualSettings};
use dualpool_types::{BlockId, EngineId, KvSource, LegId};

use super::super::inbox::{Command, Inbox};
use super::link::{Link, buffer};
use super::shape::{Shape, mixed};
use super::store::{Content, KvPlace, Store};

/// What became of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// The blocks hold the KV of these tokens.
    Kv(Fingerprint),
    /// They were not fetched; the engine computes.
    Nothing,
    /// They hold something else, or cannot be read: an engine that went on would give wrong tokens.
    Wrong(String),
}

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Lender(Arc<Shared>);

struct Shared {
    engine: EngineId,
    block_size: u32,
    link: Link,
    store: Mutex<Store>,
    state: Mutex<State>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    free: BTreeSet<BlockId>,
    held: HashMap<LegId, Vec<BlockId>>,
    fetching: HashMap<LegId, oneshot::Sender<Result<(), String>>>,
    /// The broker has closed its end: no copy reads from or writes to this memory any more.
    closed: bool,
}

impl Lender {
    /// Makes the memory and registers it. Blocks: a leg that is aborted while its KV is on its way has given its blocks back to the
    /// scheduler, not to the mover yet; so there are twice as many as the scheduler counts.
    pub(crate) fn open(
        socket: &Path,
        engine: EngineId,
        settings: &VirtualSettings,
        place: &KvPlace,
        inbox: Arc<Inbox>,
    ) -> anyhow::Result<Lender> {
        let shape = Shape { block_size: settings.block_size, blocks: 2 * settings.kv_blocks };
        let store = Store::open(place, shape).with_context(|| format!("{engine} has no KV memory"))?;
        let link = Link::open(socket, engine, shape.register(store.kind()), store.fd())
            .with_context(|| format!("{engine} cannot lend its KV memory"))?;
        let state =
            State { free: (0..shape.blocks).map(BlockId).collect(), held: HashMap::new(), fetching: HashMap::new(), closed: false };
        let shared = Arc::new(Shared {
            engine,
            block_size: settings.block_size,
            link,
            store: Mutex::new(store),
            state: Mutex::new(state),
            reader: Mutex::default(),
        });
        let listens = shared.clone();
        let reader = std::thread::Builder::new().name(format!("{engine}-kv")).spawn(move || listens.listen(&inbox))?;
        *lock(&shared.reader) = Some(reader);
        Ok(Lender(shared))
    }

    /// The leg is over and its KV is kept. Returns false when it cannot be: the caller lets go of it.
    pub(crate) async fn hold(&self, leg: LegId, tokens: u32, kv: Fingerprint) -> bool {
        let Some(blocks) = self.0.take_blocks(tokens) else { return false };
        let contents = contents(&blocks, kv);
        let filled = self.with_store(move |store| store.fill(&contents)).await;
        {
            let mut state = lock(&self.0.state);
            if filled.is_err() || state.closed {
                state.free.extend(blocks);
                return false;
            }
            state.held.insert(leg, blocks.clone());
        }
        let groups = vec![blocks.into_iter().map(Some).collect()];
        if self.0.say(&ToBroker::Held { leg: LegName(leg), tokens, groups }) {
            return true;
        }
        self.0.forget(leg);
        false
    }

    pub(crate) fn released(&self, leg: LegId) {
        if self.0.forget(leg) {
            self.0.say(&ToBroker::Released { leg: LegName(leg) });
        }
    }

    /// The leg ended before it asked for what it was to fetch.
    pub(crate) fn skip(&self, leg: LegId, source: KvSource) {
        self.0.say(&ToBroker::Skip { leg: LegName(leg), source: wire(source) });
    }

    /// Has the KV of the source copied into blocks of this engine, and compares it with what these tokens must have given.
    pub(crate) async fn fetch(&self, leg: LegId, source: KvSource, expected: Fingerprint) -> Fetched {
        let Some(blocks) = self.0.take_blocks(source.tokens) else { return Fetched::Nothing };
        let outcome = self.copied(leg, source, &blocks).await;
        let fetched = match outcome {
            Err(why) => {
                tracing::warn!("leg {leg} computes its prompt itself, because its KV was not fetched: {why}");
                Fetched::Nothing
            }
            Ok(()) => {
                let contents = contents(&blocks, expected);
                let count = contents.len();
                match self.with_store(move |store| store.wrong(&contents)).await {
                    Ok(None) => Fetched::Kv(expected),
                    Ok(Some(block)) => Fetched::Wrong(format!(
                        "block {} of the {count} that were fetched for leg {leg} holds wrong bytes",
                        block.0
                    )),
                    Err(error) => Fetched::Wrong(format!("the KV fetched for leg {leg} cannot be read: {error:#}")),
                }
            }
        };
        lock(&self.0.state).free.extend(blocks);
        fetched
    }

    async fn copied(&self, leg: LegId, source: KvSource, blocks: &[BlockId]) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = lock(&self.0.state);
            if state.closed {
                return Err("the control connection is cut".into());
            }
            state.fetching.insert(leg, answer);
        }
        let groups = vec![FetchGroup { first: 0, blocks: blocks.iter().copied().map(Some).collect() }];
        if !self.0.say(&ToBroker::Fetch { leg: LegName(leg), source: wire(source), groups }) {
            lock(&self.0.state).fetching.remove(&leg);
            return Err("the broker could not be told".into());
        }
        answered.await.unwrap_or_else(|_| Err("the control connection is cut".into()))
    }

    /// Ends the link, waits until the memory is not mapped elsewhere any more, and frees it.
    pub(crate) async fn close(self) {
        self.0.link.give_up();
        let reader = lock(&self.0.reader).take();
        if let Some(reader) = reader
            && tokio::task::spawn_blocking(move || reader.join()).await.is_err()
        {
            tracing::error!("{}: the thread that reads its control link panicked", self.0.engine);
        }
    }

    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let shared = self.0.clone();
        tokio::task::spawn_blocking(move || work(&mut lock(&shared.store))).await?
    }
}

impl Shared {
    /// Takes in what the broker says, until it closes its end.
    fn listen(&self, inbox: &Inbox) {
        let mut buffer = buffer();
        loop {
            match self.link.receive(&mut buffer) {
                Ok(Some(ToEngine::Fetched { leg, error })) => {
                    let waits = lock(&self.state).fetching.remove(&leg.0);
                    // The answer is not waited for once the engine's task has ended.
                    waits.map(|answer| answer.send(error.map_or(Ok(()), Err)));
                }
                Ok(Some(ToEngine::Release { leg })) => inbox.push(Command::Release(leg.0)),
                Ok(Some(ToEngine::Refused { why })) => tracing::warn!("{}: the broker closes its connection: {why}", self.engine),
                Ok(Some(other)) => tracing::warn!("{}: ignoring {other:?} of the broker", self.engine),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!("{}: the broker sent garbage: {error}", self.engine);
                    self.link.give_up();
                }
            }
        }
        let mut state = lock(&self.state);
        state.closed = true;
        // A waiting leg finds its sender gone.
        state.fetching.clear();
        state.held.keys().for_each(|&leg| inbox.push(Command::Release(leg)));
    }

    fn take_blocks(&self, tokens: u32) -> Option<Vec<BlockId>> {
        let count = tokens.div_ceil(self.block_size) as usize;
        let mut state = lock(&self.state);
        if state.free.len() < count {
            tracing::warn!("{}: {count} blocks are needed and {} are free", self.engine, state.free.len());
            return None;
        }
        let taken: Vec<BlockId> = state.free.iter().take(count).copied().collect();
        taken.iter().for_each(|block| {
            state.free.remove(block);
        });
        Some(taken)
    }

    /// The blocks held for this leg are free again. Returns whether there were any.
    fn forget(&self, leg: LegId) -> bool {
        let mut state = lock(&self.state);
        let blocks = state.held.remove(&leg);
        let any = blocks.is_some();
        state.free.extend(blocks.into_iter().flatten());
        any
    }

    fn say(&self, message: &ToBroker) -> bool {
        let said = self.link.send(message);
        if let Err(error) = &said {
            tracing::warn!("{}: the broker cannot be told: {error:#}", self.engine);
        }
        said.is_ok()
    }
}

/// What stands in the blocks of a leg whose KV is `kv`: the same on every engine, and different in every position.
fn contents(blocks: &[BlockId], kv: Fingerprint) -> Vec<Content> {
    let content = |(position, &block): (u64, &BlockId)| Content { block, seed: kv.bits() ^ mixed(position) };
    (0..).zip(blocks).map(content).collect()
}

fn wire(source: KvSource) -> Source {
    Source { engine: source.engine, leg: LegName(source.leg), tokens: source.tokens }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one insertion or removal, so what is behind it is whole even if its holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
