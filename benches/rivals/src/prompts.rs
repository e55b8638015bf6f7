//! Sessions that begin alike: 1,024 tokens that all share, then 3,072 of their own.

pub const BLOCK: usize = 16;
pub const PROMPT: usize = 4096;
pub const SHARED: usize = 1024;
/// Of every fourth prompt, so much is on a second engine too.
pub const HALF: usize = 2560;
/// Blocks in the index, over all engines.
pub const BLOCKS: usize = 1 << 20;

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

pub fn prompt(number: u64) -> Vec<u32> {
    let token = |text: u64, i: usize| (mix(text << 20 | i as u64) % 150_000) as u32;
    (0..PROMPT).map(|i| token(if i < SHARED { 0 } else { number + 1 }, i)).collect()
}

pub struct Placement {
    pub engine: usize,
    pub prompt: usize,
    pub tokens: usize,
}

/// Prompts, and where they are: each next one on the next engine, until the index is as good as full.
pub struct Workload {
    pub engines: usize,
    pub prompts: Vec<Vec<u32>>,
    pub placements: Vec<Placement>,
    /// Prompts of which only the shared beginning is anywhere.
    pub strangers: Vec<Vec<u32>>,
}

impl Workload {
    pub fn new(engines: usize) -> Workload {
        let room = BLOCKS / engines;
        let mut taken = vec![SHARED / BLOCK; engines];
        let (mut prompts, mut placements) = (Vec::new(), Vec::<Placement>::new());
        'full: loop {
            let number = prompts.len();
            prompts.push(prompt(number as u64));
            let lengths = if number % 4 == 3 { &[PROMPT, HALF][..] } else { &[PROMPT] };
            for &tokens in lengths {
                let engine = placements.len() % engines;
                taken[engine] += (tokens - SHARED) / BLOCK;
                if taken[engine] > room {
                    break 'full;
                }
                placements.push(Placement { engine, prompt: number, tokens });
            }
        }
        prompts.truncate(placements.last().map_or(0, |last| last.prompt + 1));
        let strangers = (0..1024).map(|i| prompt(1 << 30 | i)).collect();
        Workload { engines, prompts, placements, strangers }
    }

    pub fn tokens(&self, placement: &Placement) -> &[u32] {
        &self.prompts[placement.prompt][..placement.tokens]
    }

    /// Known prompts in an order in which none comes again soon, so that most of what is looked at is in no processor cache.
    pub fn asked(&self, turn: usize) -> &[u32] {
        &self.prompts[turn * 7919 % self.prompts.len()]
    }

    pub fn stranger(&self, turn: usize) -> &[u32] {
        &self.strangers[turn * 7 % self.strangers.len()]
    }
}
