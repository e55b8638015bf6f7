//! Requests such as a chat service sees: conversations whose prompts begin with all that was said, lengths of a long tail. Counts and
//! means are those of Mooncake's conversation trace (12,031 requests in an hour, prompts of 12,000 tokens, answers of 343), which is not
//! needed for this.

use rand::Rng as _;
use rand_distr::{Distribution, LogNormal};

use dualpool_types::{Class, Micros, Objectives, Priority, Request, RequestId, Rng, Sampling, Time, TokenId, seeded};

pub const REQUESTS: u64 = 12_031;
/// Conversations that go on side by side.
const CONVERSATIONS: usize = 400;
const PROMPT_TOKENS_MAX: usize = 60_000;
const VOCAB_SIZE: u32 = 32_000;

pub struct Conversations {
    rng: Rng,
    said: Vec<Vec<TokenId>>,
    at_us: f64,
    given: u64,
}

impl Conversations {
    pub fn new(seed: u64) -> Conversations {
        Conversations { rng: seeded(seed, "conversations"), said: vec![Vec::new(); CONVERSATIONS], at_us: 0.0, given: 0 }
    }
}

/// Long-tailed, with this median.
fn tokens(median: f64, sigma: f64, rng: &mut Rng) -> usize {
    let lengths = LogNormal::new(median.ln(), sigma).expect("sigma is positive");
    lengths.sample(rng).clamp(1.0, PROMPT_TOKENS_MAX as f64) as usize
}

impl Iterator for Conversations {
    type Item = (Time, Request);

    fn next(&mut self) -> Option<(Time, Request)> {
        if self.given == REQUESTS {
            return None;
        }
        self.given += 1;
        let rng = &mut self.rng;
        // Poisson arrivals, over an hour on average.
        self.at_us -= (1.0 - rng.random::<f64>()).ln() * 3_600e6 / REQUESTS as f64;
        let said = &mut self.said[rng.random_range(0..CONVERSATIONS)];
        let more = tokens(4_000.0, 1.0, rng);
        if said.len() + more > PROMPT_TOKENS_MAX || rng.random_bool(0.3) {
            said.clear();
        }
        said.extend((0..more).map(|_| rng.random_range(1..VOCAB_SIZE)));
        let request = Request {
            id: RequestId(self.given),
            prompt: said.as_slice().into(),
            max_tokens: tokens(250.0, 0.8, rng).min(4_000) as u32,
            ignore_eos: true,
            sampling: Sampling::default(),
            class: Class::Long,
            priority: Priority::Normal,
            objectives: Objectives { ttft_us_max: Micros(5_000_000), itl_us_max: Micros(100_000) },
        };
        Some((Time(self.at_us as u64), request))
    }
}
