//! Whole frames, as a pipe gets them.

use std::path::PathBuf;

use dualpool_types::artifact::{Environment, EnvironmentEngine, RunInfo};
use dualpool_types::records::{EngineSample, GpuProcess, GpuReading, GpuSample, Sample, Throttle, UtilSource};
use dualpool_types::{Bytes, EngineId, Micros, Role};

use super::runs::{Status, Watched};
use super::snapshot::Snapshot;
use super::text;

fn engine(engine: u16, at_ms: u64, role: Role, load: (u32, u32), kv_usage: Option<f32>, transfers_in: u64) -> Sample {
    Sample::Engine(EngineSample {
        arm: "dual_pool".into(),
        repetition: 1,
        at_us: Micros(at_ms * 1_000),
        engine: EngineId(engine),
        role,
        waiting: load.0,
        running: load.1,
        kv_usage,
        prefix_hits: None,
        transfers_in,
    })
}

fn info(devices: &[&str]) -> RunInfo {
    let engines = (0..).zip(devices);
    let environment = Environment {
        dualpool: "0.1.0".into(),
        backend: "vllm 0.32.0".into(),
        model: "SmolLM2-135M-Instruct".into(),
        dtype: "bfloat16".into(),
        os: "Debian".into(),
        cpu: "EPYC".into(),
        cores: Some(2),
        memory_bytes: Some(1),
        gpus: vec![],
        engines: engines
            .map(|(id, device)| EnvironmentEngine { id: EngineId(id), device: device.to_string(), block_size: 16, kv_blocks: 9 })
            .collect(),
    };
    RunInfo::begun("dual_pool", "20260102T030405Z-1f", "2026-01-02T03:04:05Z", environment)
}

fn watched(status: Status, devices: &[&str], samples: Vec<Sample>) -> Watched {
    Watched { folder: PathBuf::from("artifacts/dual_pool/20260102T030405Z-1f"), status, info: Some(info(devices)), samples }
}

fn reading(gpu: u32, sm: f32) -> GpuReading {
    GpuReading {
        gpu,
        uuid: format!("GPU-{gpu}").into(),
        util_source: Some(UtilSource::Gpm),
        sm_util: Some(sm),
        memory_util: Some(0.4),
        hbm_used: Some(Bytes::from_mib(40 << 10)),
        hbm_free: Some(Bytes::from_mib(40 << 10)),
        power_mw: Some(540_000),
        temperature_c: Some(62),
        sm_mhz: Some(1_980),
        throttle: Some(vec![]),
        pcie_tx_bytes_per_s: Some(1_200_000_000),
        pcie_rx_bytes_per_s: Some(300_000_000),
        nvlink_tx_bytes_per_s: Some(91_000_000_000),
        nvlink_rx_bytes_per_s: Some(0),
        xids: Some(0),
        ..GpuReading::default()
    }
}

#[test]
fn a_run_on_cores() {
    let samples = vec![
        // Of the run before, which is not shown.
        Sample::Engine(EngineSample { transfers_in: 900, ..old_run() }),
        engine(0, 10_000, Role::Prefill, (0, 1), Some(0.1), 0),
        engine(1, 10_000, Role::Decode, (0, 9), Some(0.5), 6),
        engine(0, 12_000, Role::Prefill, (3, 1), Some(0.25), 0),
        engine(1, 12_000, Role::Decode, (0, 12), Some(0.95), 11),
    ];
    let watched = watched(Status::Running, &["cores 0", "cores 1"], samples);
    let none = Some("no NVIDIA driver is installed".to_string());
    let snapshot = Snapshot::of(Some(watched), None, none, vec![]);
    insta::assert_snapshot!(text(&snapshot, 100).unwrap());
}

#[test]
fn a_run_before_it_with_the_same_label_is_not_part_of_its_rates() {
    let before = [(50_000, 900), (52_000, 950)];
    let now = [(1_000, 4), (3_000, 10)];
    let samples = before.iter().chain(&now).map(|&(at, moves)| engine(0, at, Role::Decode, (0, 1), None, moves)).collect();
    let snapshot = Snapshot::of(Some(watched(Status::Running, &["cores 0"], samples)), None, Some("no driver".into()), vec![]);
    let moment = snapshot.run.unwrap().moment.unwrap();
    assert_eq!((moment.at, moment.moves_per_s()), (Micros(3_000_000), Some(3.0)));
}

fn old_run() -> EngineSample {
    match engine(0, 60_000, Role::Shared, (5, 5), None, 0) {
        Sample::Engine(sample) => EngineSample { arm: "shared_tuned".into(), repetition: 0, ..sample },
        Sample::Gpu(_) => unreachable!(),
    }
}

#[test]
fn gpus_in_every_state() {
    let states = vec![
        reading(0, 0.87),
        GpuReading { throttle: Some(vec![Throttle::ThermalHardware, Throttle::HardwareSlowdown]), ..reading(1, 1.0) },
        GpuReading { gpu: 2, uuid: "GPU-2".into(), lost: true, xids: Some(1), last_xid: Some(79), ..GpuReading::default() },
        GpuReading {
            util_source: Some(UtilSource::Rates),
            throttle: Some(vec![Throttle::PowerCap]),
            xids: Some(1),
            last_xid: Some(63),
            ecc_uncorrected: Some(2),
            processes: Some(vec![GpuProcess { pid: 41, used: Some(Bytes::from_mib(2_048)) }, GpuProcess { pid: 42, used: None }]),
            ..reading(3, 0.31)
        },
        GpuReading { gpu: 4, uuid: "GPU-4".into(), ..GpuReading::default() },
    ];
    let on = |gpu: u32, engine: u16| {
        let reading = GpuReading { sm_util: Some(0.01), ..reading(gpu, 0.01) };
        let (arm, engines) = ("dual_pool".to_string(), vec![EngineId(engine)]);
        Sample::Gpu(Box::new(GpuSample { arm, repetition: 1, at_us: Micros(12_000_000), engines, reading }))
    };
    let samples = vec![
        engine(0, 12_000, Role::Prefill, (3, 1), Some(0.25), 0),
        engine(1, 12_000, Role::Decode, (0, 12), None, 11),
        on(0, 0),
        on(1, 1),
    ];
    let watched = watched(Status::Silent(Micros(9_000_000)), &["GPU 0 (GPU-0)", "GPU 1 (GPU-1)"], samples);
    let events = vec!["GPU 2 (GPU-2) is lost: the driver cannot reach it any more".to_string()];
    let live = Snapshot::of(Some(watched.clone()), Some(states), None, events);
    insta::assert_snapshot!(text(&live, 130).unwrap());

    let elsewhere = Snapshot::of(Some(watched), None, Some("no driver".into()), vec![]);
    let shown: Vec<f32> = elsewhere.gpus.iter().filter_map(|gpu| gpu.reading.sm_util).collect();
    assert_eq!(shown, [0.01, 0.01], "a machine without GPUs shows those of the run");
    assert!(elsewhere.no_gpus.is_none());
}

#[test]
fn nothing_to_see_says_what_to_do() {
    let snapshot = Snapshot::of(None, None, Some("no NVIDIA driver is installed".into()), vec![]);
    insta::assert_snapshot!(text(&snapshot, 100).unwrap());
    let starting = Snapshot::of(Some(watched(Status::Running, &[], vec![])), None, Some("no driver".into()), vec![]);
    assert!(text(&starting, 100).unwrap().contains("no samples yet"));
}

#[test]
fn a_small_screen_can_be_scrolled_and_keeps_its_keys() {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    let samples = vec![engine(0, 12_000, Role::Shared, (3, 1), Some(0.25), 0)];
    let snapshot = Snapshot::of(Some(watched(Status::Finished, &["virtual 0"], samples)), None, Some("no driver".into()), vec![]);
    let frame = |scroll| {
        let mut terminal = Terminal::new(TestBackend::new(60, 4)).unwrap();
        terminal.draw(|frame| super::view::draw(frame, &snapshot, scroll, Some("q quit"))).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row = |y| (0..60).map(|x| buffer[(x, y)].symbol().to_string()).collect::<String>().trim_end().to_string();
        (0..4).map(row).collect::<Vec<String>>()
    };
    assert!(frame(0)[0].starts_with("artifacts/dual_pool/") && frame(0)[3] == "q quit", "{:?}", frame(0));
    assert!(frame(3)[0].starts_with("POOL") && frame(3)[3] == "q quit", "{:?}", frame(3));
}
