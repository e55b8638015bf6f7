//! How far each engine gets along a chain of prefixes.
//!
//! An engine that holds a prefix holds all shorter ones, so along the chain engines only drop out. Probing every block would find where;
//! probing at strides, and closer only between two probes where somebody dropped out, finds it with a small part of the probes. Those of
//! one stride do not wait for each other, so their cache misses overlap; and the wide strides meet at milestones, which have a table of
//! their own that is a sixteenth of the whole.

/// Every so many blocks there is a milestone.
pub(super) const MILESTONE_BLOCKS: usize = 16;

/// Wide strides are so many times the next one; below the milestones, where every probe is one into the large table, fewer at once.
const WIDE: usize = MILESTONE_BLOCKS;
const NARROW: usize = 4;

/// Engines that hold the first so many blocks: bit `i` of the set is engine `i`.
#[derive(Clone, Copy)]
struct Mark {
    blocks: usize,
    engines: u64,
}

/// Calls `found(engine, blocks)` for every engine of `all` that holds at least the first block. `holders(i)` are those that hold the
/// prefix up to block `i`, of `blocks` in all.
pub(super) fn search(blocks: usize, all: u64, holders: impl Fn(usize) -> u64, mut found: impl FnMut(usize, usize)) {
    if blocks == 0 {
        return;
    }
    let mut stride = MILESTONE_BLOCKS;
    while stride * WIDE < blocks {
        stride *= WIDE;
    }
    let end = Mark { blocks, engines: all & holders(blocks - 1) };
    narrow(Mark { blocks: 0, engines: all }, end, stride, &holders, &mut found);
    each(end.engines, |engine| found(engine, blocks));
}

/// Finds where those drop out that are at `low` and not at `high`. It goes as deep as there are strides: one per factor of 16.
fn narrow(low: Mark, high: Mark, stride: usize, holders: &impl Fn(usize) -> u64, found: &mut impl FnMut(usize, usize)) {
    if high.blocks - low.blocks == 1 {
        if low.blocks > 0 {
            each(low.engines & !high.engines, |engine| found(engine, low.blocks));
        }
        return;
    }
    let mut marks = [high; WIDE + 1];
    let mut count = 0;
    let first = (low.blocks / stride + 1) * stride;
    for blocks in (first..high.blocks).step_by(stride) {
        // Prefixes are whole, so this takes nobody away that is at the end; it only holds should they ever not be.
        marks[count] = Mark { blocks, engines: holders(blocks - 1) | high.engines };
        count += 1;
    }
    let next = if stride > MILESTONE_BLOCKS { stride / WIDE } else { (stride / NARROW).max(1) };
    let mut before = low;
    for mark in &marks[..=count] {
        let mark = Mark { engines: mark.engines & before.engines, ..*mark };
        if mark.engines != before.engines {
            narrow(before, mark, next, holders, found);
        }
        before = mark;
    }
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
    use std::cell::Cell;

    fn run(blocks: usize, depths: &[usize]) -> (Vec<usize>, usize) {
        let probes = Cell::new(0);
        let holders = |block: usize| {
            assert!(block < blocks);
            probes.set(probes.get() + 1);
            (0..depths.len()).filter(|&engine| depths[engine] > block).map(|engine| 1 << engine).sum()
        };
        let mut found = vec![0; depths.len()];
        let all = if depths.len() == 64 { u64::MAX } else { (1 << depths.len()) - 1 };
        search(blocks, all, holders, |engine, blocks| found[engine] = blocks);
        (found, probes.get())
    }

    proptest! {
        #[test]
        fn finds_every_engines_depth(blocks in 0usize..9000, depths in prop::collection::vec(0usize..9000, 0..=64)) {
            let depths: Vec<usize> = depths.into_iter().map(|depth| depth % (blocks + 1)).collect();
            let (found, probes) = run(blocks, &depths);
            prop_assert_eq!(found, depths);
            prop_assert!(probes <= blocks, "{} probes for {} blocks", probes, blocks);
        }
    }

    #[test]
    fn a_prompt_that_few_engines_know_takes_few_probes() {
        assert_eq!(run(256, &[256; 64]).1, 16, "everybody, to the end");
        assert_eq!(run(256, &[0; 64]).1, 16 + 6, "nobody: the beginning is looked at closer");
        let mut depths = [32; 64];
        (depths[7], depths[9]) = (256, 130);
        assert_eq!(run(256, &depths).1, 16 + 2 * 6);
        assert!(run(8192, &depths).1 < 80, "a long prompt takes hardly more");
    }
}
