//! GPM: hardware counters of Hopper and later, as metrics of the time between two samples.

use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::gpm_metrics_get;
use nvml_wrapper::{Device, GpmSample};

const METRICS: [GpmMetricId; 6] = [
    GpmMetricId::SmUtil,
    GpmMetricId::DramBwUtil,
    GpmMetricId::PcieTxPerSec,
    GpmMetricId::PcieRxPerSec,
    GpmMetricId::NvlinkTotalTxPerSec,
    GpmMetricId::NvlinkTotalRxPerSec,
];

/// NVML gives throughput in MiB per second.
const MIB: f64 = 1_048_576.0;

/// What GPM told of the time since it was last asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    /// 0 to 1.
    pub sm: f32,
    pub memory: Option<f32>,
    /// Bytes per second, sent and received.
    pub pcie: [Option<u64>; 2],
    pub nvlink: [Option<u64>; 2],
}

/// The last sample of one GPU.
#[derive(Debug)]
pub(super) struct Gpm<'nvml> {
    before: GpmSample<'nvml>,
}

impl<'nvml> Gpm<'nvml> {
    /// None when the chip, or this user, has no GPM.
    pub(super) fn open(device: &Device<'nvml>) -> Option<Gpm<'nvml>> {
        let supported = device.gpm_support().unwrap_or(false);
        supported.then(|| device.gpm_sample().ok()).flatten().map(|before| Gpm { before })
    }

    /// None when it did not measure the SMs this time.
    pub(super) fn read(&mut self, device: &Device<'nvml>) -> Result<Option<Measured>, NvmlError> {
        let now = device.gpm_sample()?;
        let results = gpm_metrics_get(device.nvml(), &self.before, &now, &METRICS);
        self.before = now;
        let results = results?;
        let value = |i: usize| results.get(i)?.as_ref().ok().map(|result| result.value).filter(|value| value.is_finite());
        let share = |i: usize| value(i).map(|percent| (percent / 100.0).clamp(0.0, 1.0) as f32);
        let bytes = |i: usize| value(i).map(|mib| (mib.max(0.0) * MIB) as u64);
        Ok(share(0).map(|sm| Measured { sm, memory: share(1), pcie: [bytes(2), bytes(3)], nvlink: [bytes(4), bytes(5)] }))
    }
}
