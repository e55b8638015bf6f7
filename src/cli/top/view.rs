//! How it is drawn: lines of text, so that a terminal and a pipe show the same.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use dualpool_types::Bytes;
use dualpool_types::records::{GpuProcess, GpuReading, Throttle, UtilSource};

use super::runs::Status;
use super::snapshot::{EngineRow, GpuRow, Moment, Pool, RunView, Snapshot};

/// Width of a bar, and from which share on it is drawn as a warning.
const BAR: usize = 12;
const HIGH: f32 = 0.9;

/// Processes of a GPU that are named; the others are counted.
const PROCESSES_SHOWN: usize = 4;

const DIM: Style = Style::new().fg(Color::DarkGray);
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// Draws it from line `scroll` on; `keys` stay at the bottom.
pub(super) fn draw(frame: &mut Frame, snapshot: &Snapshot, scroll: u16, keys: Option<&str>) {
    let bottom = u16::from(keys.is_some());
    let [body, foot] = Layout::vertical([Constraint::Min(0), Constraint::Length(bottom)]).areas(frame.area());
    frame.render_widget(Paragraph::new(lines(snapshot, body.width)).scroll((scroll, 0)), body);
    frame.render_widget(Line::styled(keys.unwrap_or_default(), DIM), foot);
}

pub(super) fn lines(snapshot: &Snapshot, width: u16) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    match &snapshot.run {
        Some(run) => run_lines(run, &mut lines),
        None => lines.push(Line::from("no run under artifacts/ yet; `dualpool run dual_pool` starts one")),
    }
    lines.push(Line::default());
    gpu_lines(snapshot, usize::from(width), &mut lines);
    lines
}

fn run_lines(run: &RunView, lines: &mut Vec<Line<'static>>) {
    let status = match run.status {
        Status::Running => Span::styled("running", Style::new().fg(Color::Green)),
        Status::Silent(time) => Span::styled(format!("no new samples for {:.0} s", time.as_secs()), Style::new().fg(Color::Yellow)),
        Status::Finished => Span::styled("finished", DIM),
    };
    lines.push(Line::from(vec![Span::styled(run.folder.clone(), HEAD), Span::raw("  "), status]));
    let Some(moment) = &run.moment else {
        lines.push(Line::from("no samples yet: engines are starting, or the next run is being arranged"));
        return;
    };
    let model = run.model.as_ref().map(|model| format!("   {model}")).unwrap_or_default();
    lines.push(Line::from(format!(
        "{}, repetition {}, {:.1} s   hand-offs {}/s{model}",
        moment.arm,
        moment.repetition + 1,
        moment.at.as_secs(),
        rate(moment.moves_per_s()),
    )));
    lines.push(Line::default());
    engine_lines(moment, lines);
}

fn engine_lines(moment: &Moment, lines: &mut Vec<Line<'static>>) {
    let head =
        format!("{:<10} {:<8} {:>7} {:>7}  {:<18} {:>10}  {}", "POOL", "", "WAITING", "RUNNING", "KV CACHE", "MOVES IN/S", "");
    lines.push(Line::styled(head.trim_end().to_string(), HEAD));
    for Pool { role, engines, waiting, running, kv_usage, moves_per_s } in moment.pools() {
        let count = if engines == 1 { "1 engine".to_string() } else { format!("{engines} eng.") };
        let mut spans = vec![Span::raw(format!("{:<10} {count:<8} {waiting:>7} {running:>7}  ", role.name()))];
        spans.extend(bar(kv_usage));
        spans.push(Span::raw(format!(" {:>10}", rate(moves_per_s))));
        lines.push(Line::from(spans));
    }
    lines.push(Line::default());
    let head = format!(
        "{:<10} {:<8} {:>7} {:>7}  {:<18} {:>10}  DEVICE",
        "ENGINE", "ROLE", "WAITING", "RUNNING", "KV CACHE", "MOVES IN/S"
    );
    lines.push(Line::styled(head, HEAD));
    for EngineRow { sample, device, moves_per_s } in &moment.engines {
        let (engine, role) = (sample.engine.to_string(), sample.role.name());
        let mut spans = vec![Span::raw(format!("{engine:<10} {role:<8} {:>7} {:>7}  ", sample.waiting, sample.running))];
        spans.extend(bar(sample.kv_usage));
        spans.push(Span::raw(format!(" {:>10}  {}", rate(*moves_per_s), device.as_deref().unwrap_or_default())));
        lines.push(Line::from(spans));
    }
}

fn gpu_lines(snapshot: &Snapshot, width: usize, lines: &mut Vec<Line<'static>>) {
    if let Some(why) = &snapshot.no_gpus {
        lines.push(Line::styled(format!("no GPUs: {why}"), DIM));
    } else {
        let head = format!(
            "{:<8} {:<18}  {:<18}  {:<11} {:>6} {:>5} {:>9}  {:<13} {:<13}",
            "GPU", "SM", "HBM", "", "POWER", "TEMP", "SM CLOCK", "PCIE OUT/IN", "NVLINK OUT/IN"
        );
        lines.push(Line::styled(head.trim_end().to_string(), HEAD));
        snapshot.gpus.iter().for_each(|gpu| gpu_row(gpu, width, lines));
        if snapshot.gpus.iter().any(|gpu| gpu.reading.util_source == Some(UtilSource::Rates)) {
            lines.push(Line::styled("* share of time with any kernel; this GPU has no GPM metrics", DIM));
        }
    }
    lines.extend(snapshot.events.iter().map(|event| Line::styled(event.clone(), ALARM)));
}

fn gpu_row(GpuRow { reading, engines }: &GpuRow, width: usize, lines: &mut Vec<Line<'static>>) {
    let name = format!("{:<8} ", format!("GPU {}", reading.gpu));
    if reading.lost {
        let why = flags(reading).iter().map(|flag| format!("  {flag}")).collect::<String>();
        lines.push(Line::from(vec![Span::raw(name), Span::styled(format!("LOST  {}{why}", reading.uuid), ALARM)]));
        return;
    }
    let memory = reading.hbm_used.zip(reading.hbm_free).map(|(used, free)| (used, Bytes(used.0 + free.0)));
    let mut spans = vec![Span::raw(name)];
    spans.extend(bar(reading.sm_util));
    spans.push(Span::raw(if reading.util_source == Some(UtilSource::Rates) { "* " } else { "  " }));
    spans.extend(bar(memory.map(|(used, total)| used.0 as f32 / total.0.max(1) as f32)));
    let gib = memory.map_or("-".to_string(), |(used, total)| format!("{:.0}/{:.0} GiB", gib(used), gib(total)));
    let power = known(reading.power_mw, |mw| format!("{:.0} W", f64::from(mw) / 1e3));
    let temperature = known(reading.temperature_c, |celsius| format!("{celsius} C"));
    let clock = known(reading.sm_mhz, |mhz| format!("{mhz} MHz"));
    let pcie = throughput(reading.pcie_tx_bytes_per_s, reading.pcie_rx_bytes_per_s);
    let nvlink = throughput(reading.nvlink_tx_bytes_per_s, reading.nvlink_rx_bytes_per_s);
    spans.push(Span::raw(format!("  {gib:<11} {power:>6} {temperature:>5} {clock:>9}  {pcie:<13} {nvlink:<13}")));
    lines.push(Line::from(spans));
    let flags = flags(reading);
    let mut about: Vec<String> = engines.iter().map(ToString::to_string).collect();
    about.extend(reading.processes.as_deref().map(processes).filter(|text| !text.is_empty()));
    if about.is_empty() && flags.is_empty() {
        return;
    }
    let mut spans = vec![Span::raw(" ".repeat(9))];
    let mut left = width.saturating_sub(9);
    for flag in flags {
        left = left.saturating_sub(flag.len() + 2);
        spans.push(Span::styled(format!("{flag}  "), ALARM));
    }
    spans.push(Span::styled(about.join("  ").chars().take(left).collect::<String>(), DIM));
    lines.push(Line::from(spans));
}

/// What is wrong with it, or worth knowing of its clocks.
fn flags(reading: &GpuReading) -> Vec<String> {
    let throttle = reading.throttle.as_deref().unwrap_or_default();
    let slow: Vec<String> = throttle.iter().filter(|reason| reason.slows()).map(ToString::to_string).collect();
    let mut flags = Vec::new();
    if !slow.is_empty() {
        flags.push(format!("SLOWED by {}", slow.join(", ")));
    } else if throttle.contains(&Throttle::PowerCap) {
        flags.push("AT POWER LIMIT".to_string());
    }
    if reading.xids.is_some_and(|count| count > 0) {
        flags.push(reading.last_xid.map_or("XID".to_string(), |code| format!("XID {code}")));
    }
    if let Some(count) = reading.ecc_uncorrected.filter(|&count| count > 0) {
        flags.push(format!("ECC {count} uncorrected"));
    }
    flags
}

fn processes(list: &[GpuProcess]) -> String {
    let text = |process: &GpuProcess| match process.used {
        Some(bytes) => format!("pid {} {bytes}", process.pid),
        None => format!("pid {}", process.pid),
    };
    let mut shown: Vec<String> = list.iter().take(PROCESSES_SHOWN).map(text).collect();
    if list.len() > PROCESSES_SHOWN {
        shown.push(format!("and {} more", list.len() - PROCESSES_SHOWN));
    }
    shown.join(", ")
}

/// `######------  50 %`; a dash where nothing is known.
fn bar(share: Option<f32>) -> [Span<'static>; 3] {
    let Some(share) = share.map(|share| share.clamp(0.0, 1.0)) else {
        return [Span::raw(""), Span::styled(format!("{:<BAR$}", "-"), DIM), Span::raw(" ".repeat(6))];
    };
    let full = (share * BAR as f32).round() as usize;
    let colour = if share >= HIGH { Color::Yellow } else { Color::Green };
    [
        Span::styled("█".repeat(full), Style::new().fg(colour)),
        Span::styled("░".repeat(BAR - full), DIM),
        Span::raw(format!(" {:>3.0} %", share * 100.0)),
    ]
}

fn rate(per_s: Option<f64>) -> String {
    known(per_s, |per_s| format!("{per_s:.1}"))
}

fn known<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or("-".to_string(), text)
}

fn gib(bytes: Bytes) -> f64 {
    bytes.0 as f64 / 1_073_741_824.0
}

/// GB per second out and in.
fn throughput(tx: Option<u64>, rx: Option<u64>) -> String {
    let one = |bytes: Option<u64>| known(bytes, |bytes| format!("{:.1}", bytes as f64 / 1e9));
    match (tx, rx) {
        (None, None) => "-".to_string(),
        _ => format!("{}/{} GB/s", one(tx), one(rx)),
    }
}
