//! At which load the arms of a run part, where at its own all of them do as well as can be: a forecast by simulation.

use std::time::Duration;

use dualpool_types::Arrangement;
use dualpool_types::arm::controlled;
use dualpool_types::artifact::PartsAt;

use super::search::Forecast;

/// Where every arm keeps more than this share within objectives, the load tells nothing of them apart.
const ALL_WELL: f64 = 0.99;

/// Arms whose shares differ by more than this part.
const APART: f64 = 0.05;

/// Shares of the saturation that are simulated, those above the run's own.
const LOADS: [f64; 6] = [0.8, 0.9, 1.0, 1.1, 1.25, 1.5];

/// No further load is simulated after this time.
pub(super) const TIME_MAX: Duration = Duration::from_secs(5);

/// Whether there is a question, by what each arm kept within objectives.
pub(super) fn is_due<'a>(arms: impl Iterator<Item = (&'a str, Option<f64>)>) -> bool {
    let shares: Vec<Option<f64>> = arms.filter(|(arm, _)| controlled(arm).is_none()).map(|(_, share)| share).collect();
    shares.len() > 1 && shares.into_iter().all(|share| share.is_some_and(|share| share > ALL_WELL))
}

/// Those that differ from the run's own by more than how it was rounded.
pub(super) fn loads_above(own: f64) -> impl Iterator<Item = f64> {
    LOADS.into_iter().filter(move |load| *load > own + 0.01)
}

/// The arms less the control, which can part from nothing but by chance.
pub(super) fn simulated(arms: &[Arrangement]) -> Vec<Arrangement> {
    arms.iter().filter(|arm| controlled(&arm.name).is_none()).cloned().collect()
}

/// Whether they part at this load, by what the simulation says of each arm.
pub(super) fn parted(load: f64, forecasts: &[Forecast]) -> Option<PartsAt> {
    let shares = || forecasts.iter().map(|forecast| forecast.score.goodput_share);
    let (least, most) = (shares().reduce(f64::min)?, shares().reduce(f64::max)?);
    let of_arm = |forecast: &Forecast| (forecast.arrangement.name.clone(), forecast.score.goodput_share);
    (most - least > APART).then(|| PartsAt { load, shares: forecasts.iter().map(of_arm).collect() })
}

/// What is said of it.
pub(super) fn note(PartsAt { load, shares }: &PartsAt) -> String {
    let mut shares: Vec<(&String, &f64)> = shares.iter().collect();
    shares.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let shares: Vec<String> = shares.into_iter().map(|(arm, share)| format!("{arm} {:.0} %", share * 100.0)).collect();
    format!(
        "At this load all arms keep over {:.0} % within objectives; a simulation of these engines parts them at a load of {load}: {}. \
         Try --load {load}.",
        ALL_WELL * 100.0,
        shares.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Score;
    use dualpool_types::{PolicyKind, Tuning};

    fn forecasts(shares: &[(&str, f64)]) -> Vec<Forecast> {
        let forecast = |&(name, share): &(&str, f64)| Forecast {
            arrangement: Arrangement::shared(name, PolicyKind::LeastLoad, 2, Tuning::default()),
            score: Score { goodput_share: share, score: share },
        };
        shares.iter().map(forecast).collect()
    }

    #[test]
    fn there_is_a_question_where_all_arms_did_well() {
        let due = |shares: &[(&'static str, Option<f64>)]| is_due(shares.iter().copied());
        assert!(due(&[("a", Some(1.0)), ("b", Some(0.995)), ("a_control", Some(0.5))]), "a control asks nothing");
        assert!(!due(&[("a", Some(1.0)), ("b", Some(0.99))]));
        assert!(!due(&[("a", Some(1.0)), ("b", None)]) && !due(&[("a", Some(1.0)), ("a_control", Some(1.0))]));
    }

    #[test]
    fn loads_rise_from_above_the_runs_own() {
        assert_eq!(loads_above(0.7).collect::<Vec<_>>(), LOADS);
        // 0.9 to three digits of a rate.
        assert_eq!(loads_above(0.8995).collect::<Vec<_>>(), LOADS[2..]);
    }

    #[test]
    fn arms_part_where_two_of_them_are_far_from_each_other_and_the_note_says_where() {
        assert_eq!(parted(0.8, &forecasts(&[("a", 1.0), ("b", 0.96)])), None);
        let parts_at = parted(0.9, &forecasts(&[("a", 0.91), ("b", 0.99), ("c", 0.98)])).unwrap();
        assert_eq!((parts_at.load, parts_at.shares["a"]), (0.9, 0.91));
        assert_eq!(
            note(&parts_at),
            "At this load all arms keep over 99 % within objectives; a simulation of these engines parts them at a load of 0.9: b 99 %, \
             c 98 %, a 91 %. Try --load 0.9."
        );
    }

    #[test]
    fn a_control_is_not_simulated() {
        let arms: Vec<Arrangement> = forecasts(&[("a", 1.0), ("a_control", 1.0)]).into_iter().map(|f| f.arrangement).collect();
        assert_eq!(simulated(&arms), arms[..1]);
    }
}
