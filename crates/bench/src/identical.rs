//! Whether two arms gave the same answers. Same prompts and greedy decoding should give the same tokens on any engine; in bf16 the
//! other requests of a batch alone can flip one, so a difference means something only next to the A/A control's.

use std::collections::BTreeMap;

use thiserror::Error;

use dualpool_report::measure::is_done;
use dualpool_types::TokenId;
use dualpool_types::artifact::Identical;
use dualpool_types::records::RequestRecord;

/// The first request of an arm that is not as the reference's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Difference {
    #[error(
        "arm `{arm}`, request {index} (repetition {repetition}): output token {position} is {got}, on one engine it is {expected}; \
         `--exact` allows no difference"
    )]
    Token { arm: String, repetition: u32, index: u32, position: usize, got: String, expected: String },
    #[error(
        "arm `{arm}`, request {index} (repetition {repetition}) has no output to compare, because it failed in this arm or in the reference"
    )]
    Failed { arm: String, repetition: u32, index: u32 },
    #[error(
        "arm `{arm}`, request {index} (repetition {repetition}): its KV was not moved but computed again, so its tokens say nothing about \
         the move; see the log"
    )]
    Recomputed { arm: String, repetition: u32, index: u32 },
}

/// The share of each arm's requests whose output equals the reference arm's. Requests that failed on either side do not count as
/// compared.
pub(crate) fn identical(requests: &[&RequestRecord], reference: &str) -> BTreeMap<String, Identical> {
    let mut shares: BTreeMap<String, Identical> = BTreeMap::new();
    for (record, expected) in pairs(requests, reference) {
        let share = shares.entry(record.arm.clone()).or_insert(Identical { same: 0, compared: 0 });
        if is_done(record) && is_done(expected) {
            share.compared += 1;
            share.same += u32::from(record.tokens == expected.tokens);
        }
    }
    shares
}

/// The first request of any arm that is not as the reference's.
pub(super) fn first_difference(requests: &[&RequestRecord], reference: &str) -> Option<Difference> {
    pairs(requests, reference).find_map(|(record, expected)| {
        let (arm, repetition, index) = (record.arm.clone(), record.repetition, record.index);
        if !(is_done(record) && is_done(expected)) {
            return Some(Difference::Failed { arm, repetition, index });
        }
        let longer = record.tokens.len().max(expected.tokens.len());
        let Some(position) = (0..longer).find(|&i| record.tokens.get(i) != expected.tokens.get(i)) else {
            return record.handoffs.iter().any(|h| h.recomputed).then_some(Difference::Recomputed { arm, repetition, index });
        };
        let (got, expected) = (token(record.tokens.get(position)), token(expected.tokens.get(position)));
        Some(Difference::Token { arm, repetition, index, position, got, expected })
    })
}

fn token(token: Option<&TokenId>) -> String {
    token.map_or("missing".to_string(), TokenId::to_string)
}

/// Every request of the other arms with the reference arm's request for the same prompt.
fn pairs<'a>(
    requests: &'a [&'a RequestRecord],
    reference: &'a str,
) -> impl Iterator<Item = (&'a RequestRecord, &'a RequestRecord)> {
    let expected: BTreeMap<(u32, u32), &RequestRecord> =
        requests.iter().filter(|r| r.arm == reference).map(|r| ((r.repetition, r.index), *r)).collect();
    requests
        .iter()
        .copied()
        .filter(move |r| r.arm != reference)
        .filter_map(move |r| Some((r, *expected.get(&(r.repetition, r.index))?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::synthetic;
    use dualpool_types::records::Outcome;
    use dualpool_types::{Phase, RequestError};

    fn records() -> Vec<RequestRecord> {
        let mut requests = synthetic::arm("a", 2, 5, 1.0);
        requests.extend(synthetic::arm("b", 2, 5, 1.0));
        requests
    }

    fn refs(requests: &[RequestRecord]) -> Vec<&RequestRecord> {
        requests.iter().collect()
    }

    #[test]
    fn equal_outputs_are_identical() {
        assert_eq!(identical(&refs(&records()), "a"), BTreeMap::from([("b".to_string(), Identical { same: 10, compared: 10 })]));
        assert_eq!(first_difference(&refs(&records()), "a"), None);
    }

    #[test]
    fn one_other_token_is_named() {
        let mut requests = records();
        let changed = requests.iter_mut().find(|r| r.arm == "b" && r.repetition == 1 && r.index == 3).unwrap();
        changed.tokens[2] = 999;
        assert_eq!(identical(&refs(&requests), "a")["b"], Identical { same: 9, compared: 10 });
        let message = first_difference(&refs(&requests), "a").unwrap().to_string();
        assert!(message.starts_with("arm `b`, request 3 (repetition 1): output token 2 is 999"), "{message}");
    }

    #[test]
    fn a_missing_token_is_a_difference() {
        let mut requests = records();
        requests.iter_mut().find(|r| r.arm == "b").unwrap().tokens.pop();
        assert!(first_difference(&refs(&requests), "a").unwrap().to_string().contains("is missing"));
    }

    #[test]
    fn a_failed_request_is_not_compared_but_fails_exact() {
        let mut requests = records();
        requests.iter_mut().find(|r| r.arm == "b" && r.index == 4).unwrap().outcome =
            Outcome::Failed { error: RequestError::Cancelled { phase: Phase::Decode } };
        assert_eq!(identical(&refs(&requests), "a")["b"], Identical { same: 9, compared: 9 });
        assert!(matches!(first_difference(&refs(&requests), "a"), Some(Difference::Failed { index: 4, .. })));
    }
}
