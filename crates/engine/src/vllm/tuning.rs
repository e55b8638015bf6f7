//! The writer's end of the file through which a running engine's scheduler is tuned (`python/dualpool/scheduler.py` reads it).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dualpool_types::Tuning;

use super::error::StartError;

const SALT: u32 = 0x6475_6c70;
const AS_STARTED: u32 = u32::MAX;

pub(super) struct TuningFile {
    path: PathBuf,
    file: File,
    sequence: Mutex<u32>,
}

impl TuningFile {
    pub(super) fn create(folder: &Path) -> Result<TuningFile, StartError> {
        let path = folder.join("tuning");
        let refused = |error: std::io::Error| StartError::RunDir { path: folder.to_path_buf(), why: error.to_string() };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(refused)?;
        let tuning = TuningFile { path, file, sequence: Mutex::new(0) };
        tuning.write(Tuning::default()).map_err(refused)?;
        Ok(tuning)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&self, tuning: Tuning) -> std::io::Result<()> {
        let mut sequence = self.sequence.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *sequence = sequence.wrapping_add(1);
        self.file.write_all_at(&encode(*sequence, tuning), 0)
    }
}

/// The check makes a reader in another process notice that it met the middle of a write.
fn encode(sequence: u32, tuning: Tuning) -> [u8; 16] {
    let tokens = tuning.max_num_batched_tokens.unwrap_or(AS_STARTED);
    let threshold = tuning.long_prefill_token_threshold.unwrap_or(AS_STARTED);
    let mut bytes = [0; 16];
    for (slot, word) in bytes.chunks_exact_mut(4).zip([sequence, tokens, threshold, sequence ^ tokens ^ threshold ^ SALT]) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_write_is_whole_and_newer() {
        let folder = tempfile::tempdir().unwrap();
        let tuning = TuningFile::create(folder.path()).unwrap();
        tuning.write(Tuning { max_num_batched_tokens: Some(224), long_prefill_token_threshold: Some(64) }).unwrap();
        let bytes = std::fs::read(tuning.path()).unwrap();
        let words: Vec<u32> = bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [2, 224, 64, 2 ^ 224 ^ 64 ^ SALT]);
    }
}
