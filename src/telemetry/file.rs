//! Files that are there whole or not at all.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

/// Writes a file in one go, and the folders it lies in: readers see the file before or the file after, never a part, whoever else writes it
/// at the same time.
pub fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{:x}.part", std::process::id()));
    fs::write(&part, text).and_then(|()| fs::rename(&part, path)).inspect_err(|_| {
        // Of two errors the first is the one to tell.
        let _ = fs::remove_file(&part);
    })
}

/// The same for a value, as indented JSON.
pub fn replace_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace_file(path, &(serde_json::to_string_pretty(value)? + "\n"))
}
