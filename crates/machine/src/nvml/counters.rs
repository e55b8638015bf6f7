//! Throughput from counters that only grow, for chips without GPM: bytes over PCIe and over all NVLinks.

use std::ffi::c_uint;

use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
    NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
};

use dualpool_types::Time;

use super::fields::field_values;

const COUNTERS: usize = 4;

/// The scope of a field that stands for all links together; other fields have no scope.
const ALL_LINKS: c_uint = c_uint::MAX;

/// Field, scope, and the bytes that one count stands for.
const FIELDS: [(c_uint, c_uint, u64); COUNTERS] = [
    (NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0, 1),
    (NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0, 1),
    (NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL_LINKS, 1024),
    (NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ALL_LINKS, 1024),
];

/// Bytes per second, sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Throughput {
    pub pcie: [Option<u64>; 2],
    pub nvlink: [Option<u64>; 2],
}

/// The counters of one GPU as they were read last.
#[derive(Debug, Default)]
pub(super) struct Counters {
    before: Option<(Time, [Option<u64>; COUNTERS])>,
}

impl Counters {
    /// Reads them, and tells the throughput since they were read before.
    pub(super) fn read(&mut self, device: &Device<'_>, now: Time) -> Result<Throughput, NvmlError> {
        let counts = counts(device)?;
        Ok(match self.before.replace((now, counts)) {
            Some((then, before)) => throughput(before, counts, now.since(then).as_secs()),
            None => Throughput::default(),
        })
    }

    /// Whether the chip counts PCIe bytes, as far as it was asked.
    pub(super) fn has_pcie(&self) -> bool {
        self.before.is_some_and(|(_, counts)| counts[0].is_some())
    }
}

fn counts(device: &Device<'_>) -> Result<[Option<u64>; COUNTERS], NvmlError> {
    let mut counts = field_values(device, FIELDS.map(|(field, scope, _)| (field, scope)))?;
    for (count, (.., unit)) in counts.iter_mut().zip(FIELDS) {
        *count = count.map(|count| count.saturating_mul(unit));
    }
    Ok(counts)
}

fn throughput(before: [Option<u64>; COUNTERS], now: [Option<u64>; COUNTERS], seconds: f64) -> Throughput {
    let mut rates = [None; COUNTERS];
    for ((rate, before), now) in rates.iter_mut().zip(before).zip(now) {
        // A counter that went back has wrapped or was reset: this once its rate is unknown.
        let grown = before.zip(now).and_then(|(before, now)| now.checked_sub(before));
        *rate = grown.filter(|_| seconds > 0.0).map(|bytes| (bytes as f64 / seconds) as u64);
    }
    let [pcie_tx, pcie_rx, nvlink_tx, nvlink_rx] = rates;
    Throughput { pcie: [pcie_tx, pcie_rx], nvlink: [nvlink_tx, nvlink_rx] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_is_growth_over_time_and_unknown_where_a_counter_is_missing_or_went_back() {
        let found = throughput([Some(100), None, Some(1 << 40), Some(0)], [Some(600), Some(7), Some(5), Some(2_048)], 0.5);
        assert_eq!(found, Throughput { pcie: [Some(1_000), None], nvlink: [None, Some(4_096)] });
        assert_eq!(throughput([Some(0); 4], [Some(1); 4], 0.0), Throughput::default());
    }
}
