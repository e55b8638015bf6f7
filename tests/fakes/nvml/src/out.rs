//! Writing answers to where the caller wants them.

use std::ffi::{c_char, c_uint};

use crate::machine::{INVALID_ARGUMENT, OK, Return};
use nvml_wrapper_sys::bindings::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;

pub const INSUFFICIENT_SIZE: Return = nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;

pub fn put<T>(place: *mut T, value: T) -> Return {
    if place.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: NVML's contract: the caller passes a place for one `T`.
    unsafe { place.write(value) };
    OK
}

/// The caller's own value, for structs that are half question, half answer.
pub fn take<T: Copy>(place: *const T) -> Option<T> {
    if place.is_null() {
        return None;
    }
    // SAFETY: NVML's contract: the caller passes an initialised `T`.
    Some(unsafe { place.read() })
}

/// A caller's array.
pub fn slice<'a, T>(place: *mut T, len: usize) -> &'a mut [T] {
    if place.is_null() || len == 0 {
        return &mut [];
    }
    // SAFETY: NVML's contract: the caller passes that many of them, and no other code uses them during the call.
    unsafe { std::slice::from_raw_parts_mut(place, len) }
}

pub fn text(place: *mut c_char, size: c_uint, text: &str) -> Return {
    let place = slice(place, size as usize);
    if place.len() <= text.len() {
        return INSUFFICIENT_SIZE;
    }
    for (to, from) in place.iter_mut().zip(text.bytes().chain([0])) {
        *to = from as c_char;
    }
    OK
}

/// A text of the caller's.
pub fn said(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: NVML's contract: the text ends in 0.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_str().ok().map(str::to_string)
}
