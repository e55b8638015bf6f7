//! Whether the libpython in this process is the environment's.

use std::path::Path;
#[cfg(not(feature = "extension-module"))]
use std::path::PathBuf;

use super::Check;

const NAME: &str = "libpython";

/// `expected` is the environment's own; none when its Python was built without one. Several libpythons share one file name, and the
/// loader may have picked another one.
#[cfg(not(feature = "extension-module"))]
pub(super) fn check(expected: Option<&Path>) -> Check {
    let Some(expected) = expected else {
        return Check::missing(
            NAME,
            "this Python was built without its shared library",
            "make setup PYTHON=/path/to/a/python3.11/with/libpython, or run it as `python -m dualpool`",
        );
    };
    match loaded() {
        Some(loaded) if loaded == expected => Check::good(NAME, loaded.display()),
        Some(loaded) => {
            let what = format!("{} is loaded, and the environment's is {}", loaded.display(), expected.display());
            Check::missing(NAME, what, "make build")
        }
        None => Check::missing(NAME, "this program was built without Python", "make build"),
    }
}

/// The file of the libpython that is loaded into this process.
#[cfg(not(feature = "extension-module"))]
fn loaded() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(Path::new);
    let mut named = paths.filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(NAME)));
    named.next().map(|path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf()))
}

/// The interpreter is the one that runs this program, with a libpython or without.
#[cfg(feature = "extension-module")]
pub(super) fn check(_: Option<&Path>) -> Check {
    Check::good(NAME, "not needed: this program runs in the environment's own interpreter")
}
