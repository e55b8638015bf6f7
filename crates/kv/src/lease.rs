//! Which leg holds which blocks, and until when. Pure: time is passed in.
//!
//! A lease begins when an engine says that it holds a leg's blocks, and ends when the engine says that it gave them back. In
//! between it may be fetched (a copy reads the blocks, so the lease cannot end) and then it is released.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dualpool_types::{BlockId, EngineId, LegId, Time};

/// Legs remembered as over, so that a hold or a fetch that comes after the release finds it. They overtake each other by
/// milliseconds; thousands of legs end in between only if the fleet is long gone.
pub(crate) const LEGS_OVER_MAX: usize = 4096;

/// A leg on the engine that holds its blocks.
pub(crate) type Holder = (EngineId, LegId);

/// Blocks by KV group and position in the prompt.
pub(crate) type Tables = Vec<Vec<Option<BlockId>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not fetched yet; the lease runs out at this time.
    Held { until: Time },
    /// A copy reads it.
    Fetched,
    /// The engine was told to give the blocks back.
    Releasing,
}

#[derive(Debug)]
struct Lease {
    tables: Tables,
    tokens: u32,
    state: State,
}

/// What the caller has to do after it told of a hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OnHeld {
    /// Nothing; the lease runs.
    Keep,
    /// Release it: it was released before it was known.
    Release,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FetchError {
    /// It may come yet.
    NotHeld,
    Over,
    /// Held, but for fewer tokens than asked for.
    TooFew {
        tokens: u32,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    leases: BTreeMap<Holder, Lease>,
    over: VecDeque<Holder>,
    over_set: BTreeSet<Holder>,
}

impl Leases {
    pub(crate) fn hold(&mut self, holder: Holder, tables: Tables, tokens: u32, until: Time) -> OnHeld {
        let over = self.over_set.contains(&holder);
        let state = if over { State::Releasing } else { State::Held { until } };
        self.leases.insert(holder, Lease { tables, tokens, state });
        if over { OnHeld::Release } else { OnHeld::Keep }
    }

    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn is_known(&self, holder: Holder) -> bool {
        self.leases.contains_key(&holder)
    }

    /// Begins to read the blocks: until `fetched`, the lease neither runs out nor can be released.
    pub(crate) fn fetch(&mut self, holder: Holder, tokens: u32) -> Result<&Tables, FetchError> {
        if self.over_set.contains(&holder) {
            return Err(FetchError::Over);
        }
        let lease = self.leases.get_mut(&holder).ok_or(FetchError::NotHeld)?;
        if lease.tokens < tokens {
            return Err(FetchError::TooFew { tokens: lease.tokens });
        }
        match lease.state {
            State::Held { .. } => {
                lease.state = State::Fetched;
                Ok(&lease.tables)
            }
            // A leg's blocks go to one other leg; a second taker would read blocks about to be released.
            State::Fetched | State::Releasing => Err(FetchError::Over),
        }
    }

    /// Nothing is read after all: the lease is held again, and runs out at `until`.
    pub(crate) fn unfetch(&mut self, holder: Holder, until: Time) {
        if let Some(lease) = self.leases.get_mut(&holder)
            && lease.state == State::Fetched
        {
            lease.state = State::Held { until };
        }
    }

    /// The copy is over. True when the engine is to be told to release: always, unless the lease is gone meanwhile.
    pub(crate) fn fetched(&mut self, holder: Holder) -> bool {
        self.remember(holder);
        match self.leases.get_mut(&holder) {
            Some(lease) if lease.state == State::Fetched => {
                lease.state = State::Releasing;
                true
            }
            _ => false,
        }
    }

    /// The blocks are not needed (any more). True when the engine is to be told now; false when a copy still reads them, when it
    /// was told before, and when nothing is held.
    pub(crate) fn release(&mut self, holder: Holder) -> bool {
        match self.leases.get_mut(&holder) {
            Some(lease) if matches!(lease.state, State::Held { .. }) => {
                lease.state = State::Releasing;
                self.remember(holder);
                true
            }
            Some(_) => false,
            None => {
                self.remember(holder);
                false
            }
        }
    }

    /// The engine gave the blocks back. False when it held none under this name.
    pub(crate) fn released(&mut self, holder: Holder) -> bool {
        self.remember(holder);
        self.leases.remove(&holder).is_some()
    }

    /// Leases that have run out by now; the engines are to be told to release them.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<Holder> {
        let due = |lease: &Lease| matches!(lease.state, State::Held { until } if until <= now);
        let expired: Vec<Holder> = self.leases.iter().filter(|(_, lease)| due(lease)).map(|(holder, _)| *holder).collect();
        for holder in &expired {
            self.release(*holder);
        }
        expired
    }

    /// When the next lease runs out.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        let until = |lease: &Lease| if let State::Held { until } = lease.state { Some(until) } else { None };
        self.leases.values().filter_map(until).min()
    }

    /// The engine is gone, and its blocks with it.
    pub(crate) fn drop_engine(&mut self, engine: EngineId) {
        self.leases.retain(|holder, _| holder.0 != engine);
    }

    /// Blocks held, in all groups.
    pub(crate) fn blocks(&self) -> u64 {
        self.leases.values().flat_map(|lease| &lease.tables).map(|table| table.iter().flatten().count() as u64).sum()
    }

    fn remember(&mut self, holder: Holder) {
        if self.over_set.insert(holder) {
            self.over.push_back(holder);
            if self.over.len() > LEGS_OVER_MAX
                && let Some(oldest) = self.over.pop_front()
            {
                self.over_set.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::{Micros, RequestId};
    use proptest::prelude::*;

    fn holder(n: u64) -> Holder {
        (EngineId(0), LegId { request: RequestId(n), leg: 0 })
    }

    fn tables(blocks: u32) -> Tables {
        vec![(0..blocks).map(|b| Some(BlockId(b))).collect(), vec![None]]
    }

    fn held(leases: &mut Leases, n: u64, until: u64) -> OnHeld {
        leases.hold(holder(n), tables(3), 300, Time(until))
    }

    #[test]
    fn held_fetched_released() {
        let mut leases = Leases::default();
        assert_eq!(held(&mut leases, 1, 100), OnHeld::Keep);
        assert_eq!(leases.blocks(), 3, "positions without a block are not blocks");
        assert_eq!(leases.fetch(holder(1), 301), Err(FetchError::TooFew { tokens: 300 }));
        assert!(leases.fetch(holder(1), 300).is_ok());
        assert!(!leases.release(holder(1)), "a copy reads it");
        assert!(leases.expire(Time(1000)).is_empty(), "a copy reads it");
        assert!(leases.fetched(holder(1)));
        assert_eq!(leases.blocks(), 3, "the engine has not given them back yet");
        assert!(leases.released(holder(1)));
        assert!(!leases.released(holder(1)));
        assert_eq!(leases.fetch(holder(1), 1), Err(FetchError::Over));
        assert_eq!(leases.blocks(), 0);
    }

    #[test]
    fn release_is_told_once() {
        let mut leases = Leases::default();
        held(&mut leases, 1, 100);
        assert!(leases.release(holder(1)));
        assert!(!leases.release(holder(1)));
        assert!(leases.expire(Time(100)).is_empty());
    }

    #[test]
    fn a_release_that_overtakes_its_hold_still_counts() {
        let mut leases = Leases::default();
        assert!(!leases.release(holder(1)));
        assert_eq!(held(&mut leases, 1, 100), OnHeld::Release);
        assert_eq!(leases.next_expiry(), None);
        assert!(leases.released(holder(1)));
    }

    #[test]
    fn leases_run_out() {
        let mut leases = Leases::default();
        held(&mut leases, 1, 100);
        held(&mut leases, 2, 200);
        assert_eq!(leases.next_expiry(), Some(Time(100)));
        assert_eq!(leases.expire(Time(99)), []);
        assert_eq!(leases.expire(Time(100)), [holder(1)]);
        assert_eq!(leases.expire(Time(150)), []);
        assert_eq!(leases.next_expiry(), Some(Time(200)));
    }

    #[test]
    fn a_gone_engine_holds_nothing() {
        let mut leases = Leases::default();
        held(&mut leases, 1, 100);
        leases.drop_engine(EngineId(0));
        assert_eq!((leases.blocks(), leases.next_expiry()), (0, None));
        assert!(!leases.fetched(holder(1)));
    }

    #[test]
    fn memory_of_legs_that_are_over_is_bounded() {
        let mut leases = Leases::default();
        for n in 0..2 * LEGS_OVER_MAX as u64 {
            leases.release(holder(n));
        }
        assert_eq!((leases.over.len(), leases.over_set.len()), (LEGS_OVER_MAX, LEGS_OVER_MAX));
    }

    proptest! {
        /// Whatever happens in whatever order: an engine is told to release a leg at most once, never while a copy reads it, and
        /// every lease can be ended.
        #[test]
        fn told_at_most_once(steps in proptest::collection::vec((0u8..6, 0u64..3), 0..60)) {
            let mut leases = Leases::default();
            let (mut told, mut reading, mut ever_held) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for (now, (step, n)) in steps.into_iter().enumerate() {
                let (now, holder) = (Time(now as u64), holder(n));
                let release = match step {
                    0 if ever_held.insert(holder) => leases.hold(holder, tables(1), 10, now.plus(Micros(5))) == OnHeld::Release,
                    1 => { if leases.fetch(holder, 10).is_ok() { prop_assert!(reading.insert(holder)); } false }
                    2 if reading.remove(&holder) => leases.fetched(holder),
                    3 => leases.release(holder),
                    4 => {
                        for expired in leases.expire(now) {
                            prop_assert!(!reading.contains(&expired));
                            prop_assert!(told.insert(expired));
                        }
                        false
                    }
                    5 if told.contains(&holder) => { leases.released(holder); false }
                    _ => false,
                };
                if release {
                    prop_assert!(!reading.contains(&holder));
                    prop_assert!(told.insert(holder), "told twice");
                }
            }
            for holder in reading { if leases.fetched(holder) { prop_assert!(told.insert(holder)); } }
            for holder in leases.expire(Time(u64::MAX)) { prop_assert!(told.insert(holder)); }
            for holder in told { leases.released(holder); }
            prop_assert_eq!(leases.blocks(), 0);
        }
    }
}
