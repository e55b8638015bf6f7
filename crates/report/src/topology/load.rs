//! Reads `topology.json`.

use std::path::{Path, PathBuf};

use thiserror::Error;

use dualpool_types::topology::{SCHEMA_VERSION, Topology};

/// The document's name in its folder.
pub const FILE: &str = "topology.json";

#[derive(Debug, Error)]
pub enum TopologyLoadError {
    #[error("{}: cannot be read: {source}; `dualpool topology` writes it", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: is not a topology document: {source}; `dualpool topology` writes it anew", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{}: has schema version {found}, and this program reads {SCHEMA_VERSION}; `dualpool topology` writes it anew", path.display())]
    Version { path: PathBuf, found: u64 },
}

/// The document in a folder.
pub fn load_topology(dir: &Path) -> Result<Topology, TopologyLoadError> {
    let path = dir.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|source| TopologyLoadError::Read { path: path.clone(), source })?;
    let json = |source| TopologyLoadError::Json { path: path.clone(), source };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(json)?;
    match value["schema_version"].as_u64() {
        Some(found) if found != u64::from(SCHEMA_VERSION) => Err(TopologyLoadError::Version { path, found }),
        _ => serde_json::from_value(value).map_err(json),
    }
}
