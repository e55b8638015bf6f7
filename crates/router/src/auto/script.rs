//! What is rehearsed: the recent requests twice over, as they came, and then with their long prompts in clumps. A mix whose long prompts
//! came evenly spread so far says nothing of what four at once would do, and an arrangement that they would clog for half a minute
//! is no good one even if it has not happened yet.

use dualpool_types::Time;

use super::recent::Recent;
use super::rehearsal::Part;

/// Long prompts that come together in the second half.
const CLUMP: usize = 4;

/// Writes the script for the requests that are remembered at this time. `parts` is used for its memory.
pub fn write(parts: &mut Vec<Part>, recent: &Recent, now: Time, long_prompt_tokens_min: u32) {
    parts.clear();
    let Some(begin) = recent.iter().next().map(|seen| seen.at) else { return };
    parts.extend(recent.iter().map(|seen| Part {
        at: seen.at.since(begin).0 as f64,
        prompt_tokens: seen.prompt_tokens,
        uncached_tokens: seen.prompt_tokens - seen.cached_tokens,
        max_tokens: seen.max_tokens,
        outputs: recent.outputs(seen).min(seen.max_tokens),
        objectives: seen.objectives,
        weight: recent.weight(seen, now),
    }));
    // The second half begins a mean gap after the last request of the first one.
    let came = parts.len();
    let last = parts[came - 1].at;
    let second_half = last + last / (came - 1).max(1) as f64;
    let (mut longs, mut clump_at) = (0, 0.0);
    for place in 0..came {
        let mut part = parts[place];
        if part.prompt_tokens >= long_prompt_tokens_min {
            if longs % CLUMP == 0 {
                clump_at = part.at;
            }
            longs += 1;
            part.at = clump_at;
        }
        part.at += second_half;
        parts.push(part);
    }
    parts[came..].sort_by(|a, b| a.at.total_cmp(&b.at));
}
