//! A stream is a thread with a list of work. Work that broke loses the context; what is queued behind it is dropped, and events are
//! reached all the same, so that no caller waits for ever.

use std::ffi::{c_int, c_uint};
use std::ptr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cudarc::driver::sys::{CUresult, CUstream, CUstream_flags};

use crate::context::{alive, current, lose};
use crate::entry::{Answer, put};
use crate::event::Event;
use crate::kernel::Launch;
use crate::memory::Piece;
use crate::script::Script;
use crate::table::{Table, lock};

pub static STREAMS: Table<Stream> = Table::new();
/// The default stream of each device, made when first used.
static DEFAULT: Table<Stream> = Table::new();

/// Then queueing waits, as with the driver.
const QUEUED_MAX: usize = 1024;
const LOOK_AGAIN: Duration = Duration::from_millis(1);

pub struct Stream {
    pub device: c_int,
    default: bool,
    work: SyncSender<Work>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Queued and not yet done.
    pending: Mutex<u64>,
    changed: Condvar,
}

/// One end of a copy.
pub enum Place {
    Device(Piece),
    /// Pinned, or waited for by the caller.
    Host(*mut u8),
    /// What the caller's memory held when the copy was queued.
    Taken(Vec<u8>),
}

// SAFETY: the driver's contract: the caller keeps the memory until the copy is done.
unsafe impl Send for Place {}

/// A single copy.
pub struct Copy {
    pub to: Place,
    pub from: Place,
    pub bytes: usize,
}

pub enum Work {
    /// A batch, or a batch of one. They are in no order among themselves: the last is done first.
    Copies(Vec<Copy>),
    Fill {
        to: Piece,
        value: u8,
        bytes: usize,
    },
    Launch(Launch),
    Break(CUresult),
    Reach(Arc<Event>, u32),
    Wait(Arc<Event>, u32),
}

impl Stream {
    fn new(device: c_int, default: bool) -> Answer<Stream> {
        let (sender, receiver) = sync_channel(QUEUED_MAX);
        let progress = Arc::new(Progress::default());
        let of_thread = progress.clone();
        let run = move || run(device, &receiver, &of_thread);
        thread::Builder::new().name("fake-cuda-stream".into()).spawn(run).map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        Ok(Stream { device, default, work: sender, progress })
    }

    pub fn is_default(&self) -> bool {
        self.default
    }

    pub fn queue(&self, work: Work) -> Answer {
        alive(self.device)?;
        *lock(&self.progress.pending) += 1;
        self.work.send(work).map_err(|_| CUresult::CUDA_ERROR_UNKNOWN)
    }

    fn is_done(&self) -> bool {
        *lock(&self.progress.pending) == 0
    }

    pub fn synchronize(&self) {
        let mut pending = lock(&self.progress.pending);
        while *pending > 0 {
            pending = self.progress.changed.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thread of a stream, until the stream is destroyed and its work done.
fn run(device: c_int, work: &Receiver<Work>, progress: &Progress) {
    for work in work {
        match work {
            Work::Reach(event, recording) => event.reach(recording),
            Work::Wait(event, recording) => event.wait(recording),
            work if alive(device).is_err() => drop(work),
            work => {
                work.hold_back();
                if let Err(code) = work.execute(device) {
                    lose(device, code);
                }
            }
        }
        *lock(&progress.pending) -= 1;
        progress.changed.notify_all();
    }
}

impl Work {
    /// Waits as the script wants. Copies with the host do not: they are how a test looks at what has happened.
    fn hold_back(&self) {
        let with_host = matches!(self, Work::Copies(copies) if !copies.iter().all(Copy::is_on_gpus));
        let Ok(script) = Script::get() else { return };
        if with_host {
            return;
        }
        while script.hold.as_ref().is_some_and(|gate| !gate.exists()) {
            thread::sleep(LOOK_AGAIN);
        }
        thread::sleep(Duration::from_micros(script.delay_us));
    }

    fn execute(self, device: c_int) -> Answer {
        match self {
            Work::Copies(copies) => {
                for Copy { to, from, bytes } in copies.iter().rev() {
                    // SAFETY: both places have that many bytes: checked when they were found, or the caller's promise. They may
                    // overlap.
                    unsafe { ptr::copy(from.at(), to.at(), *bytes) };
                }
                Ok(())
            }
            Work::Fill { to, value, bytes } => {
                // SAFETY: the piece has that many bytes, and stays mapped.
                unsafe { to.at().write_bytes(value, bytes) };
                Ok(())
            }
            Work::Launch(launch) => launch.run(device),
            Work::Break(code) => Err(code),
            Work::Reach(..) | Work::Wait(..) => Ok(()),
        }
    }
}

impl Copy {
    fn is_on_gpus(&self) -> bool {
        matches!((&self.to, &self.from), (Place::Device(_), Place::Device(_)))
    }
}

impl Place {
    fn at(&self) -> *mut u8 {
        match self {
            Place::Device(piece) => piece.at(),
            Place::Host(at) => *at,
            Place::Taken(bytes) => bytes.as_ptr().cast_mut(),
        }
    }
}

/// A stream by its handle; 0 and 1 stand for the default stream of the current context.
pub fn get(stream: CUstream) -> Answer<Arc<Stream>> {
    let stream = match stream.addr() {
        0 | 1 => default(current()?)?,
        _ => STREAMS.get(stream)?,
    };
    alive(stream.device).map(|()| stream)
}

fn default(device: c_int) -> Answer<Arc<Stream>> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one = lock(&MAKING);
    if let Some(stream) = DEFAULT.all().into_iter().find(|stream| stream.device == device) {
        return Ok(stream);
    }
    let handle: CUstream = DEFAULT.add(Stream::new(device, true)?);
    DEFAULT.get(handle)
}

pub fn synchronize_all(device: c_int) {
    let streams = STREAMS.all().into_iter().chain(DEFAULT.all());
    streams.filter(|stream| stream.device == device).for_each(|stream| stream.synchronize());
}

entry_points! {
    fn cuStreamCreate(to: *mut CUstream, flags: c_uint) {
        if flags > CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        put(to, STREAMS.add(Stream::new(current()?, false)?))
    }

    fn cuStreamDestroy_v2(stream: CUstream) {
        STREAMS.remove(stream).map(drop)
    }

    fn cuStreamSynchronize(stream: CUstream) {
        let stream = get(stream)?;
        stream.synchronize();
        alive(stream.device)
    }

    fn cuStreamQuery(stream: CUstream) {
        if get(stream)?.is_done() { Ok(()) } else { Err(CUresult::CUDA_ERROR_NOT_READY) }
    }
}
