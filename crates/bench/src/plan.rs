//! What a run that compares arms would do, as far as it is known before its engines are up.

use std::path::PathBuf;

use dualpool_types::{Arrangement, Class, Role};
use dualpool_workload::{WorkItem, WorkloadSettings};

use super::folder::{FolderError, Identity, vacant};
use crate::Settings;

/// A run that passed all checks that need no engine, and left nothing.
#[derive(Debug)]
pub struct Plan {
    /// Where its artifacts would lie.
    pub dir: PathBuf,
    /// The arms of each repetition, the control among them.
    pub arms: Vec<String>,
    /// Whether any of them divides the engines into pools.
    pub pools: bool,
    pub workloads: Vec<PlannedWorkload>,
}

/// One workload of a run.
#[derive(Debug)]
pub struct PlannedWorkload {
    pub name: &'static str,
    /// The requests of a repetition, in words.
    pub requests: String,
    /// How they arrive, in words.
    pub arrivals: String,
}

impl Plan {
    /// Refuses a folder that cannot be written, or holds a run already. `parts`: the folders of its workloads, where each has its own.
    pub(super) fn new(
        target: &str,
        settings: &Settings,
        parts: &[&str],
        arms: &[Arrangement],
        workloads: Vec<PlannedWorkload>,
    ) -> Result<Plan, FolderError> {
        let run = Identity::now(target, &settings.run.out);
        match parts {
            [] => vacant(&run.dir)?,
            parts => parts.iter().try_for_each(|part| vacant(&run.of_workload(part).dir))?,
        }
        let pools = arms.iter().flat_map(|arm| &arm.roles).any(|&role| role != Role::Shared);
        Ok(Plan { dir: run.dir, arms: arms.iter().map(|arm| arm.name.clone()).collect(), pools, workloads })
    }
}

/// How requests arrive that the settings give a rate.
pub(super) fn at_a_rate(settings: &WorkloadSettings) -> String {
    match settings.rate {
        rate if rate > 0.0 => format!("Poisson arrivals, {rate} requests/s"),
        _ => format!("Poisson arrivals at {} times what the engines take, which is measured first", settings.load),
    }
}

/// Requests in words: how many there are of each class, and the tokens of their prompts and outputs.
pub(super) fn in_words(items: &[WorkItem]) -> String {
    let of_class = |(class, word): (Class, &str)| {
        let of: Vec<&WorkItem> = items.iter().filter(|item| item.class == class).collect();
        let prompts = span(of.iter().map(|item| item.prompt.len()))?;
        Some(format!("{} {word} prompts of {prompts} tokens", of.len()))
    };
    let classes: Vec<String> = [(Class::Long, "long"), (Class::Short, "short")].into_iter().filter_map(of_class).collect();
    match span(items.iter().map(|item| item.max_tokens as usize)) {
        Some(outputs) => format!("{}; {outputs} output tokens each", classes.join(", ")),
        None => "no requests".to_string(),
    }
}

/// The smallest and the largest of these numbers.
fn span(numbers: impl Iterator<Item = usize> + Clone) -> Option<String> {
    let (least, most) = (numbers.clone().min()?, numbers.max()?);
    Some(if least == most { least.to_string() } else { format!("{least} to {most}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::Micros;

    #[test]
    fn requests_are_told_by_class_with_the_range_of_their_lengths() {
        let item = |tokens: u32, output, class| WorkItem::new(0, Micros::ZERO, (0..tokens).collect(), output, class);
        assert_eq!(in_words(&[]), "no requests");
        let mut items = vec![item(64, 32, Class::Short), item(64, 32, Class::Short)];
        assert_eq!(in_words(&items), "2 short prompts of 64 tokens; 32 output tokens each");
        items.extend([item(900, 8, Class::Long), item(1024, 32, Class::Long)]);
        assert_eq!(
            in_words(&items),
            "2 long prompts of 900 to 1024 tokens, 2 short prompts of 64 tokens; 8 to 32 output tokens each"
        );
    }
}
