//! Files that are there whole or not at all.

use std::fs;
use std::io;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use serde::Serialize;

/// Writes a file in one go, and the folders it lies in: readers see the file before or the file after, never a part, even while another
/// process writes it.
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

/// Fails where no file could be written in this folder; one that does not exist yet is made in the nearest one that does. Changes nothing.
pub fn can_write_in(folder: &Path) -> io::Result<()> {
    // A relative path ends in the folder that this process is in, whose name is then empty.
    let nearest = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    if !nearest.is_dir() {
        return Err(io::Error::other(format!("{} is not a folder", nearest.display())));
    }
    let refused = |error| io::Error::other(format!("{} cannot be written: {error}", nearest.display()));
    access(nearest, AccessFlags::W_OK | AccessFlags::X_OK).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_can_be_written_is_said_before() {
        let dir = tempfile::tempdir().unwrap();
        let said = |folder: &str| can_write_in(&dir.path().join(folder)).map_err(|error| error.to_string());
        assert_eq!((said(""), said("deeper/still")), (Ok(()), Ok(())));
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "it changes nothing");
        fs::write(dir.path().join("file"), "").unwrap();
        for folder in ["file", "file/deeper"] {
            assert!(said(folder).unwrap_err().ends_with("file is not a folder"), "{folder}");
        }
        assert!(can_write_in(Path::new("")).is_ok(), "this folder");
    }
}
