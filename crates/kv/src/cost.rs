//! What a copy between two engines costs, by the way it is done.
//!
//! ```text
//! time = submit_us + range_us * ranges + bytes / bytes_per_s
//! ```
//! One such line per class of copy: for few large byte ranges the plain copy wins, for many small ones whatever pays least per range. The figures
//! are measured (`dualpool calibrate`); nothing here knows of a particular link.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use dualpool_types::{Bytes, CopyLine, Micros};

use super::memory::KvMap;

/// A way to bring a copy plan's byte ranges from one memory into another. Ordered from the plainest to the one of last resort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyClass {
    /// One copy per byte range: `memcpy`, or the driver's (batched) copies.
    Direct,
    /// Ranges are gathered into one piece of staging memory, which is copied at once and scattered at the other end.
    Staged,
    /// A kernel stores straight into the peer's memory.
    PeerStore,
    /// Bytes go through pinned host memory, where two devices cannot reach each other.
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassCost {
    /// The time paid once per copy plan in microseconds.
    pub submit_us: f64,
    /// The time paid for every byte range in microseconds.
    pub range_us: f64,
    /// The speed in bytes per second.
    pub bytes_per_s: f64,
}

impl ClassCost {
    /// The same in microseconds and their fractions: small copies take less than one.
    pub fn predict_us(&self, bytes: Bytes, ranges: u32) -> f64 {
        self.submit_us + self.range_us * f64::from(ranges) + bytes.0 as f64 / self.bytes_per_s * 1e6
    }

    pub fn predict(&self, bytes: Bytes, ranges: u32) -> Micros {
        Micros(self.predict_us(bytes, ranges).round() as u64)
    }

    fn is_sound(&self) -> bool {
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        not_negative(self.submit_us) && not_negative(self.range_us) && self.bytes_per_s.is_finite() && self.bytes_per_s > 0.0
    }
}

/// What one token of context comes to in a copy between engines of this KV layout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Footprint {
    pub bytes_per_token: f64,
    /// Contiguous pieces, where no two blocks are neighbours.
    pub ranges_per_token: f64,
}

impl Footprint {
    pub fn of(map: &KvMap) -> Footprint {
        let mut footprint = Footprint { bytes_per_token: 0.0, ranges_per_token: 0.0 };
        for layer in &map.layers {
            let block_size = f64::from(map.groups[usize::from(layer.group)].block_size);
            let bytes: u64 = layer.ranges.iter().map(|(_, length)| length).sum();
            footprint.bytes_per_token += bytes as f64 / block_size;
            footprint.ranges_per_token += ranges_of_its_own(map, layer.base, layer.block_stride, &layer.ranges) / block_size;
        }
        footprint
    }
}

/// Ranges that a block of a layer adds to a plan: one that begins where another layer's range of the same block ends, or its own range
/// before it, is part of that copy.
fn ranges_of_its_own(map: &KvMap, base: u64, stride: u64, ranges: &[(u64, u64)]) -> f64 {
    let ends_here = |start: u64| {
        let same_blocks = map.layers.iter().filter(|other| other.block_stride == stride);
        same_blocks
            .flat_map(|other| other.ranges.iter().map(|(offset, length)| other.base + offset + length))
            .any(|end| end == start)
    };
    ranges.iter().filter(|(offset, _)| !ends_here(base + offset)).count() as f64
}

#[derive(Debug, Error, PartialEq)]
pub enum LinkCostError {
    #[error("a link needs the cost of at least one class of copy")]
    NoClass,
    #[error("the cost of class `{class}` is not usable: {cost:?}; times must be 0 or more, the bandwidth more than 0")]
    Unsound { class: CopyClass, cost: ClassCost },
}

/// What every class that a link has costs there. Never empty, and all figures are usable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    pub fn choose(&self, bytes: Bytes, ranges: u32) -> (CopyClass, Micros) {
        let (class, us) =
            self.choose_among(&CopyClass::ALL, bytes, ranges).expect("a link has at least one class, as `new` checked");
        (class, Micros(us.round() as u64))
    }

    /// The same among these classes, without rounding to microseconds. None where none of them was measured.
    pub fn choose_among(&self, classes: &[CopyClass], bytes: Bytes, ranges: u32) -> Option<(CopyClass, f64)> {
        let measured = self.classes.iter().filter(|(class, _)| classes.contains(class));
        let predicted = measured.map(|(&class, cost)| (class, cost.predict_us(bytes, ranges)));
        predicted.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The same for the router, which counts in tokens: one line per class.
    pub fn lines(&self, footprint: &Footprint) -> Vec<CopyLine> {
        let line = |cost: &ClassCost| CopyLine {
            fixed_us: cost.submit_us,
            us_per_token: cost.range_us * footprint.ranges_per_token + footprint.bytes_per_token / cost.bytes_per_s * 1e6,
        };
        self.classes.values().map(line).collect()
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
    use super::super::memory::tests::map;
    use super::*;

    fn link() -> LinkCost {
        let direct = ClassCost { submit_us: 5.0, range_us: 2.0, bytes_per_s: 50e9 };
        let staged = ClassCost { submit_us: 40.0, range_us: 0.01, bytes_per_s: 40e9 };
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
        let among = |classes: &[CopyClass]| link().choose_among(classes, Bytes::from_mib(64), 4096).map(|(class, _)| class);
        assert_eq!(among(&[CopyClass::Direct, CopyClass::ThroughHost]), Some(CopyClass::Direct));
        assert_eq!(among(&[CopyClass::PeerStore]), None, "nothing is known of it");
    }

    #[test]
    fn a_token_counts_the_runs_that_are_copies_of_their_own() {
        let layer_major = Footprint::of(&map(0, 8, 64));
        assert_eq!(layer_major, Footprint { bytes_per_token: 1.0, ranges_per_token: 2.0 / 128.0 });
        let mut block_major = map(0, 8, 64);
        for (i, layer) in (0..).zip(&mut block_major.layers) {
            (layer.base, layer.block_stride) = (i * 64, 128);
        }
        assert_eq!(Footprint::of(&block_major), Footprint { bytes_per_token: 1.0, ranges_per_token: 1.0 / 128.0 });
        let line = link().lines(&layer_major)[0];
        assert!(
            (line.fixed_us - 5.0).abs() < 1e-9 && (line.us_per_token - (2.0 * 2.0 / 128.0 + 1e6 / 50e9)).abs() < 1e-9,
            "{line:?}"
        );
    }

    #[test]
    fn a_link_of_figures_that_cannot_be_is_refused_also_when_read() {
        assert_eq!(LinkCost::new(BTreeMap::new()), Err(LinkCostError::NoClass));
        for bad in [
            ClassCost { submit_us: -1.0, range_us: 0.0, bytes_per_s: 1.0 },
            ClassCost { submit_us: 0.0, range_us: f64::NAN, bytes_per_s: 1.0 },
            ClassCost { submit_us: 0.0, range_us: 0.0, bytes_per_s: 0.0 },
        ] {
            assert!(matches!(LinkCost::new([(CopyClass::Direct, bad)].into()), Err(LinkCostError::Unsound { .. })));
        }
        assert!(serde_json::from_str::<LinkCost>("{}").unwrap_err().to_string().contains("at least one class"));
        let text = serde_json::to_string(&link()).unwrap();
        assert_eq!(serde_json::from_str::<LinkCost>(&text).unwrap(), link());
        assert!(text.starts_with(r#"{"direct":{"submit_us":5.0,"#), "{text}");
    }
}
