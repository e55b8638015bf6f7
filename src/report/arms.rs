//! The arms of a run, each with everything the report says of it, in the order and with the letter and colour it keeps throughout.

use super::figures::figures;
use super::{ArmSummary, Artifacts};
use crate::core::Arrangement;
use crate::telemetry::{EngineSample, RequestRecord};

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

/// Arms in the order of the summary, then of the run's plan, then of appearance. Arms without any request are left out when there
/// is no summary: the run was stopped before it came to them.
pub fn arms(artifacts: &Artifacts) -> Vec<Arm<'_>> {
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
    let mut arms: Vec<Arm> = names.into_iter().map(|name| arm(artifacts, name)).collect();
    for (i, arm) in arms.iter_mut().filter(|a| !a.control).enumerate() {
        arm.letter = letter(i);
        arm.class = format!("arm a{} d{}", i % COLOURS, i / COLOURS % 3);
    }
    for i in 0..arms.len() {
        if arms[i].control {
            let of = arms.iter().find(|a| Some(a.name) == controlled(arms[i].name));
            arms[i].letter = of.map_or("'".to_string(), |a| format!("{}'", a.letter));
        }
    }
    arms
}

/// The arm that a control repeats.
pub fn controlled(name: &str) -> Option<&str> {
    name.strip_suffix("_control")
}

fn arm<'a>(artifacts: &'a Artifacts, name: &'a str) -> Arm<'a> {
    let requests: Vec<_> = artifacts.requests.iter().filter(|r| r.arm == name).collect();
    let samples: Vec<_> = artifacts.samples.iter().filter(|s| s.arm == name).collect();
    let arrangement = artifacts.run.arms.iter().find(|a| a.name == name);
    let summary = artifacts.summary.iter().flat_map(|s| &s.arms).find(|a| a.name == name);
    let control = summary.map_or(arrangement.is_none() && controlled(name).is_some(), |a| a.control);
    let figures = match summary {
        Some(summary) => summary.clone(),
        None => figures(name, control, &requests, &samples, &artifacts.run.environment),
    };
    Arm { name, letter: String::new(), class: "arm ac".to_string(), control, arrangement, requests, samples, figures }
}

/// A to Z, then AA, AB ...
fn letter(index: usize) -> String {
    let own = char::from(b'A' + (index % 26) as u8);
    match index / 26 {
        0 => own.to_string(),
        more => letter(more - 1) + &own.to_string(),
    }
}

impl Arm<'_> {
    /// The first repetition with records: the one that pictures of a single repetition show.
    pub fn pictured(&self) -> Option<u32> {
        let repetitions = self.requests.iter().map(|r| r.repetition).chain(self.samples.iter().map(|s| s.repetition));
        repetitions.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn letters_go_on_after_z() {
        assert_eq!([0, 25, 26, 51, 52].map(letter), ["A", "Z", "AA", "AZ", "BA"]);
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
