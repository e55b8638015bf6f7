//! What engines record of their steps (`python/dualpool/step_trace.py` writes it).

use std::path::{Path, PathBuf};

use thiserror::Error;

use dualpool_model::StepWork;

/// Bytes of a record.
const RECORD: usize = 40;

/// Between two steps of a busy engine lie its outputs and its inputs, and not this much: an engine that takes longer had nothing to do.
const GAP_US_MAX: f64 = 3_000.0;

#[derive(Debug, Error)]
pub enum TraceError {
    #[error("{} cannot be read: {source}; engines that record their steps write it", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} has {bytes} bytes, which is no whole number of records of {RECORD}; it is of another version", path.display())]
    Size { path: PathBuf, bytes: usize },
}

/// One step that computed something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TracedStep {
    pub work: StepWork,
    pub took_us: f64,
}

/// The engine's steps in order. A step lasts until the next one can begin, as far as that can be seen.
pub fn read(path: &Path) -> Result<Vec<TracedStep>, TraceError> {
    let bytes = std::fs::read(path).map_err(|source| TraceError::Read { path: path.to_path_buf(), source })?;
    let (records, rest) = bytes.as_chunks::<RECORD>();
    if !rest.is_empty() {
        return Err(TraceError::Size { path: path.to_path_buf(), bytes: bytes.len() });
    }
    Ok(steps(&records.iter().map(record).collect::<Vec<_>>()))
}

#[derive(Clone, Copy, Debug)]
struct Record {
    begin_ns: u64,
    end_ns: u64,
    work: StepWork,
}

fn record(bytes: &[u8; RECORD]) -> Record {
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let work = StepWork { prompt_tokens: u32_at(16), decodes: u32_at(20), context: u64_at(24), attention: u64_at(32) };
    Record { begin_ns: u64_at(0), end_ns: u64_at(8), work }
}

/// An engine that schedules ahead begins a step before the one before it ends: then the step lasts from end to end. The way from a
/// step's end to the next one's begin is the engine's too, where there is one: a busy engine cannot use that time.
fn steps(records: &[Record]) -> Vec<TracedStep> {
    let us = |ns: u64| ns as f64 / 1e3;
    let gap = |i: usize| {
        let next = records.get(i + 1)?;
        let gap = us(next.begin_ns.saturating_sub(records[i].end_ns));
        (gap <= GAP_US_MAX).then_some(gap)
    };
    let mut gaps: Vec<f64> = (0..records.len()).filter_map(gap).collect();
    gaps.sort_by(f64::total_cmp);
    let usual = gaps.get(gaps.len() / 2).copied().unwrap_or(0.0);
    let step = |(i, record): (usize, &Record)| {
        let before = i.checked_sub(1).map_or(0, |before| records[before].end_ns);
        let took = us(record.end_ns.saturating_sub(record.begin_ns.max(before)));
        TracedStep { work: record.work, took_us: took + gap(i).unwrap_or(usual) }
    };
    records.iter().enumerate().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(begin: u64, end: u64, prompt_tokens: u32, decodes: u32, context: u64, attention: u64) -> Vec<u8> {
        let mut bytes = [begin, end].map(u64::to_le_bytes).concat();
        bytes.extend([prompt_tokens, decodes].map(u32::to_le_bytes).concat());
        bytes.extend([context, attention].map(u64::to_le_bytes).concat());
        bytes
    }

    fn read_back(records: &[Vec<u8>]) -> Result<Vec<TracedStep>, TraceError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), records.concat()).unwrap();
        read(file.path())
    }

    #[test]
    fn steps_one_after_the_other_have_the_way_to_the_next_one() {
        let records = [
            bytes(0, 10_000_000, 64, 0, 0, 2080),
            bytes(10_500_000, 25_000_000, 0, 1, 65, 0),
            bytes(90_000_000, 97_000_000, 0, 1, 66, 0),
        ];
        let steps = read_back(&records).unwrap();
        assert_eq!(steps[0].work, StepWork { prompt_tokens: 64, decodes: 0, context: 0, attention: 2080 });
        // The engine was idle for 65 ms after the second step: it has the usual way, as has the last one.
        assert_eq!(steps.iter().map(|step| step.took_us).collect::<Vec<_>>(), [10_500.0, 15_000.0, 7_500.0]);
    }

    #[test]
    fn a_step_that_was_scheduled_ahead_lasts_from_end_to_end() {
        let records = [bytes(0, 10_000_000, 0, 1, 9, 0), bytes(1_000_000, 22_000_000, 0, 1, 10, 0)];
        let took: Vec<f64> = read_back(&records).unwrap().iter().map(|step| step.took_us).collect();
        assert_eq!(took, [10_000.0, 12_000.0]);
    }

    #[test]
    fn half_a_record_is_no_trace() {
        let error = read_back(&[bytes(0, 1, 1, 0, 0, 1)[..30].to_vec()]).unwrap_err().to_string();
        assert!(error.contains("30 bytes"), "{error}");
        assert!(read(Path::new("/nowhere/engine-0.steps")).unwrap_err().to_string().contains("/nowhere/engine-0.steps"));
    }
}
