//! The run that records belong to.

use dualpool_router::Action;
use dualpool_types::records::{NoteRecord, RequestRecord};
use dualpool_types::{Micros, Time};

use crate::Entry;

/// The name under which records stand in the artifacts, and the moment that their times count from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub arm: String,
    pub repetition: u32,
    pub origin: Time,
}

impl Run {
    /// A run that begins when its clock does.
    pub fn of(arm: &str) -> Run {
        Run { arm: arm.to_owned(), repetition: 0, origin: Time(0) }
    }

    pub fn since(&self, at: Time) -> Micros {
        at.since(self.origin)
    }

    /// What the router noted, where the entry is a note.
    pub fn note(&self, at: Time, entry: &Entry<'_>) -> Option<NoteRecord> {
        let Entry::Action(Action::Note(note), _) = entry else { return None };
        let Run { arm, repetition, .. } = self;
        Some(NoteRecord { arm: arm.clone(), repetition: *repetition, at_us: self.since(at), note: (**note).clone() })
    }

    /// Makes a record whose times are the clock's one of this run.
    pub(crate) fn adopt(&self, record: &mut RequestRecord) {
        record.arm.clone_from(&self.arm);
        record.repetition = self.repetition;
        if self.origin == Time(0) {
            return;
        }
        let RequestRecord { arrived_us, admitted_us, token_us, legs, handoffs, ended_us, .. } = record;
        let legs = legs
            .iter_mut()
            .flat_map(|leg| std::iter::once(&mut leg.submitted_us).chain(&mut leg.first_token_us).chain(&mut leg.ended_us));
        let handoffs = handoffs.iter_mut().flat_map(|handoff| {
            let later = handoff.copy_started_us.iter_mut().chain(&mut handoff.computed_us).chain(&mut handoff.ended_us);
            std::iter::once(&mut handoff.started_us).chain(later)
        });
        let times = [arrived_us, ended_us].into_iter().chain(admitted_us).chain(token_us).chain(legs).chain(handoffs);
        times.for_each(|time| *time = self.since(Time(time.0)));
    }
}
