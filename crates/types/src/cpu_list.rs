//! A set of CPUs, by the operating system's numbers, in the form that the kernel, `taskset` and `numactl` write: `0-3,8`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Sorted, each number once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(Vec<u32>);

/// More than any machine has CPUs. A list that claims more of them, or a higher number, is an error and not memory.
pub const CPUS_MAX: usize = 1 << 16;

impl CpuList {
    pub fn numbers(&self) -> &[u32] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> CpuList {
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        CpuList(numbers)
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.0[..];
        while let Some(&first) = rest.first() {
            // In wider numbers: the one behind the last has a place there.
            let run = rest.iter().zip(u64::from(first)..).take_while(|&(&number, expected)| u64::from(number) == expected).count();
            let separator = if rest.len() == self.0.len() { "" } else { "," };
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{}", rest[run - 1])?,
            }
            rest = &rest[run..];
        }
        Ok(())
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<CpuList, String> {
        let wrong = || format!("`{text}` is not a list of CPUs; expected numbers and ranges, such as `0-3,8`");
        let mut numbers = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
            if last < first || last as usize >= CPUS_MAX || (last - first) as usize >= CPUS_MAX - numbers.len() {
                return Err(wrong());
            }
            numbers.extend(first..=last);
        }
        Ok(numbers.into_iter().collect())
    }
}

impl JsonSchema for CpuList {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "CpuList".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?$" })
    }
}

impl Serialize for CpuList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CpuList, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_text_form() {
        for (numbers, text) in
            [(&[][..], ""), (&[5], "5"), (&[3, 0, 2, 1, 8, 8], "0-3,8"), (&[0, 2, 3], "0,2-3"), (&[65534, 65535], "65534-65535")]
        {
            let list: CpuList = numbers.iter().copied().collect();
            assert_eq!(list.to_string(), text);
            assert_eq!(text.parse(), Ok(list));
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["x", "1-", "3-1", "0-4000000000", "0-65535,0-65535", "4294967295", "65536", "-1"] {
            assert!(text.parse::<CpuList>().unwrap_err().contains(text), "{text}");
        }
    }
}
