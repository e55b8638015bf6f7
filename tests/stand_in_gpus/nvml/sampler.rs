//! What is read of GPUs in every state.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use dualpool_machine::nvml::{GpuEventKind, Round, Sampler, SamplerError, Which};
use dualpool_types::records::{GpuReading, Throttle, UtilSource};
use dualpool_types::{Bytes, Micros, MonotonicClock};

use crate::support::fakes::FakeNvml;

/// A round that does not come within this time never will.
const ROUND_MAX: Duration = Duration::from_secs(60);

fn rounds(script: &str, which: &Which, count: usize) -> Vec<Round> {
    let fake = FakeNvml::new(script);
    let (rounds, taken) = sync_channel(count);
    // What the test does not take is dropped, as a reader that is too slow would have it.
    let sink = move |round| drop(rounds.try_send(round));
    let period = Micros::from_ms(5.0);
    let library = fake.library();
    let _sampler = Sampler::start(Some(library.as_os_str()), which, period, Arc::new(MonotonicClock::new()), sink).unwrap();
    (0..count).map(|_| taken.recv_timeout(ROUND_MAX).unwrap()).collect()
}

fn last(script: &str) -> Vec<GpuReading> {
    rounds(script, &Which::All, 3).pop().unwrap().readings
}

#[test]
fn every_state_is_read_as_it_is() {
    let readings = last(
        r#"{"gpus": [
            {"phases": [{"load": "idle"}]},
            {"phases": [{"load": "busy", "processes": [{"pid": 41, "mib": 2048}, {"pid": 42}], "ecc_corrected": 3}], "nvlinks": [{"version": 4}]},
            {"memory_mib": 1000, "phases": [{"load": "full"}]},
            {"phases": [{"load": "throttled"}]}
        ]}"#,
    );
    let [idle, busy, full, throttled] = &readings[..] else { panic!("{readings:?}") };
    assert_eq!((idle.sm_util, &idle.throttle), (Some(0.0), &Some(vec![Throttle::Idle])), "idle is 0, which is not unknown");
    assert_eq!((busy.sm_util, busy.memory_util, busy.util_source), (Some(0.87), Some(0.41), Some(UtilSource::Gpm)));
    assert_eq!(
        (busy.power_mw, busy.temperature_c, busy.sm_mhz, busy.memory_mhz),
        (Some(540_000), Some(62), Some(1_980), Some(2_619))
    );
    assert_eq!((busy.ecc_corrected, busy.ecc_uncorrected, busy.xids), (Some(3), Some(0), Some(0)));
    assert_eq!((busy.pcie_tx_bytes_per_s, busy.pcie_rx_bytes_per_s), (Some(1_740 << 20), Some(870 << 20)));
    assert_eq!((busy.nvlink_tx_bytes_per_s, busy.nvlink_rx_bytes_per_s), (Some(87_000 << 20), Some(43_500 << 20)));
    let processes: Vec<_> = busy.processes.iter().flatten().map(|process| (process.pid, process.used)).collect();
    assert_eq!(processes, [(41, Some(Bytes::from_mib(2048))), (42, None)]);
    assert_eq!((full.hbm_used, full.hbm_free), (Some(Bytes::from_mib(936)), Some(Bytes::from_mib(64))));
    assert_eq!(
        (full.slowed(), &full.throttle),
        (Some(false), &Some(vec![Throttle::PowerCap])),
        "the power limit is normal under load"
    );
    assert_eq!(throttled.slowed(), Some(true));
    assert_eq!(throttled.throttle, Some(vec![Throttle::HardwareSlowdown, Throttle::ThermalHardware]));
}

#[test]
fn without_gpm_rates_and_counters_stand_in_and_say_so() {
    let readings = last(
        r#"{"gpus": [
            {"gpm": false, "phases": [{"load": "busy"}], "nvlinks": [{"version": 3}, {"version": 3}]},
            {"gpm": false, "pcie_counters": false, "phases": [{"load": "busy"}]},
            {"gpm": false, "pcie_counters": false, "phases": [{"load": "busy", "pcie_tx_mib_s": 3}]}
        ]}"#,
    );
    for reading in &readings {
        assert_eq!((reading.sm_util, reading.util_source), (Some(0.87), Some(UtilSource::Rates)));
    }
    assert!(readings[0].pcie_tx_bytes_per_s > Some(0) && readings[0].nvlink_rx_bytes_per_s > Some(0), "{:?}", readings[0]);
    // The meter takes turns: after three rounds each GPU has had one.
    assert_eq!(readings[1].pcie_tx_bytes_per_s, Some(1_740 << 20));
    assert_eq!(readings[2].pcie_tx_bytes_per_s, Some(3 << 20));
    assert_eq!(readings[2].nvlink_tx_bytes_per_s, None, "a GPU without links has no throughput over them, not 0");
}

#[test]
fn what_a_chip_does_not_tell_is_null() {
    let groups = "memory power temperature clocks throttle utilisation gpm pcie nvlink ecc events processes";
    let groups = serde_json::to_string(&groups.split(' ').collect::<Vec<_>>()).unwrap();
    let readings = last(&format!(r#"{{"gpus": [{{"unsupported": {groups}, "phases": [{{"load": "busy"}}]}}]}}"#));
    let serde_json::Value::Object(fields) = serde_json::to_value(&readings[0]).unwrap() else { panic!() };
    let known: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(known, ["gpu", "lost", "uuid"], "{fields:?}");
}

#[test]
fn a_gpu_lost_while_sampling_is_one_event_and_the_others_go_on() {
    let script = r#"{"gpus": [
        {"phases": [{"load": "busy"}]},
        {"phases": [{"load": "busy"}], "lost_after": 2, "xid": {"round": 3, "code": 79}},
        {"phases": [{"load": "busy"}]}
    ]}"#;
    let rounds = rounds(script, &Which::All, 6);
    let lost: Vec<Vec<bool>> = rounds.iter().map(|round| round.readings.iter().map(|gpu| gpu.lost).collect()).collect();
    assert_eq!(lost[..2], [[false, false, false], [false, false, false]]);
    assert!(lost[2..].iter().all(|lost| *lost == [false, true, false]), "{lost:?}");
    let events: Vec<_> = rounds.iter().flat_map(|round| &round.events).collect();
    let kinds: Vec<_> = events.iter().map(|event| (event.gpu, event.kind.clone())).collect();
    assert_eq!(kinds, [(1, GpuEventKind::Xid(Some(79))), (1, GpuEventKind::Lost)], "each is told once");
    assert!(events[1].to_string().contains("GPU 1 (GPU-00000000-0000-0000-0000-000000000001) is lost"), "{}", events[1]);
    let after = &rounds[5].readings;
    assert_eq!((after[1].sm_util, after[1].hbm_used, after[1].last_xid), (None, None, Some(79)));
    assert_eq!((after[0].sm_util, after[2].sm_util), (Some(0.87), Some(0.87)));
}

#[test]
fn gpus_are_chosen_by_uuid_because_cuda_may_count_otherwise() {
    // In CUDA's order, say fastest first, these would be GPU 1 and GPU 0.
    let script = r#"{"gpus": [
        {"uuid": "GPU-slow", "phases": [{"sm": 10}]}, {"uuid": "GPU-other", "phases": [{"sm": 20}]}, {"uuid": "GPU-fast", "phases": [{"sm": 90}]}
    ]}"#;
    let which = Which::Uuids(vec!["GPU-fast".into(), "GPU-slow".into()]);
    let read: Vec<_> = rounds(script, &which, 1)[0].readings.iter().map(|r| (r.gpu, r.uuid.to_string(), r.sm_util)).collect();
    assert_eq!(read, [(0, "GPU-slow".to_string(), Some(0.1)), (2, "GPU-fast".to_string(), Some(0.9))]);

    let fake = FakeNvml::new(script);
    let which = Which::Uuids(vec!["GPU-gone".into()]);
    let library = fake.library();
    let start = Sampler::start(Some(library.as_os_str()), &which, Micros::from_ms(5.0), Arc::new(MonotonicClock::new()), drop);
    let error = start.unwrap_err().to_string();
    assert!(error.contains("GPU-gone") && error.contains("GPU 2 (GPU-fast)"), "{error}");
}

#[test]
fn no_nvml_and_a_driver_that_is_not_running_are_errors_that_say_so() {
    let clock = || Arc::new(MonotonicClock::new());
    let start = |library: &str| Sampler::start(Some(library.as_ref()), &Which::All, Micros::from_ms(5.0), clock(), drop);
    let error = start("/nonexistent/libnvidia-ml.so.1").unwrap_err();
    assert!(matches!(&error, SamplerError::NoNvml { why } if why.contains("libnvidia-ml.so.1")), "{error}");
    for (script, said) in [(r#"{"init_error": 9}"#, "not running"), (r#"{"gpus": []}"#, "no GPU")] {
        let error = start(FakeNvml::new(script).library().to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_sampler_ends_when_it_is_dropped_however_long_its_period() {
    let fake = FakeNvml::new("{}");
    let an_hour = Micros::from_secs(3_600.0);
    let library = fake.library();
    let sampler = Sampler::start(Some(library.as_os_str()), &Which::All, an_hour, Arc::new(MonotonicClock::new()), drop);
    // Without a prompt end this test hangs.
    drop(sampler.unwrap());
}

#[test]
fn a_sampler_that_hangs_is_left_behind() {
    let fake = FakeNvml::new("{}");
    let library = fake.library();
    let (reached, reaches) = sync_channel(1);
    let (release, released) = sync_channel::<()>(0);
    // Stands for a driver that does not answer: this is where the thread is until the test is over.
    let sink = move |_| {
        reached.try_send(()).ok();
        released.recv().ok();
    };
    let clock = Arc::new(MonotonicClock::new());
    let sampler = Sampler::start(Some(library.as_os_str()), &Which::All, Micros::from_ms(5.0), clock, sink).unwrap();
    reaches.recv_timeout(ROUND_MAX).unwrap();
    // Without a bound this test hangs.
    drop(sampler);
    drop(release);
}
