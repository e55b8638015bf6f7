//! A mark in a stream: other streams and this program wait for it, and two of them tell the time between.

use std::ptr;

use cudarc::driver::sys::{self, CUevent_flags, CUresult};

use super::context::Context;
use super::error::{CudaError, check, log_failure};
use super::stream::Stream;

/// Whether an event keeps the time it was reached. Without, recording and waiting cost less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    On,
    Off,
}

#[derive(Debug)]
pub struct Event {
    context: Context,
    handle: sys::CUevent,
}

// SAFETY: the driver allows any thread to use an event, and synchronises itself.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn create(context: &Context, timing: Timing) -> Result<Event, CudaError> {
        // Waiting threads sleep instead of spinning: engines need the cores.
        let timing = match timing {
            Timing::On => CUevent_flags::CU_EVENT_DEFAULT,
            Timing::Off => CUevent_flags::CU_EVENT_DISABLE_TIMING,
        };
        let flags = timing as u32 | CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        let mut handle = ptr::null_mut();
        context.bind()?;
        // SAFETY: a context is current, and `handle` outlives the call.
        check("cuEventCreate", context.device(), unsafe { sys::cuEventCreate(&mut handle, flags) })?;
        Ok(Event { context: context.clone(), handle })
    }

    /// Is reached when all that was queued in `stream` before is done. Recording again moves the mark.
    pub fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: event and stream live, and the driver checks that they are of one context.
        check("cuEventRecord", self.context.device(), unsafe { sys::cuEventRecord(self.handle, stream.handle()) })
    }

    /// Whether the mark has been reached, or was never set. An error of the work before it shows here.
    pub fn is_done(&self) -> Result<bool, CudaError> {
        self.context.bind()?;
        // SAFETY: the event lives.
        match unsafe { sys::cuEventQuery(self.handle) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check("cuEventQuery", self.context.device(), result).map(|()| true),
        }
    }

    /// Blocks the calling thread until the mark is reached.
    pub fn wait_here(&self) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the event lives.
        check("cuEventSynchronize", self.context.device(), unsafe { sys::cuEventSynchronize(self.handle) })
    }

    /// Milliseconds from `earlier` to this event. Both need [`Timing::On`], and to be reached.
    pub fn ms_since(&self, earlier: &Event) -> Result<f64, CudaError> {
        let mut ms = 0.0;
        self.context.bind()?;
        // SAFETY: both events live, and `ms` outlives the call.
        let result = unsafe { sys::cuEventElapsedTime(&mut ms, earlier.handle, self.handle) };
        check("cuEventElapsedTime", self.context.device(), result)?;
        Ok(f64::from(ms))
    }

    pub(super) fn handle(&self) -> sys::CUevent {
        self.handle
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created once and destroyed once; the driver keeps what pending waits need. The context is retained.
        let result = unsafe {
            sys::cuCtxSetCurrent(self.context.handle());
            sys::cuEventDestroy_v2(self.handle)
        };
        log_failure("cuEventDestroy", self.context.device(), result);
    }
}
