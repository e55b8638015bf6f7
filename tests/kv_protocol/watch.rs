//! Waiting for what must come, without timing anything: a test fails only when nothing comes for a very long time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use dualpool_kv::{EngineLinks, KvEvent, KvServer, KvSettings, Transports};
use dualpool_types::{Clock, EngineId, LegId, Micros, MonotonicClock, RequestId, Time};

use crate::faults::{Faults, FaultyTransport};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `check` until it gives something.
pub fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The machine's clock, which a test can set forward: leases run out without a wait.
#[derive(Default)]
pub struct SkewClock {
    clock: MonotonicClock,
    skew_us: AtomicU64,
}

impl Clock for SkewClock {
    fn now(&self) -> Time {
        self.clock.now().plus(Micros(self.skew_us.load(Ordering::SeqCst)))
    }
}

/// A KV server and what it has said.
pub struct Watched {
    pub kv_server: KvServer,
    pub events: Receiver<KvEvent>,
    /// What goes wrong with its copies.
    pub faults: Faults,
    clock: Arc<SkewClock>,
}

pub const LEASE_MS: u64 = 600_000;

pub fn start(verify_kv: bool) -> Watched {
    let clock = Arc::new(SkewClock::default());
    let settings = KvSettings { lease_ms: LEASE_MS, verify: verify_kv, ..Default::default() };
    let faults = Faults::default();
    let transport = Box::new(FaultyTransport::new(Transports::default(), faults.clone()));
    let started = KvServer::start(&settings, clock.clone(), EngineLinks::default(), transport);
    let (kv_server, events) = started.expect("the KV server starts");
    Watched { kv_server, events, faults, clock }
}

impl Watched {
    pub fn next(&mut self) -> KvEvent {
        until("an event of the KV server", || match self.events.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("the KV server's control thread is gone"),
        })
    }

    pub fn expect(&mut self, want: KvEvent) {
        assert_eq!(self.next(), want);
    }

    /// The next `Fetched`, whatever comes before it: its error and the bytes copied.
    pub fn fetched(&mut self, want: LegId) -> Result<u64, String> {
        loop {
            if let KvEvent::Fetched { leg, bytes, error, .. } = self.next()
                && leg == want
            {
                return error.map_or(Ok(bytes.0), Err);
            }
        }
    }

    /// Waits for this event, skipping others.
    pub fn seen(&mut self, want: KvEvent) {
        while self.next() != want {}
    }

    pub fn pass_time(&self, span: Micros) {
        self.clock.skew_us.fetch_add(span.0, Ordering::SeqCst);
        // Nothing is held under this name; it only makes the control thread look at its clock.
        self.kv_server.release(EngineId(0), leg(u64::MAX, 0));
    }
}

pub fn leg(request: u64, leg: u16) -> LegId {
    LegId { request: RequestId(request), leg }
}
