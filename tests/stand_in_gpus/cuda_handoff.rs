//! KV moved between virtual GPUs: each class of copy between memory of two processes, what goes wrong in the middle, and whole runs of
//! `dual_pool`.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::unistd::Pid;

use dualpool_cuda::Driver;
use dualpool_cuda::kernels::nvrtc;
use dualpool_engine::virtual_engine::kv::{Content, KvPlace, Shape, Store};
use dualpool_kv::wire::MemoryKind;
use dualpool_kv::{
    BlockPair, ByteRange, ClassCost, CopyClass, CudaTransport, KernelSettings, KvMap, LinkCost, Memory, Stop, Transport,
    TransportError, copy_plan,
};
use dualpool_types::{BlockId, EngineId, Program};

use crate::support::own_process::{on_virtual_gpus, with_gpus};
use crate::support::program::{self, text};

const A: EngineId = EngineId(0);
const B: EngineId = EngineId(1);
/// Large enough for several parts of every class.
const SHAPE: Shape = Shape { block_size: 2048, blocks: 200 };

// --- The transport ---------------------------------------------------------------------------------------------------------------

/// Two engines' memory on GPUs, each held by a process, and the transport between them.
struct Pair {
    transport: CudaTransport,
    stores: [Store; 2],
    plan: Vec<ByteRange>,
    /// What must stand in the target's blocks.
    expected: Vec<Content>,
}

impl Pair {
    /// Every third block of A goes to every second one of B, with a few neighbours among them.
    fn new() -> Pair {
        let gpus = Driver::load().unwrap().devices().unwrap();
        let program = Program { path: env!("CARGO_BIN_EXE_dualpool").into(), arguments: vec![] };
        let place = |i: usize| KvPlace::Gpu { uuid: gpus[i % gpus.len()].uuid, program: program.clone() };
        let mut stores = [0, 1].map(|i| Store::open(&place(i), SHAPE).unwrap());
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let kernels = KernelSettings { nvrtc_folders: nvrtc::folders(Some(&root.join(".venv"))), ..KernelSettings::default() };
        let mut transport = CudaTransport::new(kernels);
        let maps = [A, B].map(|engine| KvMap::new(engine, SHAPE.register(stores[engine.index()].kind())).unwrap());
        for engine in [A, B] {
            transport.map(engine, memory(&stores[engine.index()])).unwrap();
        }
        let pair = |i: u32| BlockPair { source: BlockId(i * 3 % SHAPE.blocks), target: BlockId(i * 2) };
        let neighbour = |i: u32| BlockPair { source: BlockId(180 + i), target: BlockId(190 + i) };
        let pairs: Vec<BlockPair> = (0..60).map(pair).chain((0..8).map(neighbour)).collect();
        let content = |pair: &BlockPair| Content { block: pair.source, seed: u64::from(pair.target.0) + 7 };
        stores[0].fill(&pairs.iter().map(content).collect::<Vec<_>>()).unwrap();
        let expected = pairs.iter().map(|pair| Content { block: pair.target, ..content(pair) }).collect();
        Pair { transport, stores, plan: copy_plan(&maps[0], &maps[1], &[pairs]).unwrap(), expected }
    }

    fn wrong(&mut self) -> Option<BlockId> {
        let expected = self.expected.clone();
        self.stores[1].wrong(&expected).unwrap()
    }

    /// Spoils what was copied, so that the next copy has to do it again.
    fn spoil(&mut self) {
        let spoilt: Vec<Content> = self.expected.iter().map(|content| Content { seed: 1, ..*content }).collect();
        self.stores[1].fill(&spoilt).unwrap();
        assert!(self.wrong().is_some());
    }

    fn every_class_brings_all_bytes(&mut self, classes: &[CopyClass]) {
        assert_eq!(self.transport.classes(A, B).unwrap(), classes);
        for &class in classes {
            self.spoil();
            self.transport.copy_as(class, &self.plan, A, B, &Stop::default()).unwrap();
            assert_eq!(self.wrong(), None, "class {class}");
            let mut sum = |engine, ranges: Vec<(u64, u64)>| {
                self.transport.checksum(engine, &mut ranges.into_iter(), &Stop::default()).unwrap()
            };
            let source = sum(A, self.plan.iter().map(|span| (span.source, span.length)).collect());
            assert_eq!(source, sum(B, self.plan.iter().map(|span| (span.target, span.length)).collect()), "class {class}");
        }
        self.spoil();
        self.transport.copy(&self.plan, A, B, &Stop::default()).unwrap();
        assert_eq!(self.wrong(), None, "the class of its own choice");
    }
}

fn memory(store: &Store) -> Memory {
    let MemoryKind::Cuda { uuid, segments } = store.kind() else { panic!("not GPU memory") };
    Memory::Cuda { segments: segments.iter().map(|segment| segment.ipc(uuid).unwrap()).collect() }
}

on_virtual_gpus! {
    /// Work on a GPU takes its time here, and streams go their own ways: a wait that is missing leaves bytes behind.
    fn every_class_between_two_gpus(r#"{"gpus":2,"delay_us":300}"#) {
        Pair::new().every_class_brings_all_bytes(&CopyClass::ALL);
    }

    fn every_class_within_one_gpu(r#"{"gpus":1,"delay_us":300}"#) {
        Pair::new().every_class_brings_all_bytes(&[CopyClass::Direct, CopyClass::PeerStore, CopyClass::ThroughHost]);
    }

    fn through_the_host_where_gpus_cannot_reach_each_other(r#"{"gpus":2,"peers":false,"delay_us":300}"#) {
        let mut pair = Pair::new();
        pair.every_class_brings_all_bytes(&[CopyClass::ThroughHost]);
        let error = pair.transport.copy_as(CopyClass::Direct, &pair.plan, A, B, &Stop::default()).unwrap_err();
        assert!(matches!(error, TransportError::NoSuchClass { class: CopyClass::Direct, .. }), "{error}");
        let unknown = pair.transport.classes(A, EngineId(9)).unwrap_err();
        assert!(matches!(unknown, TransportError::NotMapped { engine: EngineId(9) }), "{unknown}");
    }

    fn through_the_host_where_gpus_have_no_peer_to_spare(r#"{"gpus":2,"peers_max":0}"#) {
        Pair::new().every_class_brings_all_bytes(&[CopyClass::ThroughHost]);
    }

    fn ctrl_c_leaves_the_memory_to_the_engines("{}") {
        // A group as a shell makes one: the signal reaches this process and its children, and no other process.
        nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).unwrap();
        let mut pair = Pair::new();
        // SAFETY: ignoring a signal runs no code. Only now, as children would inherit it.
        unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }.unwrap();
        killpg(nix::unistd::getpgrp(), Signal::SIGINT).unwrap();
        pair.every_class_brings_all_bytes(&CopyClass::ALL);
    }

    fn a_driver_without_the_batch_call(r#"{"driver":12000,"gpus":2}"#) {
        Pair::new().every_class_brings_all_bytes(&CopyClass::ALL);
    }
}

on_virtual_gpus! {
    /// The processes that hold the memory have the fault, too, but make fewer copies in all.
    fn a_copy_that_is_refused_is_tried_once_more(r#"{"faults":[{"copy":400,"does":"refuse"}]}"#) {
        let mut pair = Pair::new();
        let mut copy = |class: Option<CopyClass>| match class {
            Some(class) => pair.transport.copy_as(class, &pair.plan, A, B, &Stop::default()),
            None => pair.transport.copy(&pair.plan, A, B, &Stop::default()),
        };
        // All of this without the one copy that is refused.
        for _ in 0..390 {
            copy(Some(CopyClass::Direct)).unwrap();
        }
        for _ in 0..20 {
            copy(None).unwrap();
        }
        assert_eq!(pair.wrong(), None);
    }

    fn a_copy_that_is_refused_in_a_given_class_fails(r#"{"faults":[{"copy":400,"does":"refuse"}]}"#) {
        let mut pair = Pair::new();
        let mut copy = || pair.transport.copy_as(CopyClass::Direct, &pair.plan, A, B, &Stop::default());
        let errors: Vec<String> = (0..410).filter_map(|_| copy().err()).map(|error| error.to_string()).collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("engine-0") && errors[0].contains("CUDA_ERROR"), "{errors:?}");
        assert_eq!(pair.wrong(), None);
    }

    /// The GPUs have room for the KV, and none for staging memory.
    fn a_class_whose_memory_cannot_be_had_is_left_out(r#"{"memory_mib":64}"#) {
        let mut pair = Pair::new();
        assert_eq!(pair.transport.classes(A, B).unwrap(), CopyClass::ALL);
        let submit_us = |class: CopyClass| if class == CopyClass::Staged { 1.0 } else { 1e6 };
        let cost = |class: CopyClass| ClassCost { submit_us: submit_us(class), range_us: 0.0, bytes_per_s: 1e12 };
        let costs = CopyClass::ALL.map(|class| (class, cost(class)));
        pair.transport.set_cost(A, B, LinkCost::new(costs.into()).unwrap());
        pair.transport.copy(&pair.plan, A, B, &Stop::default()).unwrap();
        assert_eq!(pair.wrong(), None, "it goes in another class");
        pair.every_class_brings_all_bytes(&[CopyClass::Direct, CopyClass::PeerStore, CopyClass::ThroughHost]);
        let error = pair.transport.copy_as(CopyClass::Staged, &pair.plan, A, B, &Stop::default()).unwrap_err();
        assert!(matches!(error, TransportError::NoSuchClass { class: CopyClass::Staged, .. }), "it is not asked for again: {error}");
    }

    fn a_gpu_that_is_lost_in_the_middle_is_named_and_not_asked_again(r#"{"faults":[{"copy":400,"does":"break"}]}"#) {
        let mut pair = Pair::new();
        let mut results = (0..410).map(|_| pair.transport.copy_as(CopyClass::Direct, &pair.plan, A, B, &Stop::default()));
        let error = results.find_map(Result::err).unwrap();
        assert!(matches!(&error, TransportError::Failed { from: A, to: B, why } if why.contains("CUDA_ERROR")), "{error}");
        assert!(results.all(|result| result.is_err()), "a lost context stays lost");
        drop(results);
        assert!(pair.transport.copy(&pair.plan, A, B, &Stop::default()).is_err());
    }

    fn a_stopped_copy_answers_when_nothing_touches_the_memory_any_more(r#"{"gpus":2,"hold":"gate"}"#) {
        // Copies are held back until there is a file `gate` in the working folder.
        let folder = tempfile::tempdir().unwrap();
        std::env::set_current_dir(&folder).unwrap();
        let Pair { mut transport, plan, stores: _stores, .. } = Pair::new();
        let stop = Arc::new(Stop::default());
        let stops = stop.clone();
        let copying = std::thread::spawn(move || transport.copy_as(CopyClass::Direct, &plan, A, B, &stops));
        std::thread::sleep(Duration::from_millis(50));
        stop.set();
        std::thread::sleep(Duration::from_millis(100));
        assert!(!copying.is_finished(), "the copy is on its way, and its answer would let the engine use the blocks");
        std::fs::write("gate", "").unwrap();
        let result = copying.join().unwrap();
        assert!(matches!(result, Err(TransportError::Stopped)), "{result:?}");
    }
}

// --- Whole runs ------------------------------------------------------------------------------------------------------------------

/// A small run over virtual engines whose KV lies on virtual GPUs.
fn run(name: &str, script: &str, folder: &Path) -> Output {
    let target = ["run", "dual_pool", "--device", "virtual", "--out", "run", "--verify-kv", "--repetitions", "1"];
    let mut command = program::dualpool(folder, &target);
    command.args(["--arms", "shared_round_robin,full_disaggregation", "--rate", "60"]);
    command.args(["--prefill-burst", "2", "--decode-requests", "10", "--continue-requests", "0"]);
    command.env("DUALPOOL_VIRTUAL__KV", "cuda").env("DUALPOOL_VIRTUAL__SPEED", "20").env("DUALPOOL_TELEMETRY__LOG", "info");
    with_gpus(&mut command, name, script)
}

/// Every hand-off was a copy by the KV server whose bytes the engine found right.
#[track_caller]
fn assert_all_moved(output: &Output, folder: &Path) {
    let log = text(&output.stderr);
    assert!(output.status.success(), "{log}");
    let summary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("run/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["held_blocks_after"], 0);
    let arms = summary["arms"].as_array().unwrap();
    let arm = arms.iter().find(|arm| arm["name"] == "full_disaggregation").unwrap();
    assert_eq!((&arm["handoffs"]["count"], &arm["handoffs"]["recomputed"]), (&arm["requests"], &0.into()), "{log}");
    assert!(arm["handoffs"]["bytes"].as_u64().unwrap() > 0);
    let same = &summary["identical_requests"]["full_disaggregation"];
    assert_eq!(same["same"], same["compared"], "{same}");
}

#[test]
fn a_run_moves_every_plan_between_gpus() {
    let folder = tempfile::tempdir().unwrap();
    // CUDA counts the GPUs the other way round than NVML does.
    let output = run("a-run", r#"{"gpus":2,"order":[1,0],"delay_us":100}"#, folder.path());
    assert_all_moved(&output, folder.path());
    assert!(text(&output.stderr).contains("is copied in class direct (by rule of thumb"), "{}", text(&output.stderr));
}

#[test]
fn a_run_moves_every_plan_within_one_gpu() {
    let folder = tempfile::tempdir().unwrap();
    assert_all_moved(&run("one-gpu", r#"{"gpus":1}"#, folder.path()), folder.path());
}

#[test]
fn a_run_without_peer_access_goes_through_the_host_and_says_so_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = run("no-peers", r#"{"gpus":2,"peers":false}"#, folder.path());
    assert_all_moved(&output, folder.path());
    let log = text(&output.stderr);
    assert_eq!(log.matches("have no access to each other's memory").count(), 1, "{log}");
}

#[test]
fn what_cannot_work_is_named_before_anything_is_copied() {
    let refused = |name: &str, script: &str, words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let output = run(name, script, folder.path());
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        for word in words {
            assert!(log.contains(word), "`{word}` is missing in: {log}");
        }
    };
    refused("too-old", r#"{"driver":11040}"#, &["CUDA 11.4", "CUDA 12.0"]);
    refused("no-gpus", r#"{"gpus":0}"#, &["virtual.kv", "shm"]);
    refused("expandable", r#"{"expandable":true}"#, &["engine-0", "expandable segments"]);
}
