//! The 0700 folder in which the control socket lives: any process that can enter it can reach the engines' KV memory.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Linux's limit for the path of a Unix socket, without its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Removed when dropped with all that is in it, if this made it; else only the socket is.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    socket: PathBuf,
    made: bool,
}

impl RunDir {
    /// Opens the folder, or makes a fresh one in the system's temporary folder when `wanted` is empty.
    pub(crate) fn open(wanted: &Path) -> anyhow::Result<RunDir> {
        let (path, made) = if wanted.as_os_str().is_empty() {
            let template = std::env::temp_dir().join("dualpool-XXXXXX");
            let path = nix::unistd::mkdtemp(&template)
                .with_context(|| format!("cannot make a run folder in {}; set kv.run_dir or TMPDIR", template.display()))?;
            (path, true)
        } else {
            (wanted.to_path_buf(), make(wanted)?)
        };
        let run_dir = RunDir { socket: path.join("control.sock"), path, made };
        if run_dir.socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            bail!(
                "the path of the control socket, {}, is longer than the {SOCKET_PATH_BYTES_MAX} bytes Linux allows; \
                 set kv.run_dir to a shorter one",
                run_dir.socket.display()
            );
        }
        Ok(run_dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Errors are of no use here: what is gone already need not be removed.
        if self.made {
            // With whatever engines of this run left in it.
            let _ = std::fs::remove_dir_all(&self.path);
        } else {
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

/// Makes the folder with mode 0700; an existing one must be ours alone. Says whether it was made.
fn make(path: &Path) -> anyhow::Result<bool> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            // The umask may have taken bits away.
            std::fs::set_permissions(path, Permissions::from_mode(0o700))
                .with_context(|| format!("cannot set the mode of kv.run_dir {}", path.display()))?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let meta = std::fs::symlink_metadata(path).with_context(|| format!("cannot read kv.run_dir {}", path.display()))?;
            let mode = meta.permissions().mode() & 0o777;
            if !meta.is_dir() {
                bail!("kv.run_dir {} is not a folder; name one that does not exist yet", path.display());
            }
            if meta.uid() != nix::unistd::geteuid().as_raw() || mode & 0o077 != 0 {
                bail!(
                    "kv.run_dir {} has owner {} and mode {mode:04o}; it must be your own with mode 0700, \
                     or name one that does not exist yet",
                    path.display(),
                    meta.uid()
                );
            }
            Ok(false)
        }
        Err(error) => Err(error)
            .with_context(|| format!("cannot make kv.run_dir {}; name a folder in a place you can write to", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_folder_is_private_and_goes_away() {
        let parent = tempfile::tempdir().unwrap();
        let wanted = parent.path().join("run");
        let run_dir = RunDir::open(&wanted).unwrap();
        assert_eq!(std::fs::metadata(run_dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(run_dir.path().join("log"), "of an engine").unwrap();
        drop(run_dir);
        assert!(!wanted.exists());
        // One that was there before stays.
        DirBuilder::new().mode(0o700).create(&wanted).unwrap();
        std::fs::write(wanted.join("notes"), "").unwrap();
        drop(RunDir::open(&wanted).unwrap());
        assert!(wanted.join("notes").exists());
        let run_dir = RunDir::open(Path::new("")).unwrap();
        let path = run_dir.path().to_path_buf();
        assert!(path.exists());
        drop(run_dir);
        assert!(!path.exists());
    }

    #[test]
    fn folders_that_will_not_do_are_refused_by_name() {
        let parent = tempfile::tempdir().unwrap();
        let open = |path: &Path| format!("{:#}", RunDir::open(path).unwrap_err());
        let shared = parent.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
        assert!(open(&shared).contains("mode 0755"));
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(open(&file).contains("not a folder"));
        assert!(open(&file.join("below")).contains("place you can write to"));
        assert!(open(&parent.path().join("x".repeat(120))).contains("longer than the 107 bytes"));
    }
}
