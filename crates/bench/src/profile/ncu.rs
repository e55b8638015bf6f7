//! What Nsight Compute measured of single kernels, from `ncu --csv --page details --print-units base`: one line per launch and metric.
//!
//! It runs kernels one at a time and again and again, so it knows nothing of overlap, gaps, or how long anything takes in a real run.

use std::collections::BTreeMap;

use super::table::{ExtractError, Table, factor};
use super::{Kernels, Profile, Source, gb_per_s, longest};

/// What is asked of `ncu`, in this order: time, bytes read and written, share of the memory's peak.
pub const METRICS: [&str; 4] = [
    "gpu__time_duration.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
];

const TIME: [(&str, f64); 4] = [("ns", 1e-3), ("nsecond", 1e-3), ("us", 1.0), ("usecond", 1.0)];
const BYTES: [(&str, f64); 4] = [("byte", 1.0), ("Kbyte", 1e3), ("Mbyte", 1e6), ("Gbyte", 1e9)];
const SHARE: [(&str, f64); 1] = [("%", 0.01)];

/// One launch; none where a metric could not be taken.
#[derive(Default)]
struct Launch {
    time_us: Option<f64>,
    read: Option<f64>,
    written: Option<f64>,
    peak_share: Option<f64>,
}

pub fn extract(csv: &str) -> Result<Profile, ExtractError> {
    let wanted = ["ID", "Process ID", "Kernel Name", "Device", "Metric Name", "Metric Unit", "Metric Value"];
    let table = Table::find(csv, &wanted)?;
    let [id, process, name, device] =
        [table.column("ID")?, table.column("Process ID")?, table.column("Kernel Name")?, table.column("Device")?];
    let [metric, unit, value] = [table.column("Metric Name")?, table.column("Metric Unit")?, table.column("Metric Value")?];
    let mut launches: BTreeMap<(&str, &str, &str, &str), Launch> = BTreeMap::new();
    for row in table.rows() {
        let launch = launches.entry((row.text(name), row.text(device), row.text(process), row.text(id))).or_default();
        let (slot, known) = match METRICS.iter().position(|name| *name == row.text(metric)) {
            Some(0) => (&mut launch.time_us, &TIME[..]),
            Some(1) => (&mut launch.read, &BYTES[..]),
            Some(2) => (&mut launch.written, &BYTES[..]),
            Some(_) => (&mut launch.peak_share, &SHARE[..]),
            None => continue,
        };
        // The tool writes this where the chip has no such counter.
        if row.text(value) == "n/a" {
            continue;
        }
        *slot = row.number(value)?.map(|number| Ok(number * factor("Metric Unit", row.text(unit), known)?)).transpose()?;
    }
    let mut kernels: BTreeMap<(&str, &str), Vec<Launch>> = BTreeMap::new();
    for ((name, device, _, _), launch) in launches {
        kernels.entry((name, device)).or_default().push(launch);
    }
    let kernels = kernels.into_iter().map(|((name, device), launches)| sum(name, device, &launches)).collect();
    Ok(Profile { kernels: longest(kernels), ..Profile::new(Source::Ncu) })
}

/// Figures that one launch lacks are none for all of them: a part must not stand for the whole.
fn sum(name: &str, device: &str, launches: &[Launch]) -> Kernels {
    let all = |of: fn(&Launch) -> Option<f64>| launches.iter().map(of).sum::<Option<f64>>();
    let time_us = all(|launch| launch.time_us);
    let bytes = all(|launch| Some(launch.read? + launch.written?)).map(|bytes| bytes as u64);
    let weighted = all(|launch| Some(launch.peak_share? * launch.time_us?));
    Kernels {
        name: name.to_owned(),
        device: device.to_owned(),
        launches: launches.len() as u64,
        time_us,
        dram_bytes: bytes,
        dram_gb_per_s: bytes.zip(time_us).and_then(|(bytes, time_us)| gb_per_s(bytes, time_us)),
        dram_peak_share: weighted.zip(time_us).filter(|(_, time)| *time > 0.0).map(|(weighted, time)| weighted / time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by hand after the columns of the tool's page; the figures are made up.
    const DETAILS: &str = include_str!("fixtures/ncu_details.csv");

    #[test]
    fn launches_of_a_kernel_are_summed() {
        let profile = extract(DETAILS).unwrap();
        assert_eq!((profile.source, profile.copies.len(), profile.devices.len()), (Source::Ncu, 0, 0));
        let [gather, scatter] = &profile.kernels[..] else { panic!("{:?}", profile.kernels) };
        assert_eq!((gather.name.as_str(), gather.launches, gather.time_us), ("kv_gather", 2, Some(40.0)));
        assert_eq!((gather.dram_bytes, gather.dram_gb_per_s), (Some(80_000_000), Some(2000.0)));
        // 50 % for 10 us and 90 % for 30 us.
        assert!((gather.dram_peak_share.unwrap() - 0.8).abs() < 1e-9);
        // One counter was not available.
        assert_eq!((scatter.launches, scatter.time_us, scatter.dram_bytes), (1, Some(12.5), None));
    }

    #[test]
    fn a_time_that_was_not_measured_is_none_and_comes_last() {
        let profile = extract(&DETAILS.replacen("30,000", "n/a", 1)).unwrap();
        let kernels: Vec<_> = profile.kernels.iter().map(|kernel| (kernel.name.as_str(), kernel.time_us)).collect();
        assert_eq!(kernels, [("kv_scatter", Some(12.5)), ("kv_gather", None)]);
        assert_eq!((profile.kernels[1].dram_bytes, profile.kernels[1].dram_gb_per_s), (Some(80_000_000), None));
    }

    #[test]
    fn what_is_malformed_is_named() {
        let unit = DETAILS.replacen("\"nsecond\"", "\"fortnight\"", 1);
        assert_eq!(extract(&unit), Err(ExtractError::Unit { column: "Metric Unit", unit: "fortnight".into() }));
        let value = DETAILS.replacen("10,000", "ten", 1);
        assert!(matches!(extract(&value), Err(ExtractError::Number { column: "Metric Value", .. })));
        let refused = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters";
        assert!(extract(refused).unwrap_err().to_string().contains("ERR_NVGPUCTRPERM"));
    }
}
