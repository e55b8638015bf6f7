//! The name of a GPU that is the same for CUDA, NVML and every process: ordinals differ between them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Written as `nvidia-smi -L` does: `GPU-` and 32 hexadecimal digits in groups. A slice of a GPU (MIG) is written `MIG-...` there; CUDA
/// gives such a slice as a device with the slice's UUID, so reading accepts both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuUuid([u8; 16]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no UUID of a GPU; it looks like GPU-7e4c7a1e-0f3b-5c2d-9a41-2f6d8b3c1e05 (see `nvidia-smi -L`)")]
pub struct GpuUuidError(String);

/// Where the groups of digits end, in bytes.
const GROUPS: [std::ops::Range<usize>; 5] = [0..4, 4..6, 6..8, 8..10, 10..16];

impl GpuUuid {
    pub fn from_bytes(bytes: [u8; 16]) -> GpuUuid {
        GpuUuid(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GPU")?;
        for group in GROUPS {
            f.write_str("-")?;
            self.0[group].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for GpuUuid {
    type Err = GpuUuidError;

    fn from_str(text: &str) -> Result<GpuUuid, GpuUuidError> {
        let wrong = || GpuUuidError(text.into());
        let groups = text.strip_prefix("GPU-").or(text.strip_prefix("MIG-")).ok_or_else(wrong)?;
        let groups: Vec<&str> = groups.split('-').collect();
        if groups.len() != GROUPS.len() {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        for (digits, place) in groups.iter().zip(GROUPS) {
            if digits.len() != 2 * place.len() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            for (byte, i) in bytes[place].iter_mut().zip((0..digits.len()).step_by(2)) {
                *byte = u8::from_str_radix(&digits[i..i + 2], 16).map_err(|_| wrong())?;
            }
        }
        Ok(GpuUuid(bytes))
    }
}

impl TryFrom<String> for GpuUuid {
    type Error = GpuUuidError;

    fn try_from(text: String) -> Result<GpuUuid, GpuUuidError> {
        text.parse()
    }
}

impl From<GpuUuid> for String {
    fn from(uuid: GpuUuid) -> String {
        uuid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "GPU-7e4c7a1e-0f3b-5c2d-9a41-2f6d8b3c1e05";

    #[test]
    fn text_and_bytes_are_the_same_thing() {
        let uuid: GpuUuid = TEXT.parse().unwrap();
        assert_eq!(uuid.to_string(), TEXT);
        assert_eq!(uuid.as_bytes()[0], 0x7e);
        assert_eq!(TEXT.replace("GPU", "MIG").parse(), Ok(uuid));
        assert_eq!(serde_json::from_str::<GpuUuid>(&serde_json::to_string(&uuid).unwrap()).unwrap(), uuid);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "0", "GPU-", &TEXT[4..], &TEXT[..39], &format!("{TEXT}0"), &TEXT.replace('7', "g"), &TEXT.replace("9a41-", "9a41")]
        {
            assert!(text.parse::<GpuUuid>().unwrap_err().to_string().contains("no UUID"), "{text}");
        }
    }
}
