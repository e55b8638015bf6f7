//! A table from 64-bit names to 64-bit values.
//!
//! Names are hashes, so their low bits are the place (but for the lowest one, which means something), and the place after it when that
//! is taken; a name and its value share a cache line, so a probe mostly costs one line. What is removed leaves no mark behind: those that
//! had to move on move back.

/// Places per name: at half full a probe rarely goes past its line.
const PLACES_PER_NAME: usize = 2;

pub(super) struct Table {
    /// `[name, value]`; the name 0 marks an empty place. As arrays, whose zeros the system hands out unwritten: memory is taken only as
    /// names come.
    places: Vec<[u64; 2]>,
    mask: usize,
    used: usize,
}

impl Table {
    /// A table for so many names. With more it grows, which takes a while.
    pub(super) fn new(names: usize) -> Table {
        let places = (names.max(1) * PLACES_PER_NAME).next_power_of_two();
        Table { places: vec![[0; 2]; places], mask: places - 1, used: 0 }
    }

    fn grow(&mut self) {
        let grown = Table::new(self.places.len());
        let before = std::mem::replace(self, grown);
        before.places.iter().filter(|[name, _]| *name != 0).for_each(|&[name, value]| self.set(name, value));
    }

    /// The value of this name; 0 when it has none.
    pub(super) fn get(&self, name: u64) -> u64 {
        self.places[self.find(name)][1]
    }

    /// Has the processor fetch the line that this name is probably in, without waiting for it.
    pub(super) fn prefetch(&self, name: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let place = &raw const self.places[self.home(name)];
            // SAFETY: a prefetch neither reads nor writes as far as the program can tell, and the address is within the table.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
        }
        // Elsewhere the probe waits for its line.
        #[cfg(not(target_arch = "x86_64"))]
        let _ = name;
    }

    /// Sets the value of a name; 0 removes it.
    pub(super) fn set(&mut self, name: u64, value: u64) {
        let at = self.find(name);
        match (self.places[at][0] != 0, value) {
            (false, 0) => {}
            (true, 0) => self.remove(at),
            (true, _) => self.places[at][1] = value,
            (false, _) if (self.used + 1) * PLACES_PER_NAME > self.places.len() => {
                self.grow();
                self.set(name, value);
            }
            (false, _) => {
                self.used += 1;
                self.places[at] = [name, value];
            }
        }
    }

    /// Where this name is, or else the empty place where it would be put. There is one: at most half of the places are taken.
    fn find(&self, name: u64) -> usize {
        let mut at = self.home(name);
        loop {
            let there = self.places[at][0];
            if there == name || there == 0 {
                return at;
            }
            at = (at + 1) & self.mask;
        }
    }

    fn home(&self, name: u64) -> usize {
        (name >> 1) as usize & self.mask
    }

    fn remove(&mut self, mut hole: usize) {
        self.used -= 1;
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let [name, value] = self.places[at];
            if name == 0 {
                break;
            }
            // It may stand in the hole unless its own place lies behind it, on the way from the hole to where it is.
            let home = self.home(name);
            if (at.wrapping_sub(home) & self.mask) >= (at.wrapping_sub(hole) & self.mask) {
                self.places[hole] = [name, value];
                hole = at;
            }
        }
        self.places[hole] = [0; 2];
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Names that crowd into few places, some of them at the end, from where they wrap around; and more than there was room for.
        #[test]
        fn says_what_a_map_says(names in 1usize..64, changes in prop::collection::vec((1u64..40, 0u64..3), 0..400)) {
            let (mut table, mut map) = (Table::new(names), HashMap::new());
            for (number, value) in changes {
                let name = (number % 5) * 128 + 100 + number;
                table.set(name, value);
                if value == 0 { map.remove(&name) } else { map.insert(name, value) };
                prop_assert_eq!(table.len(), map.len());
                for number in 1..40 {
                    let name = (number % 5) * 128 + 100 + number;
                    prop_assert_eq!(table.get(name), map.get(&name).copied().unwrap_or(0));
                }
            }
        }
    }
}
