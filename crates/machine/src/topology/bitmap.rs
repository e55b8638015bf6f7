//! Sets as hwloc writes them: `0x00000001,,0x0000ffff` - words of 32 bits, the highest first, an empty one for 0, and `0xf...f` in
//! front of all when the set has no end.

/// A set of CPUs or NUMA nodes, by the operating system's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bitmap {
    /// The lowest first.
    words: Vec<u32>,
    endless: bool,
}

impl Bitmap {
    pub(super) fn parse(text: &str) -> Option<Bitmap> {
        let (endless, text) = match text.strip_prefix("0xf...f") {
            Some("") => return Some(Bitmap { words: Vec::new(), endless: true }),
            Some(rest) => (true, rest.strip_prefix(',')?),
            None => (false, text),
        };
        let word = |word: &str| match word {
            "" => Some(0),
            word => u32::from_str_radix(word.strip_prefix("0x")?, 16).ok(),
        };
        (!text.is_empty()).then_some(())?;
        let words = text.rsplit(',').map(word).collect::<Option<Vec<u32>>>()?;
        Some(Bitmap { words, endless })
    }

    pub(super) fn holds(&self, number: u32) -> bool {
        self.words.get(number as usize / 32).map_or(self.endless, |word| word >> (number % 32) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<u32> {
        let set = Bitmap::parse(text).unwrap();
        (0..100).filter(|&n| set.holds(n)).collect()
    }

    #[test]
    fn hwlocs_forms_are_read() {
        assert_eq!(numbers("0x00000005"), [0, 2]);
        assert_eq!(numbers("0x00000001,,0x80000000"), [31, 64]);
        assert_eq!(numbers("0xf...f,0x00000003"), [&[0, 1][..], &(32..100).collect::<Vec<_>>()].concat());
        assert_eq!(numbers("0xf...f").len(), 100);
        assert_eq!(numbers("0x0"), [0u32; 0]);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", "3", "0x", "0xg", "0x1ffffffff", "0x1 ", "0xf...f0x1", "-0x1"] {
            assert_eq!(Bitmap::parse(text), None, "{text}");
        }
    }
}
