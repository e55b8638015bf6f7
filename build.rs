//! Two things of the machine that builds: the interpreter to link, and the CUDA compiler, where there is one.

#[path = "build/kernels.rs"]
mod kernels;

fn main() {
    // Links the interpreter that `PYO3_PYTHON` names, with an rpath to it: several libpythons share one soname, and without the rpath
    // the loader may pick another one at run time.
    #[cfg(all(feature = "python", not(feature = "extension-module")))]
    pyo3_build_config::add_libpython_rpath_link_args();

    kernels::build();
}
