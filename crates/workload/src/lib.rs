//! The requests of one repetition: how long they are, when they arrive, what they ask for. Pure and seeded: the same settings,
//! seed and rate give the same requests on every machine, so that arms are compared on equal work.
//!
//! `Workload` makes the mixes of `dual_pool`, a repetition at a time. `Mixed`, `Phases`, `TwoWave` and `PrefixSessions` make theirs one
//! by one, and so does a `trace`, of any length.

mod arrivals;
mod check;
mod item;
mod lengths;
mod mix;
mod mixed;
mod parameter;
mod phases;
mod process;
mod sessions;
mod settings;
mod tokens;
pub mod trace;
mod two_wave;

use rand::Rng as _;
use rand::seq::SliceRandom;

use dualpool_types::{Class, Micros, Rng, seeded};

use mix::Shape;

pub use arrivals::arrivals_name;
pub use check::{WorkloadError, check};
pub use item::{ModelLimits, TOKENS_MAX, WorkItem};
pub use lengths::Lengths;
pub use mix::mix_name;
pub use mixed::Mixed;
pub use parameter::ParameterError;
pub use phases::{Phase, Phases};
pub use process::ArrivalProcess;
pub use sessions::PrefixSessions;
pub use settings::{Arrivals, Mix, ObjectiveSettings, WorkloadSettings};
pub use two_wave::TwoWave;

/// The requests of a repetition, before a seed makes them concrete.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// One after the other. More than one only where the mix changes.
    parts: Vec<Part>,
    arrivals: Arrivals,
}

#[derive(Clone, Debug, PartialEq)]
struct Part {
    shape: Shape,
    /// What the rate is multiplied by here.
    pace: f64,
}

impl Workload {
    /// Settings that `check` refuses may give an empty workload.
    pub fn new(settings: &WorkloadSettings) -> Workload {
        let parts = Shape::of(settings).into_iter().map(|shape| Part { shape, pace: 1.0 }).collect();
        Workload { parts, arrivals: settings.arrivals }
    }

    /// The same mix with about this share of the requests: for warm-ups, calibration and trials. A kind of request that is there
    /// stays there, and a clump stays as large as it is.
    pub fn scaled(&self, factor: f64) -> Workload {
        let parts = self.parts.iter().map(|part| Part { shape: part.shape.scaled(factor), pace: part.pace }).collect();
        Workload { parts, arrivals: self.arrivals }
    }

    /// The same requests, all arriving at once.
    pub fn upfront(&self) -> Workload {
        Workload { arrivals: Arrivals::AllUpfront, ..self.clone() }
    }

    /// Its parts, each of one mix that stays.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (Mix, Workload)> {
        self.parts.iter().map(|part| (part.shape.mix, Workload { parts: vec![part.clone()], arrivals: self.arrivals }))
    }

    /// The same requests, with the rate multiplied in each part by its factor: mixes differ in the work that a request makes.
    pub fn paced(&self, paces: &[f64]) -> Workload {
        let parts = self.parts.iter().zip(paces).map(|(part, &pace)| Part { shape: part.shape.clone(), pace });
        Workload { parts: parts.collect(), arrivals: self.arrivals }
    }

    /// Whether any stretch of it is like any other: one mix, in which requests arrive one by one.
    pub fn is_steady(&self) -> bool {
        self.arrivals == Arrivals::Poisson && self.parts.len() == 1 && self.parts.iter().all(|part| part.shape.clump <= 1)
    }

    pub fn requests(&self) -> usize {
        self.parts.iter().map(|part| part.shape.requests()).sum()
    }

    /// The requests in order of arrival. `rate` is the offered load in requests per second, and means nothing to arrivals that are
    /// all upfront.
    pub fn generate(&self, vocab_size: u32, seed: u64, rate: Option<f64>) -> Vec<WorkItem> {
        let [mut order, mut gaps, mut lengths, mut words] =
            ["order", "arrivals", "lengths", "tokens"].map(|purpose| seeded(seed, purpose));
        let ids = tokens::ordinary_tokens(vocab_size);
        let (mut items, mut begin) = (Vec::with_capacity(self.requests()), Micros::ZERO);
        for Part { shape, pace } in &self.parts {
            let groups = arrival_groups(shape, &mut order);
            let rate = rate.map(|rate| rate * pace);
            let arrivals = arrivals::times(self.arrivals, groups.len(), shape.requests(), rate, &mut gaps);
            let end = begin + arrivals.last().copied().unwrap_or_default();
            for (group, at) in groups.into_iter().zip(arrivals) {
                for class in group {
                    let length = match class {
                        Class::Long => lengths.random_range(shape.long_tokens.clone()),
                        Class::Short => shape.short_tokens,
                    };
                    let prompt = (0..length).map(|_| words.random_range(ids.clone())).collect();
                    items.push(WorkItem::new(items.len() as u32, begin + at, prompt, shape.max_tokens, class));
                }
            }
            begin = end;
        }
        items
    }
}

/// The requests in shuffled order, grouped by what arrives together: each alone, but for the long prompts of a clump.
fn arrival_groups(shape: &Shape, order: &mut Rng) -> Vec<Vec<Class>> {
    let mut groups: Vec<Vec<Class>> = Vec::new();
    let mut longs = shape.longs;
    while longs > 0 {
        let clump = longs.min(shape.clump);
        groups.push(vec![Class::Long; clump as usize]);
        longs -= clump;
    }
    groups.extend((0..shape.shorts).map(|_| vec![Class::Short]));
    groups.shuffle(order);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(mix: Mix) -> WorkloadSettings {
        WorkloadSettings { mix, ..WorkloadSettings::default() }
    }

    fn generate(settings: &WorkloadSettings, vocab_size: u32, seed: u64, rate: Option<f64>) -> Vec<WorkItem> {
        Workload::new(settings).generate(vocab_size, seed, rate)
    }

    fn count(items: &[WorkItem], class: Class) -> usize {
        items.iter().filter(|i| i.class == class).count()
    }

    #[test]
    fn balanced_is_twelve_long_among_ninety_six_short() {
        let items = generate(&settings(Mix::Balanced), 49_152, 1, Some(8.0));
        assert_eq!((count(&items, Class::Long), count(&items, Class::Short)), (12, 96));
        for item in &items {
            let expected = if item.class == Class::Long { 1024 } else { 64 };
            assert_eq!((item.prompt.len(), item.max_tokens), (expected, 32));
            assert!(item.prompt.iter().all(|t| (64..49_152).contains(t)));
        }
    }

    #[test]
    fn one_seed_one_workload_and_another_seed_another() {
        for mix in [Mix::Balanced, Mix::DecodeHeavy, Mix::LongContext, Mix::Burst] {
            let first = generate(&settings(mix), 1000, 7, Some(8.0));
            assert_eq!(first, generate(&settings(mix), 1000, 7, Some(8.0)));
            let other = generate(&settings(mix), 1000, 8, Some(8.0));
            assert!(first.iter().zip(&other).all(|(a, b)| a.prompt != b.prompt), "{mix:?}: prompts repeat across seeds");
        }
    }

    #[test]
    fn indices_follow_arrival_times() {
        for mix in [Mix::Balanced, Mix::DecodeHeavy, Mix::LongContext, Mix::Burst] {
            let items = generate(&settings(mix), 1000, 3, Some(8.0));
            assert!(items.iter().enumerate().all(|(i, item)| item.index == i as u32));
            assert!(items.windows(2).all(|pair| pair[0].at <= pair[1].at));
        }
    }

    /// The published figures are of these very requests: a seed must go on giving them, whatever else is added beside the mixes.
    #[test]
    fn the_mixes_give_the_bytes_they_always_gave() {
        let digest = |mix| {
            let mut hash = xxhash_rust::xxh3::Xxh3::new();
            for item in generate(&settings(mix), 49_152, 7, Some(8.0)) {
                hash.update(&item.index.to_le_bytes());
                hash.update(&item.at.0.to_le_bytes());
                item.prompt.iter().for_each(|token| hash.update(&token.to_le_bytes()));
                hash.update(&item.max_tokens.to_le_bytes());
                hash.update(&[u8::from(item.class == Class::Long)]);
            }
            format!("{:016x}", hash.digest())
        };
        let digests = [Mix::Balanced, Mix::DecodeHeavy, Mix::LongContext, Mix::Burst].map(digest);
        assert_eq!(digests, ["460b4a62827b6d00", "4ae0f26480f85269", "68eb32f1ce071d4a", "189c381111f03d57"]);
    }

    #[test]
    fn all_upfront_arrives_at_zero() {
        let upfront = Workload::new(&settings(Mix::Balanced)).upfront();
        assert!(upfront.generate(1000, 3, Some(8.0)).iter().all(|item| item.at == Micros::ZERO));
    }

    /// Over many seeds the mean rate is the one asked for, clumps or not.
    #[test]
    fn poisson_arrivals_have_the_rate_asked_for() {
        for mix in [Mix::Balanced, Mix::Burst] {
            let (mut requests, mut seconds) = (0.0, 0.0);
            for seed in 0..200 {
                let items = generate(&settings(mix), 200, seed, Some(8.0));
                requests += items.len() as f64;
                seconds += items.last().map_or(0.0, |item| item.at.as_secs());
            }
            let rate = requests / seconds;
            assert!((7.6..8.4).contains(&rate), "{mix:?}: asked for 8 requests/s over seeds 0..200, got {rate:.2}");
        }
    }

    #[test]
    fn burst_clumps_its_long_prompts() {
        let items = generate(&settings(Mix::Burst), 1000, 5, Some(8.0));
        let mut arrivals: Vec<Micros> = items.iter().filter(|i| i.class == Class::Long).map(|i| i.at).collect();
        assert_eq!(arrivals.len(), 12);
        arrivals.dedup();
        assert_eq!(arrivals.len(), 3);
    }

    #[test]
    fn long_context_prompts_are_two_to_four_times_as_long() {
        let items = generate(&settings(Mix::LongContext), 1000, 5, Some(8.0));
        let longs: Vec<usize> = items.iter().filter(|i| i.class == Class::Long).map(|i| i.prompt.len()).collect();
        assert_eq!(longs.len(), 4);
        assert!(longs.iter().all(|n| (2048..=4096).contains(n)), "{longs:?}");
    }

    #[test]
    fn a_mix_that_changes_is_one_mix_after_another_each_at_its_pace() {
        let paces = [1.0, 0.5, 2.0];
        let changing = Workload::new(&settings(Mix::Changing)).paced(&paces);
        let items = changing.generate(49_152, 3, Some(8.0));
        assert!(items.iter().enumerate().all(|(i, item)| item.index == i as u32) && items.is_sorted_by_key(|item| item.at));
        let (mut begin, mut left) = (Micros::ZERO, &items[..]);
        for ((mix, part), pace) in changing.parts().zip(paces) {
            let (now, later) = left.split_at(part.requests());
            let alone = generate(&settings(mix), 49_152, 3, Some(8.0));
            let long =
                |items: &[WorkItem]| items.iter().filter(|i| i.class == Class::Long).map(|i| i.max_tokens).collect::<Vec<_>>();
            assert_eq!((now.len(), long(now)), (alone.len(), long(&alone)), "{mix:?}");
            let end = now.last().unwrap().at;
            let rate = now.len() as f64 / (end - begin).as_secs();
            assert!((0.6..1.6).contains(&(rate / (8.0 * pace))), "{mix:?}: {rate:.1} requests/s");
            (begin, left) = (end, later);
        }
        let mut beginnings: Vec<&[u32]> = items.iter().map(|item| &item.prompt[..8]).collect();
        beginnings.sort();
        beginnings.dedup();
        assert_eq!(beginnings.len(), items.len(), "parts share no prompts");
    }

    #[test]
    fn a_tiny_vocabulary_still_gives_prompts() {
        let items = generate(&settings(Mix::Balanced), 32, 5, Some(8.0));
        assert!(items.iter().flat_map(|i| i.prompt.iter()).all(|t| (16..32).contains(t)));
    }
}
