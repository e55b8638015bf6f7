//! Lists of byte ranges in the form that the kernels take. Pure; what the fields mean to them is in `kernels/README.md`.

use super::super::{CopyRange, CudaError, DeviceSpan};

/// One contiguous copy of `length` bytes between two device addresses, or offsets to the bases that the launch names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    pub source: u64,
    pub target: u64,
    pub length: u64,
}

/// A byte range as a kernel reads it: `struct ByteRange` of `kernels/kv_copy.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceByteRange {
    pub source: u64,
    pub target: u64,
    /// Bytes in all ranges before this one.
    pub begin: u64,
}

/// Writes the kernels' records of `ranges` to `records`, replacing what is there, and returns the bytes in all of them. Ranges without bytes
/// are left out.
pub fn records_into(ranges: impl IntoIterator<Item = ByteRange>, records: &mut Vec<DeviceByteRange>) -> u64 {
    records.clear();
    let mut begin = 0;
    for range in ranges.into_iter().filter(|range| range.length > 0) {
        records.push(DeviceByteRange { source: range.source, target: range.target, begin });
        begin += range.length;
    }
    begin
}

/// The kernels' widest word. A range has it for its body when source and target are equal modulo this.
const WORD_BYTES: u64 = 16;

/// Below this much room left, a window is full: cutting a range there would only make a small piece more.
const ROOM_MIN_BYTES: u64 = 256;

/// A piece of a range that goes through a staging buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which range of the list.
    pub range: usize,
    /// Where in the range the piece begins.
    pub within: u64,
    /// Where in the staging buffer it stands.
    pub at: u64,
    pub length: u64,
}

/// As many pieces as fit into a staging buffer: gathered into one buffer, carried to another, and scattered from there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub pieces: Vec<Piece>,
    /// What of the buffer is in use, padding included: what the copy between the two has to carry.
    pub bytes: u64,
}

impl Window {
    /// The copies into the staging buffer, for [`super::Kernels::gather`]. `ranges` are those that were divided.
    pub fn gather<'m>(&self, ranges: &[CopyRange<'m>], staging: DeviceSpan<'m>) -> Result<Vec<CopyRange<'m>>, CudaError> {
        let copy = |piece: &Piece| {
            let from = ranges[piece.range].from.span(piece.within, piece.length)?;
            Ok(CopyRange { from, to: staging.span(piece.at, piece.length)? })
        };
        self.pieces.iter().map(copy).collect()
    }

    /// The copies out of the staging buffer, which may be another one with the same content, for [`super::Kernels::scatter`].
    pub fn scatter<'m>(&self, ranges: &[CopyRange<'m>], staging: DeviceSpan<'m>) -> Result<Vec<CopyRange<'m>>, CudaError> {
        let copy = |piece: &Piece| {
            let to = ranges[piece.range].to.span(piece.within, piece.length)?;
            Ok(CopyRange { from: staging.span(piece.at, piece.length)?, to })
        };
        self.pieces.iter().map(copy).collect()
    }
}

/// Divides ranges, each given by the address of its source and its length, into windows for a staging buffer of `capacity` bytes, in order.
/// Ranges longer than what is left are cut.
///
/// In the buffer, a piece starts where it is equal modulo 16 to its source, so that it is read in the widest words; hence less than 32
/// bytes of padding for a piece, and none among ranges that are multiples of 16.
///
/// # Panics
/// When the capacity is less than [`STAGING_MIN_BYTES`].
pub fn windows(ranges: impl IntoIterator<Item = (u64, u64)>, capacity: u64) -> impl Iterator<Item = Window> {
    assert!(capacity >= STAGING_MIN_BYTES, "a staging buffer of {capacity} bytes holds no range");
    let mut ranges = ranges.into_iter().enumerate().filter(|&(_, (_, length))| length > 0);
    // The range that the last window had no room for, and how much of it is done.
    let mut left = None;
    std::iter::from_fn(move || {
        let mut window = Window::default();
        while let Some((range, source, within, length)) =
            left.take().or_else(|| ranges.next().map(|(range, (source, length))| (range, source, 0, length)))
        {
            let at = window.bytes.next_multiple_of(WORD_BYTES) + (source + within) % WORD_BYTES;
            let (rest, room) = (length - within, capacity.saturating_sub(at));
            if window.pieces.len() == RANGES_PER_LAUNCH || (room < rest && room < ROOM_MIN_BYTES) {
                left = Some((range, source, within, length));
                break;
            }
            let piece = Piece { range, within, at, length: rest.min(room) };
            window.pieces.push(piece);
            window.bytes = at + piece.length;
            if piece.length < rest {
                left = Some((range, source, within + piece.length, length));
                break;
            }
        }
        (window.bytes > 0).then_some(window)
    })
}

/// The smallest staging buffer that [`windows`] divides for.
pub const STAGING_MIN_BYTES: u64 = 2 * ROOM_MIN_BYTES;

/// Longer lists are launched in parts: bounds the buffers for the records (24 bytes each).
pub const RANGES_PER_LAUNCH: usize = 16 << 10;

/// Threads of a block and of a warp: `THREADS` and `WARP` of `kernels/kv_copy.cu`.
pub const THREADS: u32 = 512;
const WARPS_PER_BLOCK: u64 = THREADS as u64 / 32;

/// What a warp copies in one step of the widest words. A tile that is no multiple of it would end between two cache lines.
const STEP_BYTES: u64 = 32 * WORD_BYTES;

/// A smaller tile costs a warp more in finding its first range than in copying; a larger one evens out less.
const TILE_BYTES: std::ops::RangeInclusive<u64> = 4 << 10..=64 << 10;

/// How a launch is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    pub blocks: u32,
    pub tile_bytes: u64,
}

impl Division {
    /// For `bytes` in all, on at most `blocks_max` blocks: as many warps as have something to do, with equal shares.
    pub fn of(bytes: u64, blocks_max: u32) -> Division {
        let blocks_max = u64::from(blocks_max.max(1));
        let share = bytes.div_ceil(blocks_max * WARPS_PER_BLOCK).next_multiple_of(STEP_BYTES);
        let tile_bytes = share.clamp(*TILE_BYTES.start(), *TILE_BYTES.end());
        let blocks = bytes.div_ceil(tile_bytes).div_ceil(WARPS_PER_BLOCK).clamp(1, blocks_max);
        Division { blocks: blocks as u32, tile_bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reference::copy_ranges;
    use super::*;

    /// Ranges as a plan has them: apart from each other in the target, at any distance and of any length.
    fn any_ranges() -> impl Strategy<Value = Vec<ByteRange>> {
        let length = prop_oneof![0u64..48, 0u64..2_000, Just(4_096u64)];
        proptest::collection::vec((0u64..64, 0u64..64, length), 0..40).prop_map(|parts| {
            let (mut source, mut target) = (0, 0);
            let mut ranges: Vec<ByteRange> = parts
                .into_iter()
                .map(|(skip, gap, length)| {
                    let range = ByteRange { source: source + skip, target: target + gap, length };
                    (source, target) = (range.source + length, range.target + length);
                    range
                })
                .collect();
            // The kernels must not depend on an order.
            ranges.reverse();
            ranges
        })
    }

    fn extent(ranges: &[ByteRange]) -> usize {
        ranges.iter().map(|range| range.source.max(range.target) + range.length).max().unwrap_or(0) as usize
    }

    fn copied(source: &[u8], target: &mut [u8], ranges: &[ByteRange]) {
        let mut records = Vec::new();
        let bytes = records_into(ranges.iter().copied(), &mut records);
        copy_ranges(source, target, &records, bytes);
    }

    fn ends(ranges: &[ByteRange]) -> impl Iterator<Item = (u64, u64)> {
        ranges.iter().map(|range| (range.source, range.length))
    }

    /// The two steps of a window, as ranges of offsets.
    fn steps(window: &Window, ranges: &[ByteRange]) -> (Vec<ByteRange>, Vec<ByteRange>) {
        let both = |piece: &Piece| {
            let (range, Piece { within, at, length, .. }) = (ranges[piece.range], *piece);
            (
                ByteRange { source: range.source + within, target: at, length },
                ByteRange { source: at, target: range.target + within, length },
            )
        };
        window.pieces.iter().map(both).unzip()
    }

    proptest! {
        #[test]
        fn the_reference_copies_every_range_and_nothing_else(ranges in any_ranges()) {
            let source: Vec<u8> = (0..extent(&ranges)).map(|i| (i % 251) as u8).collect();
            let mut target = vec![255; source.len()];
            copied(&source, &mut target, &ranges);
            for (at, &byte) in target.iter().enumerate() {
                let at = at as u64;
                let range = ranges.iter().find(|range| (range.target..range.target + range.length).contains(&at));
                let expected = range.map_or(255, |range| source[(range.source + at - range.target) as usize]);
                prop_assert_eq!(byte, expected, "byte {}", at);
            }
        }

        #[test]
        fn through_staging_is_the_same_as_straight(ranges in any_ranges(), capacity in STAGING_MIN_BYTES..10_000) {
            let source: Vec<u8> = (0..extent(&ranges)).map(|i| (i % 251) as u8).collect();
            let (mut straight, mut staged) = (vec![255; source.len()], vec![255; source.len()]);
            copied(&source, &mut straight, &ranges);
            for window in windows(ends(&ranges), capacity) {
                prop_assert!(window.bytes <= capacity);
                let (gather, scatter) = steps(&window, &ranges);
                prop_assert!(gather.iter().all(|range| range.source % WORD_BYTES == range.target % WORD_BYTES));
                let mut staging = vec![0; window.bytes as usize];
                copied(&source, &mut staging, &gather);
                copied(&staging, &mut staged, &scatter);
            }
            prop_assert_eq!(straight, staged);
        }

        #[test]
        fn a_division_keeps_its_cap_and_leaves_no_block_without_work(bytes in 0u64..1 << 40, blocks_max in 0u32..2_000) {
            let Division { blocks, tile_bytes } = Division::of(bytes, blocks_max);
            prop_assert!((1..=blocks_max.max(1)).contains(&blocks));
            prop_assert!(TILE_BYTES.contains(&tile_bytes) && tile_bytes % STEP_BYTES == 0);
            let tiles = bytes.div_ceil(tile_bytes);
            prop_assert!(u64::from(blocks - 1) * WARPS_PER_BLOCK <= tiles, "{} blocks for {} tiles", blocks, tiles);
        }
    }

    #[test]
    fn blocks_of_equal_layout_pack_without_padding() {
        let ranges: Vec<ByteRange> = (0..100).map(|i| ByteRange { source: i * 8_192, target: i * 12_288, length: 4_096 }).collect();
        let windows: Vec<Window> = windows(ends(&ranges), 64 << 10).collect();
        assert_eq!(windows.iter().map(|window| window.bytes).sum::<u64>(), 100 * 4_096);
        assert_eq!(windows.len(), 7);
        assert!(windows[..6].iter().all(|window| window.bytes == 64 << 10));
    }

    #[test]
    fn a_range_longer_than_the_buffer_goes_in_pieces() {
        let ranges = [ByteRange { source: 5, target: 1_000_003, length: 100_000 }];
        let pieces: Vec<Piece> = windows(ends(&ranges), 32 << 10).flat_map(|window| window.pieces).collect();
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces.iter().map(|piece| piece.length).sum::<u64>(), 100_000);
        assert_eq!(pieces[1].within, pieces[0].length);
    }

    #[test]
    fn a_window_has_no_more_pieces_than_one_launch_takes() {
        let ranges = (0..40_000).map(|i| (i * 64, 16));
        let pieces: Vec<usize> = windows(ranges, 1 << 30).map(|window| window.pieces.len()).collect();
        assert_eq!(pieces, [RANGES_PER_LAUNCH, RANGES_PER_LAUNCH, 40_000 - 2 * RANGES_PER_LAUNCH]);
    }

    #[test]
    fn every_warp_has_work_as_soon_as_there_is_enough() {
        assert_eq!(Division::of(1, 64), Division { blocks: 1, tile_bytes: 4 << 10 });
        assert_eq!(Division::of(1 << 20, 64), Division { blocks: 16, tile_bytes: 4 << 10 });
        assert_eq!(Division::of(64 << 20, 64), Division { blocks: 64, tile_bytes: 64 << 10 });
        assert_eq!(Division::of(1 << 30, 16), Division { blocks: 16, tile_bytes: 64 << 10 });
    }
}
