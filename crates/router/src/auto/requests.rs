//! What is forecast: the recent requests twice over, as they came, and then with their long prompts in clumps. A mix whose long prompts
//! came evenly spread so far says nothing of what four at once would do, and an arrangement that they would clog for half a minute
//! is no good one even if it has not happened yet.

use dualpool_types::{Objectives, Time};

use super::recent::Recent;

/// A request of the forecast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Expected {
    /// Microseconds from the first one's arrival.
    pub at: f64,
    pub prompt_tokens: u32,
    /// Of these, what no engine has in its cache.
    pub uncached_tokens: u32,
    /// Output tokens as the policy is told, and as they will be.
    pub max_tokens: u32,
    pub outputs: u32,
    pub objectives: Objectives,
    /// How much it counts.
    pub weight: f64,
}

/// Long prompts that come together in the second half.
const CLUMP: usize = 4;

/// Writes down the requests to expect, from those that are remembered at this time. `requests` is used for its memory.
pub(super) fn expect(requests: &mut Vec<Expected>, recent: &Recent, now: Time, long_prompt_tokens_min: u32) {
    requests.clear();
    let Some(begin) = recent.iter().next().map(|seen| seen.at) else { return };
    requests.extend(recent.iter().map(|seen| Expected {
        at: seen.at.since(begin).0 as f64,
        prompt_tokens: seen.prompt_tokens,
        uncached_tokens: seen.prompt_tokens - seen.cached_tokens,
        max_tokens: seen.max_tokens,
        outputs: recent.outputs(seen).min(seen.max_tokens),
        objectives: seen.objectives,
        weight: recent.weight(seen, now),
    }));
    // The second half begins a mean gap after the last request of the first one.
    let came = requests.len();
    let last = requests[came - 1].at;
    let second_half = last + last / (came - 1).max(1) as f64;
    let (mut longs, mut clump_at) = (0, 0.0);
    for place in 0..came {
        let mut request = requests[place];
        if request.prompt_tokens >= long_prompt_tokens_min {
            if longs % CLUMP == 0 {
                clump_at = request.at;
            }
            longs += 1;
            request.at = clump_at;
        }
        request.at += second_half;
        requests.push(request);
    }
    requests[came..].sort_by(|a, b| a.at.total_cmp(&b.at));
}
