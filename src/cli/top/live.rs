//! The GPUs of this machine, read by this process.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use dualpool_machine::nvml::{Round, Sampler, SamplerError, Which};
use dualpool_types::records::GpuReading;
use dualpool_types::{Micros, MonotonicClock};

/// Events that are shown; the oldest go first.
const EVENTS_MAX: usize = 4;

pub(super) struct Live {
    shared: Arc<Shared>,
    /// Why there are no readings.
    pub why_none: Option<String>,
    // Dropping it ends its thread.
    _sampler: Option<Sampler>,
}

#[derive(Default)]
struct Shared {
    latest: Mutex<Latest>,
    came: Condvar,
}

#[derive(Clone, Default)]
struct Latest {
    readings: Option<Vec<GpuReading>>,
    events: Vec<String>,
}

impl Live {
    pub(super) fn start(period: Micros) -> Live {
        let shared = Arc::new(Shared::default());
        let taken = shared.clone();
        let sink = move |Round { readings, events, .. }: Round| {
            let mut latest = taken.latest.lock().unwrap_or_else(PoisonError::into_inner);
            latest.readings = Some(readings);
            latest.events.extend(events.iter().map(ToString::to_string));
            let old = latest.events.len().saturating_sub(EVENTS_MAX);
            latest.events.drain(..old);
            taken.came.notify_all();
        };
        match Sampler::start(None, &Which::All, period, Arc::new(MonotonicClock::new()), sink) {
            Ok(sampler) => Live { shared, why_none: None, _sampler: Some(sampler) },
            Err(SamplerError::NoNvml { why }) => Live { shared, why_none: Some(why), _sampler: None },
            Err(error) => Live { shared, why_none: Some(error.to_string()), _sampler: None },
        }
    }

    pub(super) fn wait_for_reading(&self, timeout: Duration) {
        if self.why_none.is_some() {
            return;
        }
        let latest = self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a reading in time the frame says that there is none.
        drop(self.shared.came.wait_timeout_while(latest, timeout, |latest| latest.readings.is_none()));
    }

    /// The last readings, and the last events.
    pub(super) fn latest(&self) -> (Option<Vec<GpuReading>>, Vec<String>) {
        let Latest { readings, events } = self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (readings, events)
    }
}
