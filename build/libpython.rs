//! Links the interpreter that `PYO3_PYTHON` names into programs and tests, with an rpath to it: several libpythons share one soname, and
//! without the rpath the loader may pick another one at run time.

fn main() {
    #[cfg(all(feature = "python", not(feature = "extension-module")))]
    pyo3_build_config::add_libpython_rpath_link_args();
}
