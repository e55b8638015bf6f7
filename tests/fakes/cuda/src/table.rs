//! Handles: numbers that stand for things, so that a stale one is an error and not a crash.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUresult;

use crate::entry::Answer;

pub struct Table<T>(Mutex<BTreeMap<usize, Arc<T>>>);

/// One sequence for all kinds of handles: one kind is never taken for another.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

impl<T> Table<T> {
    pub const fn new() -> Table<T> {
        Table(Mutex::new(BTreeMap::new()))
    }

    pub fn add<H>(&self, thing: T) -> *mut H {
        let handle = NEXT.fetch_add(16, Ordering::Relaxed);
        self.rows().insert(handle, Arc::new(thing));
        std::ptr::without_provenance_mut(handle)
    }

    pub fn get<H>(&self, handle: *mut H) -> Answer<Arc<T>> {
        self.rows().get(&handle.addr()).cloned().ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    pub fn remove<H>(&self, handle: *mut H) -> Answer<Arc<T>> {
        self.rows().remove(&handle.addr()).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    pub fn all(&self) -> Vec<Arc<T>> {
        self.rows().values().cloned().collect()
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<T>>> {
        lock(&self.0)
    }
}

/// A panic elsewhere has been reported already; the tables are whole after each change.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
