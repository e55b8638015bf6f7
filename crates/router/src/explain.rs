//! Why a request went where it went. The policies' own code says it while it decides: code that ranks candidates reports each rank, and
//! code that computes terms reports each term, to a `Terms`. There is no second formula that could come to differ from the first.

use dualpool_types::EngineId;
use dualpool_types::records::Candidate;

/// Takes what a decision is made of. `()` takes nothing, and compiles to nothing.
pub trait Terms {
    /// What the candidate is ranked by: the lowest wins.
    fn score(&mut self, engine: EngineId, score: f64);
    /// A part of that, or what it was computed from.
    fn term(&mut self, engine: EngineId, name: &'static str, value: f64);
}

impl Terms for () {
    #[inline(always)]
    fn score(&mut self, _: EngineId, _: f64) {}
    #[inline(always)]
    fn term(&mut self, _: EngineId, _: &'static str, _: f64) {}
}

/// Everything said about one decision.
#[derive(Debug, Default)]
pub struct Explanation {
    candidates: Vec<Candidate>,
}

impl Explanation {
    fn candidate(&mut self, engine: EngineId) -> &mut Candidate {
        let at = self.candidates.iter().position(|candidate| candidate.engine == engine);
        let at = at.unwrap_or_else(|| {
            self.candidates.push(Candidate { engine, score: None, cached_tokens: 0, terms: Default::default() });
            self.candidates.len() - 1
        });
        &mut self.candidates[at]
    }

    /// Forgets it all, for the next decision.
    pub(super) fn clear(&mut self) {
        self.candidates.clear();
    }

    /// The decision is made, with these beliefs of the engines' caches.
    pub(super) fn decided_with(&mut self, cached: &[u32]) {
        for candidate in &mut self.candidates {
            candidate.cached_tokens = cached.get(candidate.engine.index()).copied().unwrap_or(0);
        }
    }

    /// What was said: the best candidate first, and equals by their place in the fleet.
    pub(super) fn take(&mut self) -> Vec<Candidate> {
        let mut candidates = std::mem::take(&mut self.candidates);
        let score = |candidate: &Candidate| candidate.score.unwrap_or(f64::MAX);
        candidates.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.engine.cmp(&b.engine)));
        candidates
    }
}

/// Figures that JSON has no word for are left out.
impl Terms for Explanation {
    fn score(&mut self, engine: EngineId, score: f64) {
        self.candidate(engine).score = score.is_finite().then_some(score);
    }

    fn term(&mut self, engine: EngineId, name: &'static str, value: f64) {
        if value.is_finite() {
            self.candidate(engine).terms.insert(name.to_owned(), value);
        }
    }
}
