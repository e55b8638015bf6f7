//! What an entry point of the library looks like: the driver's signature outside, a `Result` inside.

use std::ffi::{CString, c_char, c_int};

use cudarc::driver::sys::CUresult;

/// What the driver answers; the error is its code.
pub type Answer<T = ()> = Result<T, CUresult>;

/// Functions with the driver's names and signatures. Arguments are used as the driver's documentation allows, which is the contract of
/// every entry point: places to write to are valid, and lists have the length that is said.
macro_rules! entry_points {
    ($($(#[$note:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$note])*
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $type),*) -> cudarc::driver::sys::CUresult {
            let answer = || -> crate::entry::Answer { $body };
            answer().err().unwrap_or(cudarc::driver::sys::CUresult::CUDA_SUCCESS)
        }
    )*};
}

pub fn put<T>(place: *mut T, value: T) -> Answer {
    if place.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the contract of an entry point: a place for one `T`.
    unsafe { place.write(value) };
    Ok(())
}

/// A caller's list.
pub fn list<'a, T>(place: *const T, len: usize) -> Answer<&'a [T]> {
    if place.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the contract of an entry point: that many of them, unchanged during the call.
    Ok(unsafe { std::slice::from_raw_parts(place, len) })
}

pub fn put_text(place: *mut c_char, size: c_int, text: &str) -> Answer {
    let text = CString::new(text).map_err(|_| CUresult::CUDA_ERROR_UNKNOWN)?;
    let bytes = text.as_bytes_with_nul();
    if place.is_null() || bytes.len() > usize::try_from(size).unwrap_or(0) {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the contract of an entry point: a place for `size` bytes, which are enough.
    unsafe { place.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len()) };
    Ok(())
}
