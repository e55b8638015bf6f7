//! What copies cost between the engines of this fleet, from a calibration of this machine.

use dualpool_engine::{Spot, VirtualEngineSettings};
use dualpool_kv::{CalibrationError, CopyCosts, EngineLinks, KvSettings};
use dualpool_machine::{Gpus, Machine, Placement};

/// What is known of the links, and what a reader of the run's figures should know of that.
#[derive(Debug, Default)]
pub struct Links {
    pub links: EngineLinks,
    pub note: Option<String>,
}

/// Reads the calibration that the settings name. One that was asked for by its path must be there and be of this machine; where none was
/// asked for, the router learns what copies cost as it serves, and the note says so.
pub fn links(
    kv: &KvSettings,
    virtual_engines: &VirtualEngineSettings,
    placements: &[Placement],
    gpus: &Gpus,
) -> Result<Links, CalibrationError> {
    // Engines without memory have no copies to know the cost of.
    let spots = placements.iter().map(|placement| Spot::of(&placement.device, virtual_engines));
    let Ok(spots) = spots.collect::<anyhow::Result<Vec<Spot>>>() else { return Ok(Links::default()) };
    let Some(path) = kv.calibration_file() else { return Ok(Links::default()) };
    let costs = match CopyCosts::read(&path, &Machine::detect(gpus)) {
        Ok(costs) => costs,
        Err(error) if kv.names_calibration() => return Err(error),
        Err(error) => {
            let note = format!("Copies are not calibrated, and the router learns what they cost as it serves: {error}.");
            return Ok(Links { links: EngineLinks::default(), note: Some(note) });
        }
    };
    let memories: Vec<String> = spots.iter().map(Spot::name).collect();
    let links = costs.between(&memories);
    let pairs = placements.len() * placements.len().saturating_sub(1);
    let note = format!(
        "What copies cost is known for {} of {pairs} ordered pairs of engines, from {} of {}.",
        links.len(),
        path.display(),
        costs.measured_at
    );
    Ok(Links { links, note: Some(note) })
}
