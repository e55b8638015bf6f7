//! The command line of a run, to be pasted back.

use dualpool_types::artifact::RunInfo;

use super::{Artifacts, REPETITIONS_MIN, workload_folders};

/// Repetitions do not all take as long.
const MARGIN: f64 = 1.2;

/// What a command that goes on does not repeat: where the run was written to, how long it was, and how it was shown.
const OF_ONE_RUN: [&str; 2] = ["--quick", "--json"];
const OF_ONE_RUN_WITH_VALUE: [&str; 3] = ["--out", "--budget", "--repetitions"];

/// The share of a budget in which no repetition was finished that each may take, about.
const FIRST_REPETITION: f64 = 0.5;

/// The command that made this run.
pub(crate) fn repeated(run: &RunInfo) -> String {
    joined(run.command.iter())
}

/// The command that measures the same with this flag; none where the run does not say its command.
pub(crate) fn with_flag(run: &RunInfo, flag: &str, value: &str) -> Option<String> {
    let mut words = Vec::new();
    let mut given = run.command.iter();
    while let Some(word) = given.next() {
        let name = word.split('=').next().unwrap_or_default();
        let with_value = name == flag || OF_ONE_RUN_WITH_VALUE.contains(&name);
        if with_value && name == word {
            given.next();
        }
        if !with_value && !OF_ONE_RUN.contains(&name) {
            words.push(word);
        }
    }
    (!words.is_empty()).then(|| format!("{} {flag} {}", joined(words.into_iter()), quoted(value)))
}

/// The command that has time for so many arms, in repetitions of as many requests as were asked for and as many of them as a verdict takes; none
/// where it is not known how long they take.
pub(crate) fn with_time_for(artifacts: &Artifacts, arms: usize) -> Option<String> {
    let Artifacts { run, summary, .. } = artifacts;
    let repetitions = summary.as_ref().map(|summary| summary.repetitions).filter(|&repetitions| repetitions > 0)?;
    let asked = run.settings.pointer("/run/repetition_requests").and_then(|requests| requests.as_f64());
    let cut = asked.zip(run.repetition).map_or(1.0, |(asked, of)| (asked / f64::from(of.requests.max(1))).max(1.0));
    let all_s = run.phases.iter().map(|phase| phase.us.as_secs()).sum::<f64>();
    let measured_s = took_s(run, "measurement");
    let run_s = measured_s / (f64::from(repetitions) * run.arms.len() as f64) * cut;
    let needed_s = all_s - measured_s + run_s * f64::from(REPETITIONS_MIN + 1) * arms as f64;
    with_flag(run, "--budget", &format!("{}m", in_minutes(needed_s)))
}

fn took_s(run: &RunInfo, phase: &str) -> f64 {
    run.phases.iter().filter(|of| of.name == phase).map(|of| of.us.as_secs()).sum()
}

fn in_minutes(seconds: f64) -> f64 {
    (seconds * MARGIN / 60.0).ceil().max(1.0)
}

/// The command that adds repetitions until there are so many; none where a run cannot go on, or where it is not known how long they take.
pub(crate) fn resumed(artifacts: &Artifacts, repetitions: u32) -> Option<String> {
    let Artifacts { run, dir, summary, .. } = artifacts;
    let summary = summary.as_ref().filter(|summary| !run.quick && !summary.exact && !run.arms.is_empty())?;
    let each_s = if summary.repetitions > 0 {
        took_s(run, "measurement") / f64::from(summary.repetitions)
    } else {
        // Not even one was finished in all of its time.
        run.settings.pointer("/run/budget_s").and_then(|budget| budget.as_f64())? * FIRST_REPETITION
    };
    let more_s =
        took_s(run, "warm-up") + took_s(run, "opening") + each_s * f64::from(repetitions.saturating_sub(summary.repetitions));
    // The folder of a run of several workloads, which share its time, is that of all of them.
    let (dir, workloads) = match (&run.workload, dir.parent()) {
        (Some(_), Some(parent)) => (parent, workload_folders(parent).ok().flatten().map_or(1, |folders| folders.len())),
        _ => (dir.as_path(), 1),
    };
    let minutes = in_minutes(more_s * workloads as f64);
    let (program, dir) = (run.command.first()?, dir.display().to_string());
    Some(format!("{} run --resume {} --budget {minutes}m", quoted(program), quoted(&dir)))
}

fn joined<'a>(words: impl Iterator<Item = &'a String>) -> String {
    words.map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell takes it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_command_can_be_pasted_back() {
        assert_eq!(["run", "--mix=a", "two words", "it's", ""].map(quoted), ["run", "--mix=a", "'two words'", r"'it'\''s'", "''"]);
    }

    #[test]
    fn a_run_goes_on_for_as_long_as_its_repetitions_took() {
        let mut artifacts = fixture::by_default();
        let repetitions = artifacts.summary.as_ref().unwrap().repetitions;
        let phase = |name: &str, s: f64| dualpool_types::artifact::PhaseTime {
            name: name.into(),
            us: dualpool_types::Micros::from_secs(s),
        };
        artifacts.run.phases = vec![phase("warm-up", 30.0), phase("measurement", 10.0 * f64::from(repetitions))];
        // Half a minute, and three times as long as the measurement took.
        let minutes = ((30.0 + 30.0 * f64::from(repetitions)) * 1.2 / 60.0).ceil();
        let expected = format!("dualpool run --resume run --budget {minutes}m");
        assert_eq!(resumed(&artifacts, 4 * repetitions), Some(expected));
        artifacts.run.quick = true;
        assert_eq!(resumed(&artifacts, 4 * repetitions), None);
    }

    #[test]
    fn all_arms_are_given_the_time_that_those_which_ran_took() {
        let mut artifacts = fixture::by_default();
        let ran = artifacts.run.arms.len();
        let repetitions = artifacts.summary.as_ref().unwrap().repetitions;
        let phase = |name: &str, s: f64| dualpool_types::artifact::PhaseTime {
            name: name.into(),
            us: dualpool_types::Micros::from_secs(s),
        };
        // Ten seconds for each run of an arm, with a third of the requests.
        artifacts.run.phases = vec![phase("warm-up", 60.0), phase("measurement", 10.0 * ran as f64 * f64::from(repetitions))];
        artifacts.run.settings = serde_json::json!({"run": {"repetition_requests": 36}});
        artifacts.run.repetition = Some(dualpool_types::artifact::RunRepetition { requests: 12, lead_in_s: 1.0 });
        let minutes = ((60.0_f64 + 30.0 * 7.0 * 6.0) * 1.2 / 60.0).ceil();
        let expected = format!("dualpool run dual_pool --mix balanced --budget {minutes}m");
        assert_eq!(with_time_for(&artifacts, 6), Some(expected));
    }

    #[test]
    fn a_command_that_goes_on_is_the_run_s_own_but_for_its_length_and_place() {
        let mut run = fixture::small().run;
        let with = |run: &RunInfo| with_flag(run, "--repetitions", "24");
        assert_eq!(with(&run).unwrap(), "dualpool run dual_pool --mix balanced --repetitions 24");
        run.command =
            ["dualpool", "run", "dual_pool", "--quick", "--out", "/tmp/a b", "--budget=4m", "--load", "0.7", "--repetitions", "6"]
                .map(String::from)
                .to_vec();
        assert_eq!(with(&run).unwrap(), "dualpool run dual_pool --load 0.7 --repetitions 24");
        assert_eq!(with_flag(&run, "--load", "0.9").unwrap(), "dualpool run dual_pool --load 0.9");
        run.command.clear();
        assert_eq!(with(&run), None);
    }
}
