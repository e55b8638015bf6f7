//! The address of a PCI device. NVML writes its domain with eight digits, the kernel and hwloc with four: as text they never match.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PciBusId {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciBusId {
    type Err = ();

    fn from_str(text: &str) -> Result<PciBusId, ()> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let (domain, bus, rest) = (parts.next()?, parts.next()?, parts.next()?);
            let (device, function) = rest.split_once('.')?;
            let byte = |text| u8::from_str_radix(text, 16).ok();
            Some(PciBusId {
                domain: u32::from_str_radix(domain, 16).ok()?,
                bus: byte(bus)?,
                device: byte(device)?,
                function: byte(function)?,
            })
        };
        parse().ok_or(())
    }
}

impl fmt::Display for PciBusId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvmls_and_hwlocs_forms_are_the_same_address() {
        let id = |text: &str| text.parse::<PciBusId>();
        assert_eq!(id("00000000:B1:00.0"), id("0000:b1:00.0"));
        assert_eq!(id("00000000:B1:00.0").unwrap().to_string(), "0000:b1:00.0");
        assert_eq!(id("00010000:01:00.1").unwrap().to_string(), "10000:01:00.1");
        assert_ne!(id("0001:b1:00.0"), id("0000:b1:00.0"));
        for text in ["", "b1:00.0", "0000:b1:00", "0000:xx:00.0", "0000:b1:00.0.0"] {
            assert_eq!(id(text), Err(()), "{text}");
        }
    }
}
