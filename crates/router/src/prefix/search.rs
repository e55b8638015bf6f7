//! How far each engine gets along a chain of prefixes.
//!
//! An engine that holds a prefix holds all shorter ones, so along the chain engines only drop out. It is walked from milestone to
//! milestone, and not beyond where the last engine dropped out: what is never asked for is never named. Only between two milestones
//! where an engine dropped out is it looked at closer.
//!
//! Each probe is a line that no processor cache has, and takes as long as naming two dozen blocks. So each is announced before it is
//! made: milestones two ahead, and what lies between two of them while the walk goes on.

/// Every so many blocks there is a milestone.
pub(super) const MILESTONE_BLOCKS: usize = 16;

/// Blocks that are named and announced beyond the next milestone.
const AHEAD_BLOCKS: usize = 2 * MILESTONE_BLOCKS;

/// Which engine holds which prefix of one prompt.
pub(super) trait Holders {
    /// Those that hold the prefix up to this block: bit `i` of the set is engine `i`.
    fn of(&mut self, block: usize) -> u64;

    /// It will be asked for soon.
    fn announce(&mut self, block: usize);
}

/// Engines that hold the first so many blocks.
#[derive(Clone, Copy)]
struct Mark {
    blocks: usize,
    engines: u64,
}

/// Calls `found(engine, blocks)` for every engine of `all` that holds at least the first of so many blocks.
pub(super) fn search(blocks: usize, all: u64, holders: &mut impl Holders, mut found: impl FnMut(usize, usize)) {
    let (mut here, mut announced) = (Mark { blocks: 0, engines: all }, 0);
    let mut between: Option<(Mark, Mark)> = None;
    while here.blocks < blocks && here.engines != 0 {
        let next = (here.blocks + MILESTONE_BLOCKS).min(blocks);
        while announced < (next + AHEAD_BLOCKS).min(blocks) {
            announced = (announced + MILESTONE_BLOCKS).min(blocks);
            holders.announce(announced - 1);
        }
        let next = Mark { blocks: next, engines: here.engines & holders.of(next - 1) };
        if next.engines != here.engines {
            (here.blocks..next.blocks - 1).for_each(|block| holders.announce(block));
            if let Some((low, high)) = between.replace((here, next)) {
                bisect(low, high, holders, &mut found);
            }
        }
        here = next;
    }
    if let Some((low, high)) = between {
        bisect(low, high, holders, &mut found);
    }
    each(here.engines, |engine| found(engine, here.blocks));
}

/// Finds where those drop out that are at `low` and not at `high`, by halves.
fn bisect(low: Mark, high: Mark, holders: &mut impl Holders, found: &mut impl FnMut(usize, usize)) {
    if low.engines == high.engines {
        return;
    }
    if high.blocks - low.blocks == 1 {
        if low.blocks > 0 {
            each(low.engines & !high.engines, |engine| found(engine, low.blocks));
        }
        return;
    }
    let blocks = low.blocks.midpoint(high.blocks);
    // Prefixes are whole, so this takes no engine away that is at `high`; it only holds should they ever not be.
    let middle = Mark { blocks, engines: (holders.of(blocks - 1) | high.engines) & low.engines };
    bisect(low, middle, holders, found);
    bisect(middle, high, holders, found);
}

fn each(mut engines: u64, mut call: impl FnMut(usize)) {
    while engines != 0 {
        call(engines.trailing_zeros() as usize);
        engines &= engines - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Depths<'a> {
        blocks: usize,
        depths: &'a [usize],
        probes: usize,
        /// Blocks that were named, if each is when it is first asked for.
        named: usize,
    }

    impl Holders for Depths<'_> {
        fn of(&mut self, block: usize) -> u64 {
            assert!(block < self.named, "what is probed has a name");
            self.probes += 1;
            (0..self.depths.len()).filter(|&engine| self.depths[engine] > block).map(|engine| 1 << engine).sum()
        }

        fn announce(&mut self, block: usize) {
            assert!(block < self.blocks);
            self.named = self.named.max(block + 1);
        }
    }

    /// How far each engine gets, probes, and blocks named.
    fn run(blocks: usize, depths: &[usize]) -> (Vec<usize>, usize, usize) {
        let mut holders = Depths { blocks, depths, probes: 0, named: 0 };
        let mut found = vec![0; depths.len()];
        let all = if depths.len() == 64 { u64::MAX } else { (1 << depths.len()) - 1 };
        search(blocks, all, &mut holders, |engine, blocks| found[engine] = blocks);
        (found, holders.probes, holders.named)
    }

    proptest! {
        #[test]
        fn finds_every_engines_depth(blocks in 0usize..9000, depths in prop::collection::vec(0usize..9000, 0..=64)) {
            let depths: Vec<usize> = depths.into_iter().map(|depth| depth % (blocks + 1)).collect();
            let (found, probes, _) = run(blocks, &depths);
            prop_assert_eq!(found, depths);
            prop_assert!(probes <= blocks, "{} probes for {} blocks", probes, blocks);
        }
    }

    #[test]
    fn probes_are_few_and_names_no_more_than_it_takes() {
        assert_eq!(run(256, &[256; 64]).1, 16, "all engines, to the end");
        let (_, probes, named) = run(256, &[0; 64]);
        assert_eq!((probes, named), (1 + 4, 48), "no engine: the beginning is looked at closer, and the rest not at all");
        let (_, probes, named) = run(8192, &[70; 64]);
        assert_eq!((probes, named), (5 + 4, 80 + 32));
        let mut depths = [32; 64];
        (depths[7], depths[9]) = (256, 130);
        assert_eq!(run(256, &depths).1, 16 + 4 + 4);
    }
}
