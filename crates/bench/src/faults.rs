//! What makes a run a failed one, whatever its figures say.

use dualpool_types::RequestError;
use dualpool_types::artifact::{RunInfo, Summary};
use dualpool_types::records::{Outcome, RequestRecord};

use super::arms;
use super::identical::{Difference, first_difference};

/// Under `--exact` every arm must give what the reference gave: the arm that the control repeats.
pub(super) fn exact(run: &RunInfo, requests: &[RequestRecord]) -> Result<(), Difference> {
    let requests: Vec<&RequestRecord> = requests.iter().collect();
    let reference = arms::reference(&run.arms).map_or("", |arm| arm.name.as_str());
    first_difference(&requests, reference).map_or(Ok(()), Err)
}

/// Blocks that were not given back, KV that was lost on its way, and requests that failed although they were admitted. A rejection is
/// an answer: more was offered than `router.max_in_flight` takes.
pub(super) fn faults(summary: &Summary, requests: &[RequestRecord]) -> Vec<String> {
    let mut faults = Vec::new();
    if summary.held_blocks_after > 0 {
        faults.push(format!("{} KV blocks were still held after the last request of an arm", summary.held_blocks_after));
    }
    for arm in &summary.arms {
        if arm.handoffs.recomputed > 0 {
            let (recomputed, all) = (arm.handoffs.recomputed, arm.handoffs.recomputed + arm.handoffs.count);
            faults.push(format!("arm `{}`: the KV of {recomputed} of {all} hand-offs was not moved but computed again", arm.name));
        }
        let failed = |r: &RequestRecord| match &r.outcome {
            Outcome::Done | Outcome::Failed { error: RequestError::Rejected { .. } } => None,
            Outcome::Failed { error } => Some(error.to_string()),
        };
        let errors: Vec<String> = requests.iter().filter(|r| r.arm == arm.name).filter_map(failed).collect();
        if let Some(first) = errors.first() {
            faults.push(format!("arm `{}`: {} of its requests failed, the first one because {first}", arm.name, errors.len()));
        }
    }
    faults
}
