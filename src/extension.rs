//! The program as the Python module `dualpool._native`, for `python -m dualpool`.

use std::ffi::OsString;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    use super::*;

    /// Runs the command line that follows the program's name, and returns its exit code.
    #[pyfunction]
    fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
        // The engines' loop needs the interpreter while this thread waits.
        py.detach(|| crate::cli::run_hosted(arguments))
    }
}
