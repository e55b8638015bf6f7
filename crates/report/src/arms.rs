//! The arms of a run, each with everything the report says of it, in the order and with the letter and colour it keeps throughout.

use std::collections::BTreeMap;

use dualpool_types::Arrangement;
use dualpool_types::arm::controlled;
use dualpool_types::artifact::{ArmSummary, RunInfo};
use dualpool_types::records::{EngineSample, RequestRecord};

use super::Artifacts;
use super::figures::figures;
use super::plot::Key;
use super::routing::routing;

/// Arms that have a colour of their own; further ones take the colours again, and differ by letter and dash.
const COLOURS: usize = 7;

pub struct Arm<'a> {
    pub name: &'a str,
    /// Stands for the arm where its name does not fit; a control has its arm's letter with an apostrophe.
    pub letter: String,
    /// Selects colour and dash in the style sheet.
    pub class: String,
    pub control: bool,
    pub arrangement: Option<&'a Arrangement>,
    pub requests: Vec<&'a RequestRecord>,
    pub samples: Vec<&'a EngineSample>,
    pub figures: ArmSummary,
}

/// The repetitions in which every one of these arms has records: those that count. An arm's records come all at once, when its run is
/// over, and a repetition that was cut short would weigh on some arms and not on others. Nor do disturbed ones count.
pub fn complete_repetitions(run: &RunInfo, requests: &[RequestRecord]) -> Vec<u32> {
    let mut seen: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for r in requests {
        let seen = seen.entry(r.repetition).or_default();
        if seen.last() != Some(&r.arm.as_str()) && !seen.contains(&r.arm.as_str()) {
            seen.push(&r.arm);
        }
    }
    let complete = |seen: &[&str]| run.arms.iter().all(|arm| seen.contains(&arm.name.as_str()));
    let counts = |&(repetition, ref seen): &(u32, Vec<&str>)| complete(seen) && !run.is_disturbed(repetition);
    seen.into_iter().filter(counts).map(|(repetition, _)| repetition).collect()
}

/// Arms in the order of the summary, then of the run's plan, then of appearance. Arms without any request are left out when there
/// is no summary: the run was stopped before it came to them.
pub(crate) fn arms(artifacts: &Artifacts) -> Vec<Arm<'_>> {
    let mut names: Vec<&str> = Vec::new();
    let summarized = artifacts.summary.iter().flat_map(|s| &s.arms).map(|a| a.name.as_str());
    let planned = artifacts.run.arms.iter().map(|a| a.name.as_str());
    let planned = planned.filter(|name| artifacts.summary.is_none() && artifacts.requests.iter().any(|r| r.arm == *name));
    let seen = artifacts.requests.iter().map(|r| r.arm.as_str());
    for name in summarized.chain(planned).chain(seen) {
        if names.last() != Some(&name) && !names.contains(&name) {
            names.push(name);
        }
    }
    let counted = artifacts.summary.as_ref().map(|_| complete_repetitions(&artifacts.run, &artifacts.requests));
    let mut arms: Vec<Arm> = names.into_iter().map(|name| arm(artifacts, name, counted.as_deref())).collect();
    for (i, arm) in arms.iter_mut().filter(|a| !a.control).enumerate() {
        (arm.letter, arm.class) = (letter(i), class(i));
    }
    for i in 0..arms.len() {
        if arms[i].control {
            let of = arms.iter().find(|a| Some(a.name) == controlled(arms[i].name));
            arms[i].letter = of.map_or("'".to_string(), |a| format!("{}'", a.letter));
        }
    }
    arms
}

/// `counted` are the repetitions that the summary is about; without one everything counts.
fn arm<'a>(artifacts: &'a Artifacts, name: &'a str, counted: Option<&[u32]>) -> Arm<'a> {
    let counts = |repetition| counted.is_none_or(|counted| counted.contains(&repetition));
    let requests: Vec<_> = artifacts.requests.iter().filter(|r| r.arm == name && counts(r.repetition)).collect();
    let samples: Vec<_> = artifacts.samples.iter().filter(|s| s.arm == name && counts(s.repetition)).collect();
    let arrangement = artifacts.run.arms.iter().find(|a| a.name == name);
    let summary = artifacts.summary.iter().flat_map(|s| &s.arms).find(|a| a.name == name);
    let control = summary.map_or(arrangement.is_none() && controlled(name).is_some(), |a| a.control);
    let figures = match summary {
        Some(summary) => summary.clone(),
        None => {
            let environment = &artifacts.run.environment;
            // A run with a workload of its own is about routing.
            let routing = artifacts.run.workload.as_ref().map(|_| routing(&requests, &samples, environment));
            ArmSummary { routing, ..figures(name, control, &requests, &samples, environment) }
        }
    };
    Arm { name, letter: String::new(), class: "arm ac".to_string(), control, arrangement, requests, samples, figures }
}

/// Colour and dash of the arm with this place among those that are no controls.
pub(crate) fn class(index: usize) -> String {
    format!("arm a{} d{}", index % COLOURS, index / COLOURS % 3)
}

/// A to Z, then AA, AB ...
pub(crate) fn letter(index: usize) -> String {
    let own = char::from(b'A' + (index % 26) as u8);
    match index / 26 {
        0 => own.to_string(),
        more => letter(more - 1) + &own.to_string(),
    }
}

impl Arm<'_> {
    pub fn key(&self) -> Key<'_> {
        Key { letter: &self.letter, class: &self.class }
    }

    /// The first repetition with records: the one that pictures of a single repetition show.
    pub fn pictured(&self) -> Option<u32> {
        let repetitions = self.requests.iter().map(|r| r.repetition).chain(self.samples.iter().map(|s| s.repetition));
        repetitions.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn letters_go_on_after_z() {
        assert_eq!([0, 25, 26, 51, 52].map(letter), ["A", "Z", "AA", "AZ", "BA"]);
    }

    #[test]
    fn plots_are_of_the_repetitions_that_the_summary_counts() {
        let mut artifacts = fixture::small();
        let last = artifacts.requests.iter().map(|r| r.repetition).max().unwrap();
        artifacts.requests.retain(|r| r.repetition < last || r.arm == "shared_tuned");
        let shown = |artifacts: &Artifacts| arms(artifacts).iter().flat_map(|a| &a.requests).any(|r| r.repetition == last);
        assert!(!shown(&artifacts));
        artifacts.summary = None;
        assert!(shown(&artifacts), "without a summary everything counts");
    }

    #[test]
    fn a_control_has_the_letter_of_its_arm() {
        let artifacts = fixture::small();
        let arms = arms(&artifacts);
        let named: Vec<_> = arms.iter().map(|a| (a.name, a.letter.as_str(), a.class.as_str())).collect();
        assert_eq!(named[1], ("shared_tuned", "B", "arm a1 d0"));
        assert_eq!(*named.last().unwrap(), ("shared_tuned_control", "B'", "arm ac"));
    }
}
