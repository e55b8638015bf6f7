//! Which class of copy a plan goes in: what the calibration of the link says, or else rules of thumb.

use std::fmt;

use dualpool_types::Bytes;

use super::super::cost::{CopyClass, LinkCost};

/// One launch and no staging: cheapest while the bytes take less time on the link than the two more steps of staging take to start.
const PEER_STORE_BYTES_MAX: u64 = 256 << 10;
/// A range of a batch costs about half a microsecond to submit, in which a link of 200 GB/s carries this much. Shorter ranges are gathered.
const DIRECT_RANGE_BYTES_MIN: u64 = 100 << 10;
/// Fewer ranges than this are submitted before a gather has started.
const STAGED_RANGES_MIN: u32 = 16;

/// What a choice goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    Calibration,
    NoCalibration,
    /// The calibration was made where there was no such class, without kernels for example. That others were measured does not make them
    /// faster than this one.
    NotCalibrated(CopyClass),
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Basis::Calibration => f.write_str("by calibration"),
            Basis::NoCalibration => f.write_str("by rule of thumb"),
            Basis::NotCalibrated(class) => write!(f, "by rule of thumb, as class {class} is not calibrated"),
        }
    }
}

/// One of `classes`, which is in the order of preference without knowledge and not empty, and what the choice goes by.
pub(super) fn choose(
    classes: &[CopyClass],
    same_gpu: bool,
    bytes: Bytes,
    ranges: u32,
    cost: Option<&LinkCost>,
) -> (CopyClass, Basis) {
    let basis = match cost.map(|cost| classes.iter().find(|class| !cost.classes().contains_key(class))) {
        None => Basis::NoCalibration,
        Some(Some(&class)) => Basis::NotCalibrated(class),
        Some(None) => Basis::Calibration,
    };
    let calibrated = cost.filter(|_| basis == Basis::Calibration).and_then(|cost| cost.choose_among(classes, bytes, ranges));
    (calibrated.map_or_else(|| by_shape(classes, same_gpu, bytes, ranges), |(class, _)| class), basis)
}

/// The rule of thumb. Between two places of one GPU a kernel is several times as fast as the copy engine, whatever the ranges.
fn by_shape(classes: &[CopyClass], same_gpu: bool, bytes: Bytes, ranges: u32) -> CopyClass {
    let small = same_gpu || bytes.0 <= PEER_STORE_BYTES_MAX;
    let scattered = ranges >= STAGED_RANGES_MIN && bytes.0 / u64::from(ranges) < DIRECT_RANGE_BYTES_MIN;
    let fits = |class: &CopyClass| match class {
        CopyClass::PeerStore => small,
        CopyClass::Staged => scattered,
        CopyClass::Direct | CopyClass::ThroughHost => true,
    };
    let preferred = [CopyClass::PeerStore, CopyClass::Staged, CopyClass::Direct];
    preferred.into_iter().find(|class| classes.contains(class) && fits(class)).unwrap_or(CopyClass::ThroughHost)
}

/// What a plan is tried in once more when it failed in this class: the one that needs least of what may be broken.
pub(super) fn lower(class: CopyClass, classes: &[CopyClass]) -> Option<CopyClass> {
    let plainer: &[CopyClass] = match class {
        CopyClass::PeerStore | CopyClass::Staged => &[CopyClass::Direct, CopyClass::ThroughHost],
        CopyClass::Direct => &[CopyClass::ThroughHost],
        CopyClass::ThroughHost => &[],
    };
    plainer.iter().copied().find(|class| classes.contains(class))
}

#[cfg(test)]
mod tests {
    use super::super::super::cost::ClassCost;
    use super::*;
    use CopyClass::*;

    const ALL: [CopyClass; 4] = CopyClass::ALL;

    #[test]
    fn without_calibration_the_shape_of_the_plan_decides() {
        let chosen = |classes: &[CopyClass], same_gpu, bytes, ranges| {
            let (class, basis) = choose(classes, same_gpu, bytes, ranges, None);
            assert_eq!(basis, Basis::NoCalibration);
            class
        };
        let between = |classes: &[CopyClass], kib: u64, ranges| chosen(classes, false, Bytes(kib << 10), ranges);
        assert_eq!(between(&ALL, 64, 8), PeerStore, "few bytes");
        assert_eq!(between(&ALL, 64 << 10, 2048), Staged, "many ranges of 32 KiB");
        assert_eq!(between(&ALL, 64 << 10, 8), Direct, "few large ranges");
        assert_eq!(between(&[Direct, ThroughHost], 64, 4000), Direct, "no kernels");
        assert_eq!(between(&[ThroughHost], 64 << 10, 8), ThroughHost, "no peer access");
        assert_eq!(chosen(&[Direct, PeerStore], true, Bytes(1 << 30), 2), PeerStore, "within one GPU");
        assert_eq!(chosen(&ALL, false, Bytes(0), 0), PeerStore);
    }

    #[test]
    fn a_calibrated_link_decides_by_its_figures_among_what_there_is() {
        let slow = ClassCost { submit_us: 5.0, range_us: 2.0, bytes_per_s: 1e9 };
        let fast = ClassCost { submit_us: 900.0, range_us: 0.0, bytes_per_s: 100e9 };
        let link = LinkCost::new([(Direct, slow), (Staged, fast), (ThroughHost, slow)].into()).unwrap();
        let chosen = |classes: &[CopyClass], bytes| choose(classes, false, bytes, 1, Some(&link));
        assert_eq!(chosen(&[Direct, Staged, ThroughHost], Bytes::from_mib(64)), (Staged, Basis::Calibration));
        assert_eq!(chosen(&[Direct, Staged, ThroughHost], Bytes(1000)), (Direct, Basis::Calibration));
        assert_eq!(
            chosen(&[ThroughHost], Bytes::from_mib(64)),
            (ThroughHost, Basis::Calibration),
            "what else was measured is gone"
        );
    }

    #[test]
    fn a_calibration_made_without_kernels_does_not_switch_them_off() {
        let cost = ClassCost { submit_us: 5.0, range_us: 2.0, bytes_per_s: 1e9 };
        let link = LinkCost::new([(Direct, cost), (ThroughHost, cost)].into()).unwrap();
        let chosen = |classes: &[CopyClass]| choose(classes, false, Bytes::from_mib(64), 2048, Some(&link));
        assert_eq!(chosen(&ALL), (Staged, Basis::NotCalibrated(Staged)));
        assert_eq!(chosen(&[Direct, ThroughHost]), (Direct, Basis::Calibration));
        assert!(Basis::NotCalibrated(Staged).to_string().contains("class staged is not calibrated"));
    }

    #[test]
    fn every_class_but_the_last_has_a_lower_one() {
        assert_eq!(ALL.map(|class| lower(class, &ALL)), [Some(ThroughHost), Some(Direct), Some(Direct), None]);
        assert_eq!(lower(Staged, &[Staged, ThroughHost]), Some(ThroughHost));
    }
}
