//! Requests with Poisson arrivals.

use rand::Rng as _;
use rand::seq::SliceRandom as _;

use dualpool_types::{Class, Micros, Objectives, Priority, Request, RequestId, Sampling, Time, TokenId, seeded};

pub struct Load {
    /// Requests per second.
    pub rate: f64,
    pub longs: usize,
    pub shorts: usize,
    pub long_tokens: usize,
    pub short_tokens: usize,
    pub max_tokens: u32,
    pub itl_ms: f64,
}

impl Load {
    /// A few long prompts among chats.
    pub fn balanced(rate: f64, itl_ms: f64) -> Load {
        Load { rate, longs: 12, shorts: 96, long_tokens: 1024, short_tokens: 64, max_tokens: 32, itl_ms }
    }

    pub fn requests(&self, seed: u64) -> Vec<(Time, Request)> {
        let rng = &mut seeded(seed, "arrivals");
        let longs = std::iter::repeat_n((Class::Long, self.long_tokens), self.longs);
        let mut kinds: Vec<_> = longs.chain(std::iter::repeat_n((Class::Short, self.short_tokens), self.shorts)).collect();
        kinds.shuffle(rng);
        let mut at_s = 0.0;
        let request = |(id, (class, tokens)): (usize, (Class, usize))| {
            at_s -= (1.0 - rng.random::<f64>()).ln() / self.rate;
            let ttft_ms = if class == Class::Long { 3000.0 } else { 500.0 };
            let request = Request {
                id: RequestId(id as u64),
                prompt: (0..tokens as TokenId).map(|i| i * 7 + id as TokenId).collect(),
                max_tokens: self.max_tokens,
                ignore_eos: true,
                sampling: Sampling::default(),
                class,
                priority: Priority::Normal,
                objectives: Objectives { ttft_us_max: Micros::from_ms(ttft_ms), itl_us_max: Micros::from_ms(self.itl_ms) },
            };
            (Time(Micros::from_secs(at_s).0), request)
        };
        kinds.into_iter().enumerate().map(request).collect()
    }
}
