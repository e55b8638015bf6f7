//! Events: a count of the times recorded and of the times reached, in memory that other processes may map, and a futex to wait with.

use std::ffi::{c_int, c_uint};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream};

use crate::context::{alive, current};
use crate::device::gpu;
use crate::entry::{Answer, put};
use crate::shm::{Mapping, Name};
use crate::stream::{self, Work};
use crate::table::{Table, lock};

pub static EVENTS: Table<Event> = Table::new();

const EVENT_BYTES: usize = 4096;
/// A waiting thread looks again after this long, whatever a process that died has not told it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub struct Event {
    device: c_int,
    timing: bool,
    /// Which shared memory it lies in; none for an event of this process alone.
    name: Option<Name>,
    owned: bool,
    mapping: Mapping,
    reached: Mutex<Option<Instant>>,
}

/// What lies at the begin of an event's memory.
#[repr(C)]
struct Counts {
    recorded: AtomicU32,
    reached: AtomicU32,
}

impl Drop for Event {
    fn drop(&mut self) {
        if let (true, Some(name)) = (self.owned, self.name) {
            name.remove();
        }
    }
}

impl Event {
    fn create(device: c_int, flags: c_uint) -> Answer<Event> {
        let has = |flag: CUevent_flags| flags & flag as c_uint != 0;
        let timing = !has(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let shared = has(CUevent_flags::CU_EVENT_INTERPROCESS);
        if shared && timing {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let name = if shared { Some(Name::new(gpu(device)?)) } else { None };
        let mapping = name.map_or_else(|| Mapping::private(EVENT_BYTES), |name| Mapping::create(name, EVENT_BYTES));
        let mapping = mapping.map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        Ok(Event { device, timing, name, owned: true, mapping, reached: Mutex::new(None) })
    }

    pub fn open(device: c_int, name: Name) -> Answer<Event> {
        if name.pid == std::process::id() {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        let mapping = Mapping::open(name, EVENT_BYTES).map_err(|_| CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        Ok(Event { device, timing: false, name: Some(name), owned: false, mapping, reached: Mutex::new(None) })
    }

    pub fn name(&self) -> Option<Name> {
        self.name
    }

    fn counts(&self) -> &Counts {
        // SAFETY: the mapping is a page of zeros at first, which are valid counts, and lives as long as `self`.
        unsafe { &*self.mapping.at().cast::<Counts>() }
    }

    /// The recording that a wait of this moment is for.
    fn latest(&self) -> u32 {
        self.counts().recorded.load(Ordering::Acquire)
    }

    fn is_reached(&self, recording: u32) -> bool {
        self.counts().reached.load(Ordering::Acquire) >= recording
    }

    /// By a stream that has come to it.
    pub fn reach(&self, recording: u32) {
        *lock(&self.reached) = Some(Instant::now());
        let reached = &self.counts().reached;
        reached.fetch_max(recording, Ordering::AcqRel);
        // SAFETY: wakes the threads that wait for this word; the address is mapped.
        unsafe { libc::syscall(libc::SYS_futex, reached.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }

    pub fn wait(&self, recording: u32) {
        let reached = &self.counts().reached;
        let pause = libc::timespec { tv_sec: 0, tv_nsec: LOOK_AGAIN.subsec_nanos().into() };
        loop {
            let seen = reached.load(Ordering::Acquire);
            if seen >= recording {
                return;
            }
            // SAFETY: sleeps while the word is still `seen`, at most for `pause`; both addresses are valid.
            unsafe { libc::syscall(libc::SYS_futex, reached.as_ptr(), libc::FUTEX_WAIT, seen, &raw const pause) };
        }
    }
}

entry_points! {
    fn cuEventCreate(to: *mut CUevent, flags: c_uint) {
        put(to, EVENTS.add(Event::create(current()?, flags)?))
    }

    fn cuEventDestroy_v2(event: CUevent) {
        EVENTS.remove(event).map(drop)
    }

    fn cuEventRecord(event: CUevent, stream: CUstream) {
        let (event, stream) = (EVENTS.get(event)?, stream::get(stream)?);
        if event.device != stream.device {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        let recording = event.counts().recorded.fetch_add(1, Ordering::AcqRel) + 1;
        stream.queue(Work::Reach(event, recording))
    }

    fn cuStreamWaitEvent(stream: CUstream, event: CUevent, _flags: c_uint) {
        let (event, stream) = (EVENTS.get(event)?, stream::get(stream)?);
        let recording = event.latest();
        stream.queue(Work::Wait(event, recording))
    }

    fn cuEventQuery(event: CUevent) {
        let event = EVENTS.get(event)?;
        alive(event.device)?;
        if event.is_reached(event.latest()) { Ok(()) } else { Err(CUresult::CUDA_ERROR_NOT_READY) }
    }

    fn cuEventSynchronize(event: CUevent) {
        let event = EVENTS.get(event)?;
        event.wait(event.latest());
        alive(event.device)
    }

    fn cuEventElapsedTime(to: *mut f32, from: CUevent, until: CUevent) {
        let (from, until) = (EVENTS.get(from)?, EVENTS.get(until)?);
        let timed = |event: &Event| event.timing && event.latest() > 0;
        if !timed(&from) || !timed(&until) {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        if ![&from, &until].iter().all(|event| event.is_reached(event.latest())) {
            return Err(CUresult::CUDA_ERROR_NOT_READY);
        }
        let (Some(start), Some(end)) = (*lock(&from.reached), *lock(&until.reached)) else {
            return Err(CUresult::CUDA_ERROR_NOT_READY);
        };
        put(to, end.saturating_duration_since(start).as_secs_f32() * 1e3)
    }
}
