//! `samples.jsonl` while a run goes on: the samples that are kept, and behind them a tail with those of the run under way, so that the
//! file can be followed. When a measured run is over the tail is cut off, and what the recording holds takes its place. So runs that are not
//! measured (warm-up, calibration, search) and runs that are made again can be watched, too, and leave nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::Serialize;

use dualpool_types::Micros;
use dualpool_types::records::{EngineSample, GpuSample, Sample};

#[derive(Debug)]
pub(super) struct SamplesFile {
    /// Open for appending, so that cutting it moves the end.
    file: File,
    kept_bytes: u64,
    /// The run that was kept last: what of it is still on its way here belongs to no tail.
    last: Option<(String, u32)>,
    ended: bool,
}

impl SamplesFile {
    /// Fails when the file exists.
    pub(crate) fn create(path: &Path) -> io::Result<SamplesFile> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(SamplesFile { file, kept_bytes: 0, last: None, ended: false })
    }

    /// The file of a run that goes on: what it holds of these runs stays, and the tail that a killed run leaves is cut off.
    pub(crate) fn reopen(path: &Path, kept: impl Fn(&str, u32) -> bool) -> io::Result<SamplesFile> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let mut lines = BufReader::new(File::open(path)?);
        let (mut line, mut at, mut kept_bytes) = (Vec::new(), 0, 0);
        while lines.read_until(b'\n', &mut line)? > 0 {
            at += line.len() as u64;
            let is_kept = serde_json::from_slice(&line).is_ok_and(|sample: Sample| {
                let (arm, repetition) = run_of(&sample);
                kept(arm, repetition)
            });
            if is_kept && line.ends_with(b"\n") {
                kept_bytes = at;
            }
            line.clear();
        }
        file.set_len(kept_bytes)?;
        Ok(SamplesFile { file, kept_bytes, last: None, ended: false })
    }

    /// Appends to the tail. False when the file is done.
    pub(crate) fn show(&mut self, samples: &[Sample]) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let last = self.last.as_ref().map(|(arm, repetition)| (arm.as_str(), *repetition));
        let fresh = samples.iter().filter(|sample| last != Some(run_of(sample)));
        let mut text = Vec::new();
        for sample in fresh {
            line(&mut text, sample)?;
        }
        // One write, so that a reader sees whole lines but for the last one.
        self.file.write_all(&text)?;
        Ok(true)
    }

    /// Puts a run's samples in the place of the tail, in the order of their time.
    pub(crate) fn keep(&mut self, engines: &[EngineSample], gpus: &[GpuSample]) -> io::Result<()> {
        let mut text = Vec::new();
        let mut gpus_left = gpus;
        let due =
            |gpus: &[GpuSample], until: Option<Micros>| gpus.iter().take_while(|g| until.is_none_or(|at| g.at_us < at)).count();
        for engine in engines {
            let (before, after) = gpus_left.split_at(due(gpus_left, Some(engine.at_us)));
            before.iter().try_for_each(|gpu| line(&mut text, gpu))?;
            line(&mut text, engine)?;
            gpus_left = after;
        }
        gpus_left.iter().try_for_each(|gpu| line(&mut text, gpu))?;
        self.file.set_len(self.kept_bytes)?;
        self.file.write_all(&text)?;
        self.kept_bytes += text.len() as u64;
        self.last = engines.first().map(|sample| (sample.arm.clone(), sample.repetition));
        Ok(())
    }

    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.ended = true;
        self.file.set_len(self.kept_bytes)
    }
}

impl Drop for SamplesFile {
    fn drop(&mut self) {
        // A run that failed has no better place to end; where it cannot be cut, the reader leaves the tail out by its run.
        let _ = self.end();
    }
}

fn run_of(sample: &Sample) -> (&str, u32) {
    match sample {
        Sample::Engine(sample) => (&sample.arm, sample.repetition),
        Sample::Gpu(sample) => (&sample.arm, sample.repetition),
    }
}

fn line(text: &mut Vec<u8>, record: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *text, record)?;
    text.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::records::GpuReading;
    use dualpool_types::{EngineId, Role};

    fn engine(arm: &str, at: u64) -> EngineSample {
        EngineSample {
            arm: arm.into(),
            repetition: 0,
            at_us: Micros(at),
            engine: EngineId(0),
            role: Role::Shared,
            waiting: 0,
            running: 0,
            kv_usage: None,
            prefix_hits: None,
            transfers_in: 0,
        }
    }

    fn gpu(arm: &str, at: u64) -> GpuSample {
        GpuSample { arm: arm.into(), repetition: 0, at_us: Micros(at), engines: vec![], reading: GpuReading::default() }
    }

    /// Arm, time, and whether it is of a GPU, of every line.
    fn read(path: &Path) -> Vec<(String, u64, bool)> {
        let parsed = |line: &str| match serde_json::from_str(line).unwrap() {
            Sample::Engine(sample) => (sample.arm, sample.at_us.0, false),
            Sample::Gpu(sample) => (sample.arm, sample.at_us.0, true),
        };
        std::fs::read_to_string(path).unwrap().lines().map(parsed).collect()
    }

    fn row(arm: &str, at: u64, gpu: bool) -> (String, u64, bool) {
        (arm.to_string(), at, gpu)
    }

    #[test]
    fn a_tail_can_be_followed_and_what_is_kept_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.jsonl");
        let mut file = SamplesFile::create(&path).unwrap();
        assert!(file.show(&[Sample::Engine(engine("warm-up", 1))]).unwrap());
        assert!(file.show(&[Sample::Engine(engine("a", 1)), Sample::Gpu(Box::new(gpu("a", 2)))]).unwrap());
        assert_eq!(read(&path), [row("warm-up", 1, false), row("a", 1, false), row("a", 2, true)]);

        file.keep(&[engine("a", 1), engine("a", 3)], &[gpu("a", 2), gpu("a", 4)]).unwrap();
        let kept = [row("a", 1, false), row("a", 2, true), row("a", 3, false), row("a", 4, true)];
        assert_eq!(read(&path), kept);

        file.show(&[Sample::Engine(engine("a", 9)), Sample::Engine(engine("b", 1))]).unwrap();
        assert_eq!(read(&path)[4..], [row("b", 1, false)], "what of a kept run comes late is in it already");
        file.end().unwrap();
        assert!(!file.show(&[Sample::Engine(engine("b", 2))]).unwrap());
        assert_eq!(read(&path), kept);
    }

    #[test]
    fn a_run_that_was_killed_goes_on_behind_what_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.jsonl");
        let mut file = SamplesFile::create(&path).unwrap();
        file.keep(&[engine("a", 1)], &[gpu("a", 2)]).unwrap();
        file.show(&[Sample::Engine(engine("b", 1))]).unwrap();
        std::mem::forget(file);
        let mut file = SamplesFile::reopen(&path, |arm, repetition| (arm, repetition) == ("a", 0)).unwrap();
        assert_eq!(read(&path), [row("a", 1, false), row("a", 2, true)]);
        file.keep(&[engine("b", 3)], &[]).unwrap();
        assert_eq!(read(&path)[2..], [row("b", 3, false)]);
    }

    #[test]
    fn a_run_that_fails_leaves_what_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.jsonl");
        let mut file = SamplesFile::create(&path).unwrap();
        file.keep(&[engine("a", 1)], &[]).unwrap();
        file.show(&[Sample::Engine(engine("b", 1))]).unwrap();
        drop(file);
        assert_eq!(read(&path), [row("a", 1, false)]);
    }
}
