//! What the kernels of `kv_copy.cu` do, on the CPU and as literally as can be: what they are compared with.

use super::ranges::DeviceByteRange;

/// Copies every range of the list from `source` to `target`; the records and `bytes` are exactly the kernels' arguments. Panics where a range
/// reaches outside of either buffer, which the kernels cannot notice.
pub fn copy_ranges(source: &[u8], target: &mut [u8], ranges: &[DeviceByteRange], bytes: u64) {
    let ends = ranges.iter().skip(1).map(|next| next.begin).chain([bytes]);
    for (range, end) in ranges.iter().zip(ends) {
        let length = (end - range.begin) as usize;
        let (from, to) = (range.source as usize, range.target as usize);
        target[to..to + length].copy_from_slice(&source[from..from + length]);
    }
}
