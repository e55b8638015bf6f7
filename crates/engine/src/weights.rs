//! How large a model is.

use std::path::Path;

use dualpool_types::Bytes;

/// Size of the weight files in a model's folder; 0 where there are none.
pub fn weight_bytes(model: &Path) -> Bytes {
    let weights = |path: &Path| path.extension().is_some_and(|ext| ext == "safetensors" || ext == "bin");
    let files = std::fs::read_dir(model).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| weights(path));
    // Through links: caches of models are made of them.
    Bytes(files.filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum())
}
