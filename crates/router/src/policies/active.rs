//! The policy that serves: it decides, and remembers what its last decision was made of where that is to be explained.

use std::cell::RefCell;

use dualpool_types::records::{Placed, RouterNote};
use dualpool_types::{EngineId, PolicyKind, RequestId};

use crate::explain::Explanation;
use crate::fleet::FleetView;
use crate::placement::{Ask, Placement};
use crate::settings::RouterSettings;

use super::build::build;
use super::policy::Policy;

pub(crate) struct ActivePolicy {
    policy: Box<dyn Policy>,
    /// What `policy` is; never `Auto`, which is what chose it.
    kind: PolicyKind,
    /// What the last decision was made of; none unless `router.explain` is set.
    explanation: Option<RefCell<Explanation>>,
}

impl ActivePolicy {
    pub(crate) fn new(kind: PolicyKind, settings: &RouterSettings) -> ActivePolicy {
        ActivePolicy { policy: build(kind, settings), kind, explanation: settings.explain.then(RefCell::default) }
    }

    /// Serves by another kind of policy from now on, one that has decided nothing yet.
    pub(crate) fn change(&mut self, kind: PolicyKind, settings: &RouterSettings) {
        (self.policy, self.kind) = (build(kind, settings), kind);
    }

    pub(crate) fn kind(&self) -> PolicyKind {
        self.kind
    }

    /// Whether it goes by what prefix caches are believed to hold.
    pub(crate) fn wants_cached(&self) -> bool {
        self.policy.wants_cached()
    }

    /// Where a request that starts now goes. None only when no engine is alive.
    pub(crate) fn place(&mut self, fleet: FleetView<'_>, ask: &Ask) -> Option<Placement> {
        self.deciding(fleet, |policy, fleet| policy.place(fleet, ask))
    }

    /// Where a request whose KV is on engine `from` decodes.
    pub(crate) fn decode_on(&mut self, fleet: FleetView<'_>, ask: &Ask, from: EngineId) -> Option<EngineId> {
        self.deciding(fleet, |policy, fleet| policy.decode_on(fleet, ask, from))
    }

    fn deciding<T>(&mut self, fleet: FleetView<'_>, decide: impl FnOnce(&mut dyn Policy, &FleetView<'_>) -> T) -> T {
        let Some(explanation) = &mut self.explanation else { return decide(self.policy.as_mut(), &fleet) };
        explanation.get_mut().clear();
        let decision = decide(self.policy.as_mut(), &FleetView { explaining: Some(explanation), ..fleet });
        explanation.get_mut().decided_with(fleet.cached);
        decision
    }

    /// What the decision just made was made of, where that is to be explained. `from`: the engine that holds the request's KV.
    pub(crate) fn explained(
        &mut self,
        request: RequestId,
        ask: &Ask,
        from: Option<EngineId>,
        placement: Placement,
    ) -> Option<RouterNote> {
        let candidates = self.explanation.as_mut()?.get_mut().take();
        let Ask { prompt_tokens, outputs, .. } = *ask;
        let (policy, chosen, split) = (self.kind, placement.engine(), placement.is_split());
        Some(RouterNote::Placed(Placed { request, policy, prompt_tokens, outputs, from, chosen, prefill_only: split, candidates }))
    }
}
