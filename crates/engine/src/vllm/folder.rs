//! An engine's folder within the run folder: its tuning file, and the sockets and temporary files that vLLM would leave in the
//! system's temporary folder.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use dualpool_types::EngineId;

use super::error::StartError;

/// What Linux takes for a socket's path, and what vLLM appends to the folder's.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const SOCKET_NAME_BYTES: usize = 37;

/// Tells apart the folders of engines that had the same id in one run folder.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Removed when dropped.
pub(super) struct EngineFolder(PathBuf);

impl EngineFolder {
    pub(super) fn create(run_dir: &Path, engine: EngineId) -> Result<EngineFolder, StartError> {
        let refused = |why: String| StartError::RunDir { path: run_dir.to_path_buf(), why };
        let run_dir = std::path::absolute(run_dir).map_err(|error| refused(error.to_string()))?;
        let path = run_dir.join(format!("{engine}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let room = SOCKET_PATH_BYTES_MAX - SOCKET_NAME_BYTES;
        if path.as_os_str().len() > room {
            return Err(refused(format!("its path is too long for sockets, {} has over {room} bytes", path.display())));
        }
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| refused(error.to_string()))?;
        Ok(EngineFolder(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for EngineFolder {
    fn drop(&mut self) {
        // The folder above it may have been removed first, with all that was in it.
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{} is left behind: {error}", self.0.display());
        }
    }
}
