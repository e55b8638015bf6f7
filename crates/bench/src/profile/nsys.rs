//! What Nsight Systems saw: every copy and every kernel with its time, from `nsys stats --report cuda_gpu_trace --format csv`.

use std::collections::BTreeMap;

use super::intervals::{Intervals, device_use};
use super::table::{ExtractError, Table};
use super::{Copies, DeviceUse, Kernels, Profile, Source, gb_per_s, longest};

/// A stretch in which a device does nothing counts as a gap from this on: launches that follow each other leave shorter ones.
const GAP_NS_MIN: u64 = 10_000;

/// Kernels of dualpool that move KV blocks: with regard to overlap they are copies.
const COPY_KERNELS: &str = "kv_";

const TIME: [(&str, f64); 4] = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
const BYTES: [(&str, f64); 4] = [("B", 1.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9)];
const RATE: [(&str, f64); 6] = [("B/s", 1.0), ("KB/s", 1e3), ("MB/s", 1e6), ("MBps", 1e6), ("GB/s", 1e9), ("GBps", 1e9)];
/// Digits that the tool keeps behind the point.
const ROUNDING: f64 = 0.0005;

#[derive(Default)]
struct Device {
    copies: Vec<(u64, u64)>,
    kernels: Vec<(u64, u64)>,
    /// Clearing memory, for one: neither, but not idle.
    others: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Sum {
    count: u64,
    bytes: u64,
    time_us: f64,
}

/// Copies by kind, use by device, and the longest kernels.
pub fn extract(csv: &str) -> Result<Profile, ExtractError> {
    let table = Table::find(csv, &["Start", "Duration", "Bytes", "Throughput", "SrcMemKd", "DstMemKd", "Device", "Name"])?;
    let [start, duration, bytes, rate] =
        [table.column("Start")?, table.column("Duration")?, table.column("Bytes")?, table.column("Throughput")?];
    let [from, to, device, name] =
        [table.column("SrcMemKd")?, table.column("DstMemKd")?, table.column("Device")?, table.column("Name")?];
    let (start_unit, duration_unit) = (table.unit(start, &TIME)?, table.unit(duration, &TIME)?);
    let (bytes_unit, rate_unit) = (table.unit(bytes, &BYTES)?, table.unit(rate, &RATE)?);

    let mut devices: BTreeMap<&str, Device> = BTreeMap::new();
    let mut copies: BTreeMap<[&str; 4], Sum> = BTreeMap::new();
    let mut kernels: BTreeMap<(&str, &str), Sum> = BTreeMap::new();
    for row in table.rows() {
        let begun = row.required(start)? * start_unit;
        let took = row.required(duration)? * duration_unit;
        let stretch = (begun as u64, (begun + took) as u64);
        let (device_name, name) = (row.text(device), row.text(name));
        let device = devices.entry(device_name).or_default();
        if let Some(kind) = name.strip_prefix("[CUDA memcpy ").and_then(|kind| kind.strip_suffix(']')) {
            device.copies.push(stretch);
            let sum = copies.entry([kind, row.text(from), row.text(to), device_name]).or_default();
            sum.count += 1;
            sum.time_us += took / 1e3;
            sum.bytes += size(
                row.required(bytes)? * bytes_unit,
                bytes_unit,
                row.number(rate)?.map(|rate| rate * rate_unit),
                rate_unit,
                took,
            );
        } else if name.starts_with('[') {
            device.others.push(stretch);
        } else {
            let side = if name.starts_with(COPY_KERNELS) { &mut device.copies } else { &mut device.kernels };
            side.push(stretch);
            let sum = kernels.entry((name, device_name)).or_default();
            sum.count += 1;
            sum.time_us += took / 1e3;
        }
    }
    let copies = copies.into_iter().map(|([kind, from, to, device], sum)| Copies {
        kind: kind.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        device: Some(device.to_owned()),
        count: sum.count,
        bytes: sum.bytes,
        time_us: sum.time_us,
        gb_per_s: gb_per_s(sum.bytes, sum.time_us),
    });
    let kernels = kernels.into_iter().map(|((name, device), sum)| Kernels {
        name: name.to_owned(),
        device: device.to_owned(),
        launches: sum.count,
        time_us: Some(sum.time_us),
        dram_bytes: None,
        dram_gb_per_s: None,
        dram_peak_share: None,
    });
    let devices = devices.into_iter().map(|(name, device)| device.used(name)).collect();
    Ok(Profile { copies: copies.collect(), devices, kernels: longest(kernels.collect()), ..Profile::new(Source::Nsys) })
}

/// A copy's size in bytes. The tool rounds it to thousandths of its unit, which is nothing left of a small copy; its throughput times
/// its time is often the finer figure of the two.
fn size(bytes: f64, bytes_unit: f64, rate: Option<f64>, rate_unit: f64, took_ns: f64) -> u64 {
    let seconds = took_ns / 1e9;
    let by_rate =
        rate.map(|rate| rate * seconds).filter(|by_rate| (by_rate - bytes).abs() <= (bytes_unit + rate_unit * seconds) * ROUNDING);
    match by_rate {
        Some(by_rate) if rate_unit * seconds < bytes_unit => by_rate.round() as u64,
        _ => bytes.round() as u64,
    }
}

impl Device {
    fn used(self, name: &str) -> DeviceUse {
        let [copies, kernels, others] =
            [self.copies, self.kernels, self.others].map(|stretches| stretches.into_iter().collect::<Intervals>());
        let overlap = copies.intersection(&kernels).total();
        let us = |ns: u64| Some(ns as f64 / 1e3);
        DeviceUse {
            kernel_us: us(kernels.total()),
            copy_us: us(copies.total()),
            overlap_us: us(overlap),
            overlap_share: (copies.total() > 0).then(|| overlap as f64 / copies.total() as f64),
            ..device_use(name, &[copies.union(&kernels).union(&others)], GAP_NS_MIN)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by hand after the columns of the tool's report; the times and sizes are made up.
    const TRACE: &str = include_str!("fixtures/cuda_gpu_trace.csv");

    #[test]
    fn copies_are_summed_by_kind_and_device() {
        let profile = extract(TRACE).unwrap();
        let copies: Vec<_> =
            profile.copies.iter().map(|c| (c.kind.as_str(), c.device.as_deref().unwrap(), c.count, c.bytes)).collect();
        assert_eq!(copies, [("Device-to-Host", "NVIDIA H200 (0)", 1, 16), ("Peer-to-Peer", "NVIDIA H200 (0)", 2, 6_000_000),]);
        assert_eq!((profile.copies[1].time_us, profile.copies[1].gb_per_s), (60.0, Some(100.0)));
        assert_eq!((profile.copies[1].from.as_str(), profile.copies[1].to.as_str()), ("Device", "Device"));
    }

    #[test]
    fn overlap_and_gaps_are_per_device() {
        let profile = extract(TRACE).unwrap();
        let [first, second] = &profile.devices[..] else { panic!("{:?}", profile.devices) };
        // Kernels 0-100 and 200-300; copies 80-120, 250-270 and 400-400.672, and clearing 500-501; all in microseconds.
        assert_eq!(first.device, "NVIDIA H200 (0)");
        assert_eq!((first.kernel_us, first.copy_us, first.overlap_us), (Some(200.0), Some(60.672), Some(40.0)));
        assert_eq!(first.overlap_share, Some(40.0 / 60.672));
        assert_eq!((first.span_us, first.idle.gaps), (501.0, 3));
        assert_eq!(first.idle.longest_us, 100.0);
        // dualpool's own kernel is a copy that overlaps with the attention.
        assert_eq!((second.kernel_us, second.copy_us, second.overlap_us), (Some(50.0), Some(20.0), Some(10.0)));
        assert_eq!((second.idle.gaps, second.idle.total_us), (0, 0.0));
    }

    #[test]
    fn kernels_are_listed_by_their_time() {
        let kernels = extract(TRACE).unwrap().kernels;
        let listed: Vec<_> = kernels.iter().map(|k| (k.name.as_str(), k.launches, k.time_us)).collect();
        assert_eq!(
            listed,
            [
                ("void flash_fwd<128, true>(Params)", 2, Some(200.0)),
                ("void flash_fwd<128, true>(Params)", 1, Some(50.0)),
                ("kv_scatter", 1, Some(20.0))
            ]
        );
    }

    #[test]
    fn what_is_malformed_is_named_by_its_line() {
        let line = TRACE.lines().position(|line| line.contains("Peer-to-Peer")).unwrap() + 1;
        let broken = TRACE.replacen("4.000", "three", 1);
        assert_eq!(extract(&broken), Err(ExtractError::Number { line, column: "Bytes", value: "three".into() }));
        let cut = &TRACE[..TRACE.len() - 30];
        assert!(matches!(extract(cut), Err(ExtractError::Fields { .. })), "{:?}", extract(cut));
        let other = TRACE.replace("Bytes (MB)", "Bytes (furlongs)");
        assert_eq!(extract(&other), Err(ExtractError::Unit { column: "Bytes", unit: "furlongs".into() }));
        let missing = TRACE.replacen("81000,40000", "81000,", 1);
        assert!(matches!(extract(&missing), Err(ExtractError::Number { column: "Duration", .. })));
        assert!(matches!(extract("SKIPPED: x.sqlite does not contain CUDA trace data.\n"), Err(ExtractError::NoTable { .. })));
    }
}
