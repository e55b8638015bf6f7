//! The synthetic workloads beside the mixes: whatever the seed, the same requests again, and what is said to be shared is.

use std::collections::BTreeMap;

use proptest::prelude::*;

use dualpool_types::{Micros, SessionId};
use dualpool_workload::{ArrivalProcess, Mixed, ModelLimits, ParameterError, PrefixSessions, TwoWave, WorkItem};

const MODEL: ModelLimits = ModelLimits { vocab_size: 49_152, max_model_len: 4608 };

fn arrivals() -> impl Strategy<Value = ArrivalProcess> {
    prop_oneof![
        Just(ArrivalProcess::Poisson),
        (0.01f64..100.0).prop_map(|burst_factor| ArrivalProcess::Gamma { burst_factor }),
        (1.0f64..100.0, 200_000u64..10_000_000)
            .prop_map(|(burst_factor, on)| ArrivalProcess::OnOff { burst_factor, on: Micros(on) }),
    ]
}

/// The requests of every workload.
fn all(arrivals: ArrivalProcess, rate: f64, seed: u64) -> Result<[Vec<WorkItem>; 3], ParameterError> {
    let mixed = Mixed { requests: 40, arrivals, rate, ..Mixed::default() };
    let sessions = PrefixSessions { sessions: 10, arrivals, rate, ..PrefixSessions::default() };
    Ok([
        mixed.items(MODEL, seed)?.collect(),
        TwoWave { rounds: 2, ..TwoWave::default() }.items(MODEL, seed)?.collect(),
        sessions.items(MODEL, seed)?.collect(),
    ])
}

proptest! {
    // A failing case is printed. A file that keeps it is looked for beside `src/lib.rs`, which a test out here has not.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn one_seed_gives_one_workload(arrivals in arrivals(), rate in 0.1f64..50.0, seed in any::<u64>()) {
        let workloads = all(arrivals, rate, seed).unwrap();
        prop_assert_eq!(&workloads, &all(arrivals, rate, seed).unwrap());
        let others = all(arrivals, rate, seed.wrapping_add(1)).unwrap();
        for (items, others) in workloads.iter().zip(&others) {
            prop_assert!(items.iter().zip(others).all(|(item, other)| item.prompt != other.prompt));
            prop_assert!(items.iter().enumerate().all(|(i, item)| item.index == i as u32));
            prop_assert!(items.is_sorted_by_key(|item| item.at));
            prop_assert!(items.iter().all(|item| item.prompt.len() + item.max_tokens as usize <= 4608 && item.max_tokens > 0));
        }
    }

    #[test]
    fn a_turn_begins_with_the_turn_before_it(arrivals in arrivals(), rate in 0.1f64..50.0, seed in any::<u64>()) {
        let [_, _, items] = all(arrivals, rate, seed).unwrap();
        let mut last: BTreeMap<SessionId, &WorkItem> = BTreeMap::new();
        for item in &items {
            let turn = item.turn.unwrap();
            match last.insert(turn.session, item) {
                None => prop_assert_eq!(turn.index, 0),
                Some(before) => {
                    prop_assert_eq!(turn.index, before.turn.unwrap().index + 1);
                    prop_assert!(item.prompt.starts_with(&before.prompt));
                }
            }
        }
        prop_assert_eq!(last.len(), 10);
    }
}
