//! Settings that were given, and that others leave without effect: said before anything starts.

use crate::config::{Loaded, Origin};

/// What bounds the length of a run that compares arms, where something else decides on it.
pub(super) fn notes(loaded: &Loaded) -> Vec<String> {
    let run = &loaded.settings.run;
    let Some(made) = run.repetitions_fixed() else { return Vec::new() };
    let by = match (run.exact, run.quick) {
        (true, _) => "--exact",
        (false, true) => "--quick",
        (false, false) => "--repetitions",
    };
    let times = if made == 1 { "one repetition".to_string() } else { format!("{made} repetitions") };
    let given = |key: &str| loaded.origins.get(key).filter(|origin| !matches!(origin, Origin::Default | Origin::GpuDefault));
    let repetitions = given("run.repetitions").filter(|_| run.repetitions > made);
    let budget = given("run.budget_s");
    [
        repetitions
            .map(|from| format!("run.repetitions is {} (from {from}), but with {by} the run makes {times}", run.repetitions)),
        budget.map(|from| {
            format!(
                "run.budget_s is {} (from {from}) and bounds nothing: with {by} the run makes {times}, however long it takes",
                run.budget_s
            )
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};
    use dualpool_bench::FlagValue;

    fn said(flags: &[(&str, &str)]) -> Vec<String> {
        let flags =
            flags.iter().map(|&(key, text)| FlagValue { flag: format!("--{key}"), key: format!("run.{key}"), text: text.into() });
        notes(&load(&Sources { folder: "/nonexistent".into(), flags: flags.collect(), ..Sources::default() }).unwrap())
    }

    #[test]
    fn what_is_given_in_vain_is_named_with_what_counts_instead() {
        let none: [String; 0] = [];
        assert_eq!(said(&[]), none);
        assert_eq!(said(&[("budget_s", "600")]), none);
        assert_eq!(said(&[("repetitions", "6")]), none);
        assert_eq!(said(&[("quick", "true"), ("repetitions", "1")]), none);
        let both = said(&[("quick", "true"), ("repetitions", "6"), ("budget_s", "600")]);
        assert_eq!(
            both,
            [
                "run.repetitions is 6 (from --repetitions), but with --quick the run makes 2 repetitions",
                "run.budget_s is 600 (from --budget_s) and bounds nothing: with --quick the run makes 2 repetitions, however long it takes"
            ]
        );
        let [repetitions, budget] = &said(&[("exact", "true"), ("repetitions", "6"), ("budget_s", "60")])[..] else { panic!() };
        assert!(repetitions.ends_with("with --exact the run makes one repetition"), "{repetitions}");
        assert!(budget.contains("with --exact the run makes one repetition"), "{budget}");
        let [budget] = &said(&[("repetitions", "6"), ("budget_s", "60")])[..] else { panic!() };
        assert!(budget.contains("with --repetitions the run makes 6 repetitions"), "{budget}");
    }
}
