//! A profile in a few lines.

use std::fmt::Write;

use dualpool_bench::profile::{Profile, Source};
use dualpool_types::Bytes;

/// Kernels that are shown; the file has more.
const KERNELS_SHOWN: usize = 5;

pub(super) fn text(profile: &Profile) -> String {
    let mut out = String::new();
    let source = match profile.source {
        Source::InProcess => "this program's own timings",
        Source::Nsys => "Nsight Systems",
        Source::Ncu => "Nsight Compute",
    };
    // Writing to a string does not fail.
    let _ = writeln!(out, "Profile, by {source}");
    if let Some(note) = &profile.note {
        let _ = writeln!(out, "  note: {note}");
    }
    if profile.copies.is_empty() && profile.source != Source::Ncu {
        let _ = writeln!(out, "  no copies");
    }
    for copies in &profile.copies {
        let (device, bytes) = (copies.device.as_ref().map(|on| format!(" on {on}")), Bytes(copies.bytes));
        let rate = copies.gb_per_s.map_or("rate not measured".into(), |rate| format!("{rate:.2} GB/s"));
        let _ = writeln!(
            out,
            "  {} {} > {}{}: {} copies, {bytes}, {:.1} ms, {rate}",
            copies.kind,
            copies.from,
            copies.to,
            device.unwrap_or_default(),
            copies.count,
            copies.time_us / 1e3,
        );
    }
    for device in &profile.devices {
        let percent = |part: f64, of: f64| if of > 0.0 { 100.0 * part / of } else { 0.0 };
        let overlap = device.overlap_share.map(|share| format!(", {:.0} % of its copying beside kernels", share * 100.0));
        let _ = writeln!(
            out,
            "  {}: busy {:.0} % of {:.1} s{}, {} gaps over {:.2} ms, the longest {:.1} ms",
            device.device,
            percent(device.busy_us, device.span_us),
            device.span_us / 1e6,
            overlap.unwrap_or_default(),
            device.idle.gaps,
            device.idle.gap_us_min / 1e3,
            device.idle.longest_us / 1e3,
        );
    }
    for kernel in profile.kernels.iter().take(KERNELS_SHOWN) {
        let rate = kernel.dram_gb_per_s.map(|rate| format!(", {rate:.0} GB/s of device memory"));
        let peak = kernel.dram_peak_share.map(|share| format!(" ({:.0} % of its peak)", share * 100.0));
        let _ = writeln!(
            out,
            "  {}: {} launches, {}{}{}",
            kernel.name,
            kernel.launches,
            kernel.time_us.map_or("time not measured".into(), |us| format!("{:.2} ms", us / 1e3)),
            rate.unwrap_or_default(),
            peak.unwrap_or_default(),
        );
    }
    out
}
