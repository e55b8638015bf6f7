//! The requests that wait to be let in: the one whose deadline - arrival plus the patience of its priority - comes first is next.
//!
//! Strict priorities starve the lowest, and a weight per priority starves none but bounds no wait either. A deadline does both: a
//! request of priority 1 overtakes all of priority 3 that came within the difference in patience, and what came before that stays ahead.
//! So once a request has waited for its patience, no other can come before it any more, and only the bounded number that is ahead is left.

use std::collections::{BTreeMap, HashMap};

use dualpool_types::{Micros, Priority, Request, RequestId, Time};

use crate::flight::Journey;

/// A request that came at this time and is not admitted yet.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub journey: Journey,
    /// Prompt tokens that it asks the window for, by what was believed to be cached when it came.
    pub asks: u32,
    pub arrived: Time,
}

impl Waiting {
    pub(crate) fn request(&self) -> &Request {
        &self.journey.request
    }
}

/// Deadline; of equal ones the higher priority, and then the one that came first.
type Rank = (Time, Priority, u64);

/// Holds at most `max` requests of each priority.
#[derive(Debug)]
pub(super) struct Queue {
    max: u32,
    patience: [Micros; 3],
    waiting: BTreeMap<Rank, Waiting>,
    ranks: HashMap<RequestId, Rank>,
    lengths: [u32; 3],
    arrivals: u64,
}

impl Queue {
    pub(super) fn new(max: u32, patience_ms: [u64; 3]) -> Queue {
        Queue {
            max,
            patience: patience_ms.map(|ms| Micros(ms * 1_000)),
            waiting: BTreeMap::new(),
            ranks: HashMap::new(),
            lengths: [0; 3],
            arrivals: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// By priority.
    pub(super) fn lengths(&self) -> [u32; 3] {
        self.lengths
    }

    pub(super) fn contains(&self, request: RequestId) -> bool {
        self.ranks.contains_key(&request)
    }

    pub(super) fn has_room(&self, priority: Priority) -> bool {
        self.lengths[priority.index()] < self.max
    }

    /// Prompt tokens of those that a request which arrives now would wait for.
    pub(super) fn tokens_before(&self, now: Time, priority: Priority) -> u64 {
        let rank = self.rank(now, priority);
        self.waiting.range(..rank).map(|(_, waiting)| u64::from(waiting.request().prompt_tokens())).sum()
    }

    fn rank(&self, arrived: Time, priority: Priority) -> Rank {
        (arrived.plus(self.patience[priority.index()]), priority, self.arrivals)
    }

    /// The caller has asked whether there is room.
    pub(super) fn push(&mut self, waiting: Waiting) {
        let Request { id, priority, .. } = *waiting.request();
        let rank = self.rank(waiting.arrived, priority);
        self.arrivals += 1;
        self.lengths[priority.index()] += 1;
        self.ranks.insert(id, rank);
        self.waiting.insert(rank, waiting);
    }

    pub(super) fn first(&self) -> Option<&Waiting> {
        self.waiting.values().next()
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let id = self.first()?.request().id;
        self.remove(id)
    }

    pub(super) fn remove(&mut self, request: RequestId) -> Option<Waiting> {
        let rank = self.ranks.remove(&request)?;
        self.lengths[rank.1.index()] -= 1;
        self.waiting.remove(&rank)
    }

    /// In the order in which they would be let in.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::{Class, Objectives, Sampling};

    fn waiting(id: u64, priority: Priority, arrived_ms: u64) -> Waiting {
        let objectives = Objectives { ttft_us_max: Micros(1), itl_us_max: Micros(1) };
        let request = Request {
            id: RequestId(id),
            prompt: vec![1; 10].into(),
            max_tokens: 1,
            ignore_eos: true,
            sampling: Sampling::default(),
            class: Class::Short,
            priority,
            objectives,
        };
        Waiting { journey: Journey::new(request), asks: 10, arrived: Time(arrived_ms * 1_000) }
    }

    fn order(mut queue: Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|waiting| waiting.request().id.0).collect()
    }

    #[test]
    fn a_higher_priority_goes_first_within_the_patience_and_no_longer() {
        use Priority::{High, Low, Normal};
        let mut queue = Queue::new(10, [0, 100, 1_000]);
        for (id, priority, at) in [(0, Low, 0), (1, Normal, 0), (2, High, 50), (3, High, 100), (4, High, 999), (5, High, 1_001)] {
            queue.push(waiting(id, priority, at));
        }
        assert_eq!(queue.tokens_before(Time(1_001_000), Low), 60);
        assert_eq!(queue.tokens_before(Time(500_000), High), 30);
        // 3 ties with 1 and has the higher priority.
        assert_eq!(order(queue), [2, 3, 1, 4, 0, 5]);
    }

    #[test]
    fn a_request_that_leaves_makes_room_for_one_of_the_same_priority() {
        let mut queue = Queue::new(2, [0, 100, 1_000]);
        queue.push(waiting(0, Priority::Low, 0));
        queue.push(waiting(1, Priority::Low, 0));
        assert!(!queue.has_room(Priority::Low) && queue.has_room(Priority::High));
        assert!(queue.remove(RequestId(0)).is_some() && queue.remove(RequestId(0)).is_none());
        assert!(queue.has_room(Priority::Low) && !queue.contains(RequestId(0)));
        assert_eq!((queue.lengths(), queue.len()), ([0, 0, 1], 1));
        assert_eq!(order(queue), [1]);
    }
}
