//! What a copy between two engines costs, by the way it is done.
//!
//! ```text
//! time = submit_us + run_us * runs + bytes / bytes_per_s
//! ```
//! One such line per class of copy: for few large runs the plain copy wins, for many small ones whatever pays least per run. The figures
//! are measured (`dualpool calibrate`); nothing here knows of a particular link.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::core::{Bytes, Micros};

/// A way to bring a plan's runs from one memory into another. Ordered from the plainest to the one of last resort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyClass {
    /// One copy per run: `memcpy`, or the driver's (batched) copies.
    Direct,
    /// Runs are gathered into one piece of staging memory, which is copied at once and scattered at the other end.
    Staged,
    /// A kernel that stores straight into the peer's memory.
    PeerStore,
    /// Through pinned host memory, where two devices cannot reach each other.
    ThroughHost,
}

impl CopyClass {
    pub const ALL: [CopyClass; 4] = [CopyClass::Direct, CopyClass::Staged, CopyClass::PeerStore, CopyClass::ThroughHost];

    pub fn name(self) -> &'static str {
        match self {
            CopyClass::Direct => "direct",
            CopyClass::Staged => "staged",
            CopyClass::PeerStore => "peer_store",
            CopyClass::ThroughHost => "through_host",
        }
    }
}

impl std::fmt::Display for CopyClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What one class costs on one link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassCost {
    /// Paid once per plan.
    pub submit_us: f64,
    /// Paid for every contiguous run.
    pub run_us: f64,
    pub bytes_per_s: f64,
}

impl ClassCost {
    /// The same in microseconds and their fractions: small copies take less than one.
    pub fn predict_us(&self, bytes: Bytes, runs: u32) -> f64 {
        self.submit_us + self.run_us * f64::from(runs) + bytes.0 as f64 / self.bytes_per_s * 1e6
    }

    pub fn predict(&self, bytes: Bytes, runs: u32) -> Micros {
        Micros(self.predict_us(bytes, runs).round() as u64)
    }

    fn is_sound(&self) -> bool {
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        not_negative(self.submit_us) && not_negative(self.run_us) && self.bytes_per_s.is_finite() && self.bytes_per_s > 0.0
    }
}

#[derive(Debug, Error, PartialEq)]
pub enum LinkCostError {
    #[error("a link needs the cost of at least one class of copy")]
    NoClass,
    #[error("the cost of class `{class}` is not usable: {cost:?}; times must be 0 or more, the bandwidth more than 0")]
    Unsound { class: CopyClass, cost: ClassCost },
}

/// What every class that a link has costs there. Never empty, and all figures are usable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<CopyClass, ClassCost>", into = "BTreeMap<CopyClass, ClassCost>")]
pub struct LinkCost {
    classes: BTreeMap<CopyClass, ClassCost>,
}

impl LinkCost {
    pub fn new(classes: BTreeMap<CopyClass, ClassCost>) -> Result<LinkCost, LinkCostError> {
        if classes.is_empty() {
            return Err(LinkCostError::NoClass);
        }
        match classes.iter().find(|(_, cost)| !cost.is_sound()) {
            Some((&class, &cost)) => Err(LinkCostError::Unsound { class, cost }),
            None => Ok(LinkCost { classes }),
        }
    }

    pub fn classes(&self) -> &BTreeMap<CopyClass, ClassCost> {
        &self.classes
    }

    /// The class that is predicted to bring a plan over soonest, and when; between equals the plainer one.
    pub fn choose(&self, bytes: Bytes, runs: u32) -> (CopyClass, Micros) {
        let (class, us) = self.choose_us(bytes, runs);
        (class, Micros(us.round() as u64))
    }

    /// `choose` without rounding to microseconds.
    pub fn choose_us(&self, bytes: Bytes, runs: u32) -> (CopyClass, f64) {
        let predicted = self.classes.iter().map(|(&class, cost)| (class, cost.predict_us(bytes, runs)));
        let sooner = |best: (CopyClass, f64), next: (CopyClass, f64)| if next.1 < best.1 { next } else { best };
        predicted.reduce(sooner).expect("a link has at least one class, as `new` checked")
    }
}

impl TryFrom<BTreeMap<CopyClass, ClassCost>> for LinkCost {
    type Error = LinkCostError;

    fn try_from(classes: BTreeMap<CopyClass, ClassCost>) -> Result<LinkCost, LinkCostError> {
        LinkCost::new(classes)
    }
}

impl From<LinkCost> for BTreeMap<CopyClass, ClassCost> {
    fn from(link: LinkCost) -> Self {
        link.classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> LinkCost {
        let direct = ClassCost { submit_us: 5.0, run_us: 2.0, bytes_per_s: 50e9 };
        let staged = ClassCost { submit_us: 40.0, run_us: 0.01, bytes_per_s: 40e9 };
        LinkCost::new([(CopyClass::Direct, direct), (CopyClass::Staged, staged)].into()).unwrap()
    }

    #[test]
    fn the_sum_of_submission_runs_and_bytes() {
        let direct = link().classes()[&CopyClass::Direct];
        assert_eq!(direct.predict(Bytes(50_000_000), 10), Micros(5 + 20 + 1000));
        assert_eq!(direct.predict_us(Bytes(0), 0), 5.0);
    }

    #[test]
    fn few_large_runs_go_directly_and_many_small_ones_through_staging() {
        assert_eq!(link().choose(Bytes::from_mib(64), 1).0, CopyClass::Direct);
        assert_eq!(link().choose(Bytes::from_mib(64), 4096).0, CopyClass::Staged);
    }

    #[test]
    fn a_link_of_figures_that_cannot_be_is_refused_also_when_read() {
        assert_eq!(LinkCost::new(BTreeMap::new()), Err(LinkCostError::NoClass));
        for bad in [
            ClassCost { submit_us: -1.0, run_us: 0.0, bytes_per_s: 1.0 },
            ClassCost { submit_us: 0.0, run_us: f64::NAN, bytes_per_s: 1.0 },
            ClassCost { submit_us: 0.0, run_us: 0.0, bytes_per_s: 0.0 },
        ] {
            assert!(matches!(LinkCost::new([(CopyClass::Direct, bad)].into()), Err(LinkCostError::Unsound { .. })));
        }
        assert!(serde_json::from_str::<LinkCost>("{}").unwrap_err().to_string().contains("at least one class"));
        let text = serde_json::to_string(&link()).unwrap();
        assert_eq!(serde_json::from_str::<LinkCost>(&text).unwrap(), link());
        assert!(text.starts_with(r#"{"direct":{"submit_us":5.0,"#), "{text}");
    }
}
