//! One GPU, and everything that can be read of it.

use std::sync::Arc;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock as ClockKind, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, EventSet};

use dualpool_types::records::{GpuProcess, GpuReading, Throttle, UtilSource};
use dualpool_types::{Bytes, Clock, Micros, Time};

use super::counters::{Counters, Throughput};
use super::gpm::Gpm;
use super::{GpuEvent, GpuEventKind};

/// Processes and error counts change rarely and are dear to ask for: they are read this often, and repeated in between.
const SLOW_PERIOD: Micros = Micros(1_000_000);

/// Xids of one GPU that one round takes; further ones wait for the next.
const XIDS_PER_ROUND_MAX: usize = 16;

/// What may be missing on a chip; it is asked for until the driver says that it is.
#[derive(Clone, Copy)]
enum Metric {
    Memory,
    Rates,
    Power,
    Temperature,
    SmClock,
    MemoryClock,
    Throttle,
    Counters,
    PcieMeter,
    EccCorrected,
    EccUncorrected,
    Processes,
}

/// The GPU does not answer any more.
struct Gone;

pub(super) struct Probe<'nvml> {
    device: Device<'nvml>,
    index: u32,
    uuid: Arc<str>,
    /// One bit per `Metric` that the driver said is not supported.
    missing: u32,
    gpm: Option<Gpm<'nvml>>,
    counters: Counters,
    xid_events: Option<EventSet<'nvml>>,
    xids: u64,
    last_xid: Option<u64>,
    slow: Slow,
    slow_read: Option<Time>,
    /// As the meter of the PCIe bus said when it was this GPU's turn.
    pcie_metered: [Option<u64>; 2],
    lost: bool,
}

#[derive(Clone, Default)]
struct Slow {
    ecc_corrected: Option<u64>,
    ecc_uncorrected: Option<u64>,
    processes: Option<Vec<GpuProcess>>,
}

impl<'nvml> Probe<'nvml> {
    /// Begins everything that is measured between two readings.
    pub(super) fn open(device: Device<'nvml>, index: u32, uuid: Arc<str>, now: Time) -> Probe<'nvml> {
        let events = device.nvml().create_event_set();
        let registered = events.ok().and_then(|set| device.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok());
        let mut counters = Counters::default();
        // What cannot be read now is asked for again in every round.
        let _ = counters.read(&device, now);
        Probe {
            gpm: Gpm::open(&device),
            device,
            index,
            uuid,
            missing: 0,
            counters,
            xid_events: registered,
            xids: 0,
            last_xid: None,
            slow: Slow::default(),
            slow_read: None,
            pcie_metered: [None; 2],
            lost: false,
        }
    }

    /// Whether its PCIe throughput comes from the meter, which blocks for 20 ms and more each time it is read.
    pub(super) fn needs_pcie_meter(&self) -> bool {
        self.gpm.is_none() && !self.counters.has_pcie() && !self.lost && self.missing & (1 << Metric::PcieMeter as u32) == 0
    }

    /// Reads it all; `meter` says whether it is this GPU's turn at the PCIe meter.
    pub(super) fn read(&mut self, clock: &dyn Clock, meter: bool, events: &mut Vec<GpuEvent>) -> GpuReading {
        if !self.lost {
            let reading = self.ask_all(clock, meter);
            // An Xid often says why a GPU was lost, so it is taken from one that is gone as well.
            self.take_xids(events);
            match reading {
                Ok(reading) => return GpuReading { xids: self.xids(), last_xid: self.last_xid, ..reading },
                Err(Gone) => {
                    self.lost = true;
                    events.push(self.event(GpuEventKind::Lost));
                }
            }
        }
        GpuReading { lost: true, xids: self.xids(), last_xid: self.last_xid, ..self.blank() }
    }

    fn blank(&self) -> GpuReading {
        GpuReading { gpu: self.index, uuid: self.uuid.clone(), ..GpuReading::default() }
    }

    fn event(&self, kind: GpuEventKind) -> GpuEvent {
        GpuEvent { gpu: self.index, uuid: self.uuid.clone(), kind }
    }

    /// None where the driver reports no Xids: then 0 would be a guess.
    fn xids(&self) -> Option<u64> {
        self.xid_events.as_ref().map(|_| self.xids)
    }

    fn take_xids(&mut self, events: &mut Vec<GpuEvent>) {
        for _ in 0..XIDS_PER_ROUND_MAX {
            // 0 ms: what is there is taken, and nothing is waited for.
            let Some(Ok(data)) = self.xid_events.as_ref().map(|set| set.wait(0)) else { return };
            let Some(xid) = data.event_data else { continue };
            let code = match xid {
                XidError::Value(code) => Some(code),
                XidError::Unknown => None,
            };
            self.xids += 1;
            self.last_xid = code;
            events.push(self.event(GpuEventKind::Xid(code)));
        }
    }

    fn ask_all(&mut self, clock: &dyn Clock, meter: bool) -> Result<GpuReading, Gone> {
        let memory = self.ask(Metric::Memory, Device::memory_info)?;
        let power_mw = self.ask(Metric::Power, Device::power_usage)?;
        let temperature_c = self.ask(Metric::Temperature, |d| d.temperature(TemperatureSensor::Gpu))?;
        let sm_mhz = self.ask(Metric::SmClock, |d| d.clock_info(ClockKind::SM))?;
        let memory_mhz = self.ask(Metric::MemoryClock, |d| d.clock_info(ClockKind::Memory))?;
        let throttle = self.ask(Metric::Throttle, Device::current_throttle_reasons)?.map(throttle);
        let mut reading = GpuReading {
            hbm_used: memory.as_ref().map(|memory| Bytes(memory.used)),
            hbm_free: memory.as_ref().map(|memory| Bytes(memory.free)),
            power_mw,
            temperature_c,
            sm_mhz,
            memory_mhz,
            throttle,
            ..self.blank()
        };
        self.work(clock, meter, &mut reading)?;
        let Slow { ecc_corrected, ecc_uncorrected, processes } = self.slow(clock.now())?;
        Ok(GpuReading { ecc_corrected, ecc_uncorrected, processes, ..reading })
    }

    /// Utilisation and throughput: from GPM where the chip has it, and from older sources what that leaves open.
    fn work(&mut self, clock: &dyn Clock, meter: bool, reading: &mut GpuReading) -> Result<(), Gone> {
        let mut found = Throughput::default();
        let measured = match &mut self.gpm {
            Some(gpm) => answered(gpm.read(&self.device))?.flatten(),
            None => None,
        };
        if let Some(measured) = measured {
            reading.util_source = Some(UtilSource::Gpm);
            reading.sm_util = Some(measured.sm);
            reading.memory_util = measured.memory;
            found = Throughput { pcie: measured.pcie, nvlink: measured.nvlink };
        } else if let Some(rates) = self.ask(Metric::Rates, Device::utilization_rates)? {
            reading.util_source = Some(UtilSource::Rates);
            reading.sm_util = Some(rates.gpu as f32 / 100.0);
            reading.memory_util = Some(rates.memory as f32 / 100.0);
        }
        if found.pcie[0].is_none() || found.nvlink[0].is_none() {
            let mut counters = std::mem::take(&mut self.counters);
            let counted = self.ask(Metric::Counters, |device| counters.read(device, clock.now()));
            self.counters = counters;
            let counted = counted?.unwrap_or_default();
            let either = |a: [Option<u64>; 2], b: [Option<u64>; 2]| [a[0].or(b[0]), a[1].or(b[1])];
            found = Throughput { pcie: either(found.pcie, counted.pcie), nvlink: either(found.nvlink, counted.nvlink) };
        }
        if self.needs_pcie_meter() {
            if meter {
                let kib = |counter| move |device: &Device<'_>| device.pcie_throughput(counter);
                let sent = self.ask(Metric::PcieMeter, kib(PcieUtilCounter::Send))?;
                let received = self.ask(Metric::PcieMeter, kib(PcieUtilCounter::Receive))?;
                self.pcie_metered = [sent, received].map(|kib| kib.map(|kib| u64::from(kib) * 1024));
            }
            found.pcie = self.pcie_metered;
        }
        [reading.pcie_tx_bytes_per_s, reading.pcie_rx_bytes_per_s] = found.pcie;
        [reading.nvlink_tx_bytes_per_s, reading.nvlink_rx_bytes_per_s] = found.nvlink;
        Ok(())
    }

    fn slow(&mut self, now: Time) -> Result<Slow, Gone> {
        if self.slow_read.is_none_or(|then| now.since(then) >= SLOW_PERIOD) {
            let ecc = |kind| move |device: &Device<'_>| device.total_ecc_errors(kind, EccCounter::Volatile);
            self.slow = Slow {
                ecc_corrected: self.ask(Metric::EccCorrected, ecc(MemoryError::Corrected))?,
                ecc_uncorrected: self.ask(Metric::EccUncorrected, ecc(MemoryError::Uncorrected))?,
                processes: self
                    .ask(Metric::Processes, Device::running_compute_processes)?
                    .map(|list| list.iter().map(process).collect()),
            };
            self.slow_read = Some(now);
        }
        Ok(self.slow.clone())
    }

    fn ask<T>(&mut self, metric: Metric, read: impl FnOnce(&Device<'nvml>) -> Result<T, NvmlError>) -> Result<Option<T>, Gone> {
        let bit = 1 << metric as u32;
        if self.missing & bit != 0 {
            return Ok(None);
        }
        let answer = read(&self.device);
        if let Err(NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_)) = answer {
            self.missing |= bit;
        }
        answered(answer)
    }
}

/// None when there is no answer this time.
fn answered<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, Gone> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::GpuLost | NvmlError::ResetRequired) => Err(Gone),
        Err(_) => Ok(None),
    }
}

fn process(info: &ProcessInfo) -> GpuProcess {
    let used = match info.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(Bytes(bytes)),
        UsedGpuMemory::Unavailable => None,
    };
    GpuProcess { pid: info.pid, used }
}

fn throttle(reasons: ThrottleReasons) -> Vec<Throttle> {
    let known = [
        (ThrottleReasons::GPU_IDLE, Throttle::Idle),
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING | ThrottleReasons::DISPLAY_CLOCK_SETTING, Throttle::ClockSetting),
        (ThrottleReasons::SW_POWER_CAP, Throttle::PowerCap),
        (ThrottleReasons::HW_SLOWDOWN, Throttle::HardwareSlowdown),
        (ThrottleReasons::SYNC_BOOST, Throttle::SyncBoost),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, Throttle::ThermalSoftware),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, Throttle::ThermalHardware),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, Throttle::PowerBrake),
    ];
    known.iter().filter(|(bits, _)| reasons.intersects(*bits)).map(|(_, reason)| *reason).collect()
}
