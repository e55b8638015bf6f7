//! Whose turn it is among engines that are equal.

/// Counts placements, so that equal engines take turns.
#[derive(Default)]
pub(super) struct Turn(usize);

impl Turn {
    pub(super) fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(1);
        self.0 - 1
    }
}
