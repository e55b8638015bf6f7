//! Every prompt prefills in the prefill pool and is handed off. The decode engines never compute a prompt, so their steps are the shortest of
//! all arrangements; short prompts pay by waiting behind long ones.

use dualpool_types::Role;

use crate::fleet::FleetView;
use crate::placement::{Ask, Placement};

use super::policy::Policy;
use super::turn::Turn;

#[derive(Default)]
pub(super) struct FullDisaggregation {
    turn: Turn,
}

impl Policy for FullDisaggregation {
    fn place(&mut self, fleet: &FleetView<'_>, ask: &Ask) -> Option<Placement> {
        let prompt = f64::from(ask.prompt_tokens);
        let engine = fleet.least_of_pool(Role::Prefill, self.turn.next(), |engine| fleet.ttft(engine, prompt))?;
        Some(if engine.role == Role::Prefill { Placement::Split(engine.id) } else { Placement::Whole(engine.id) })
    }
}
