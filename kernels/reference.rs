//! What the kernels of `kv_copy.cu` do, on the CPU and as literally as can be: what they are compared with.

use super::runs::DeviceRun;

/// Copies every run of the list from `source` to `target`; the records and `bytes` are exactly the kernels' arguments. Panics where a run
/// reaches outside of either buffer, which the kernels cannot notice.
pub fn copy_runs(source: &[u8], target: &mut [u8], runs: &[DeviceRun], bytes: u64) {
    let ends = runs.iter().skip(1).map(|next| next.begin).chain([bytes]);
    for (run, end) in runs.iter().zip(ends) {
        let length = (end - run.begin) as usize;
        let (from, to) = (run.source as usize, run.target as usize);
        target[to..to + length].copy_from_slice(&source[from..from + length]);
    }
}
