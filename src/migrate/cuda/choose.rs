//! Which class of copy a plan goes in: what the calibration of the link says, or else rules of thumb.

use super::super::cost::{CopyClass, LinkCost};
use crate::core::Bytes;

/// One launch and no staging: cheapest while the bytes take less time on the link than the two more steps of staging take to start.
const PEER_STORE_BYTES_MAX: u64 = 256 << 10;
/// A run of a batch costs about half a microsecond to submit, in which a link of 200 GB/s carries this much. Shorter runs are gathered.
const DIRECT_RUN_BYTES_MIN: u64 = 100 << 10;
/// Fewer runs than this are submitted before a gather has started.
const STAGED_RUNS_MIN: u32 = 16;

/// One of `classes`, which is in the order of preference without knowledge and not empty. Between two places of one GPU a kernel is several
/// times as fast as the copy engine, whatever the runs.
pub fn choose(classes: &[CopyClass], same_gpu: bool, bytes: Bytes, runs: u32, cost: Option<&LinkCost>) -> CopyClass {
    let calibrated = cost.into_iter().flat_map(LinkCost::classes).filter(|(class, _)| classes.contains(class));
    let predicted = calibrated.map(|(class, cost)| (*class, cost.predict_us(bytes, runs)));
    if let Some((class, _)) = predicted.min_by(|a, b| a.1.total_cmp(&b.1)) {
        return class;
    }
    let small = same_gpu || bytes.0 <= PEER_STORE_BYTES_MAX;
    let scattered = runs >= STAGED_RUNS_MIN && bytes.0 / u64::from(runs) < DIRECT_RUN_BYTES_MIN;
    let fits = |class: &CopyClass| match class {
        CopyClass::PeerStore => small,
        CopyClass::Staged => scattered,
        CopyClass::Direct | CopyClass::ThroughHost => true,
    };
    let preferred = [CopyClass::PeerStore, CopyClass::Staged, CopyClass::Direct];
    preferred.into_iter().find(|class| classes.contains(class) && fits(class)).unwrap_or(CopyClass::ThroughHost)
}

/// What a plan is tried in once more when it failed in this class: the one that needs least of what may be broken.
pub fn lower(class: CopyClass, classes: &[CopyClass]) -> Option<CopyClass> {
    let rungs: &[CopyClass] = match class {
        CopyClass::PeerStore | CopyClass::Staged => &[CopyClass::Direct, CopyClass::ThroughHost],
        CopyClass::Direct => &[CopyClass::ThroughHost],
        CopyClass::ThroughHost => &[],
    };
    rungs.iter().copied().find(|rung| classes.contains(rung))
}

#[cfg(test)]
mod tests {
    use super::super::super::cost::ClassCost;
    use super::*;
    use CopyClass::*;

    const ALL: [CopyClass; 4] = CopyClass::ALL;

    #[test]
    fn without_calibration_the_shape_of_the_plan_decides() {
        let between = |classes: &[CopyClass], kib: u64, runs| choose(classes, false, Bytes(kib << 10), runs, None);
        assert_eq!(between(&ALL, 64, 8), PeerStore, "few bytes");
        assert_eq!(between(&ALL, 64 << 10, 2048), Staged, "many runs of 32 KiB");
        assert_eq!(between(&ALL, 64 << 10, 8), Direct, "few large runs");
        assert_eq!(between(&[Direct, ThroughHost], 64, 4000), Direct, "no kernels");
        assert_eq!(between(&[ThroughHost], 64 << 10, 8), ThroughHost, "no peer access");
        assert_eq!(choose(&[Direct, PeerStore], true, Bytes(1 << 30), 2, None), PeerStore, "within one GPU");
        assert_eq!(choose(&ALL, false, Bytes(0), 0, None), PeerStore);
    }

    #[test]
    fn a_calibrated_link_decides_by_its_figures_among_what_there_is() {
        let slow = ClassCost { submit_us: 5.0, run_us: 2.0, bytes_per_s: 1e9 };
        let fast = ClassCost { submit_us: 900.0, run_us: 0.0, bytes_per_s: 100e9 };
        let link = LinkCost::new([(ThroughHost, slow), (Staged, fast)].into()).unwrap();
        let chosen = |classes: &[CopyClass], mib: u64| choose(classes, false, Bytes::from_mib(mib), 1, Some(&link));
        assert_eq!((chosen(&ALL, 64), chosen(&[Direct, ThroughHost], 64)), (Staged, ThroughHost));
        assert_eq!(choose(&ALL, false, Bytes(1000), 1, Some(&link)), ThroughHost);
        assert_eq!(chosen(&[Direct], 64), Direct, "what was calibrated is not there any more");
    }

    #[test]
    fn every_class_but_the_last_has_a_lower_one() {
        assert_eq!(ALL.map(|class| lower(class, &ALL)), [Some(ThroughHost), Some(Direct), Some(Direct), None]);
        assert_eq!(lower(Staged, &[Staged, ThroughHost]), Some(ThroughHost));
    }
}
