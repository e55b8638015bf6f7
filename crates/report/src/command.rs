//! The command line of a run, to be pasted back.

use dualpool_types::artifact::RunInfo;

/// What a command that goes on does not repeat: where the run was written to, how long it was, and how it was shown.
const OF_ONE_RUN: [&str; 2] = ["--quick", "--json"];
const OF_ONE_RUN_WITH_VALUE: [&str; 3] = ["--out", "--budget", "--repetitions"];

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
