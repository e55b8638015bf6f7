//! The device layer against virtual GPUs.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use cudarc::driver::sys;

use dualpool_cuda::{
    Context, CopyRange, CudaError, CudaVersion, DeviceMemory, DeviceSpan, Driver, IpcHandle, KernelArgs, LaunchShape, Module,
    Ordinal, Stream, Timing, measure_peer_bandwidth,
};
use dualpool_types::Bytes;

use crate::support::fake_cuda::{FakeCuda, LIBRARY_NAMES, load_from};
use crate::support::own_process::{assert_passed, left_behind, machine, of_test, on_virtual_gpus, once_more};

const KIB: u64 = 1024;
/// What the first process tells the second one, where a test needs two.
const TOLD: &str = "CUDA_DEVICE_TEST_TOLD";
/// Set in the process that has no driver.
const HIDDEN: &str = "CUDA_DEVICE_TEST_HIDDEN";

/// A context on the n-th GPU.
fn context(ordinal: usize) -> Context {
    Context::retain(&Driver::load().unwrap().devices().unwrap()[ordinal]).unwrap()
}

/// Bytes that differ from place to place.
fn pattern(bytes: u64, seed: u64) -> Vec<u8> {
    (0..bytes).map(|i| ((i * 31 + seed * 101) >> 3) as u8).collect()
}

fn filled(stream: &Stream, bytes: &[u8]) -> DeviceMemory {
    let memory = stream.context().allocate(Bytes(bytes.len() as u64)).unwrap();
    stream.write(memory.whole(), bytes).unwrap();
    memory
}

// --- Finding the driver ---------------------------------------------------------------------------------------------------------

#[test]
fn without_a_driver_nothing_breaks() {
    if std::env::var_os(HIDDEN).is_some() {
        assert_eq!(Driver::load().unwrap_err(), CudaError::NoDriver);
        assert!(CudaError::NoDriver.to_string().contains("libcuda.so.1"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in LIBRARY_NAMES {
        // Hides the driver that this machine may have.
        std::fs::write(folder.path().join(name), "no library").unwrap();
    }
    let mut command = of_test(module_path!(), "without_a_driver_nothing_breaks");
    load_from(folder.path(), &mut command);
    assert_passed(&command.env(HIDDEN, "1").output().unwrap());
}

on_virtual_gpus! {
    fn a_driver_that_is_too_old_is_named(r#"{"driver":11040}"#) {
        let error = Driver::load().unwrap_err();
        assert!(matches!(error, CudaError::DriverTooOld { found: CudaVersion(11_040), .. }), "{error}");
        assert!(error.to_string().contains("11.4") && error.to_string().contains("12.0"), "{error}");
    }

    fn a_driver_without_a_gpu_is_no_error(r#"{"gpus":0}"#) {
        assert_eq!(Driver::load().unwrap().devices(), Ok(vec![]));
    }

    fn sixteen_gpus_are_sixteen_gpus(r#"{"gpus":16}"#) {
        let devices = Driver::load().unwrap().devices().unwrap();
        assert_eq!((devices.len(), devices[15].pci_bus_id.as_str()), (16, "0000:1F:00.0"));
        let (first, last) = (context(0), context(15));
        first.enable_peer(&last).unwrap();
        assert!(filled(&last.stream().unwrap(), b"16").export().is_ok());
    }

    fn gpus_are_found_by_uuid_whatever_their_ordinals(r#"{"gpus":3,"order":[2,0,1]}"#) {
        let driver = Driver::load().unwrap();
        let devices = driver.devices().unwrap();
        let uuids: Vec<String> = devices.iter().map(|device| device.uuid.to_string()).collect();
        assert_eq!(uuids, [2, 0, 1].map(|n| format!("GPU-00000000-0000-0000-0000-{n:012x}")));
        let last = driver.device(uuids[1].parse().unwrap()).unwrap();
        assert_eq!((last.ordinal, last.pci_bus_id.as_str(), last.name.as_str()), (Ordinal(1), "0000:10:00.0", "Virtual GPU 0"));
        assert_eq!((last.memory, last.compute_capability.to_string().as_str()), (Bytes::from_mib(256), "9.0"));
        let error = driver.device("GPU-00000000-0000-0000-0000-0000000000ff".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("0000000000ff") && error.to_string().contains(&uuids[0]), "{error}");
    }
}

// --- Memory ---------------------------------------------------------------------------------------------------------------------

on_virtual_gpus! {
    fn memory_is_counted_and_given_back(r#"{"memory_mib":8}"#) {
        let context = context(0);
        assert_eq!(context.memory().unwrap(), (Bytes::from_mib(8), Bytes::from_mib(8)));
        let held = context.allocate(Bytes::from_mib(6)).unwrap();
        assert_eq!(context.memory().unwrap().0, Bytes::from_mib(2));
        let error = context.allocate(Bytes::from_mib(3)).unwrap_err();
        assert!(error.code().unwrap().is_out_of_memory() && error.to_string().contains("cuMemAlloc"), "{error}");
        drop(held);
        assert!(context.allocate(Bytes::from_mib(8)).is_ok());
    }

    fn nothing_outside_of_a_memory_can_be_named("{}") {
        let context = context(0);
        let (stream, memory) = (context.stream().unwrap(), context.allocate(Bytes(4 * KIB)).unwrap());
        let span = memory.span(KIB, 2 * KIB).unwrap();
        for (offset, bytes) in [(0, 4 * KIB + 1), (4 * KIB, 1), (u64::MAX, 2)] {
            assert!(matches!(memory.span(offset, bytes), Err(CudaError::OutOfBounds { .. })), "{offset} {bytes}");
        }
        assert!(span.span(KIB, KIB).is_ok() && span.span(KIB, KIB + 1).is_err());
        assert!(matches!(stream.copy_async(memory.whole(), span), Err(CudaError::LengthsDiffer { .. })));
        assert!(stream.write(span, b"short").is_err());
        let pinned = context.pinned(Bytes(KIB)).unwrap();
        assert!(matches!(stream.copy_to_pinned_async(&pinned, 1, span.span(0, KIB).unwrap()), Err(CudaError::OutOfBounds { .. })));
    }

    fn bytes_go_to_the_gpu_and_back("{}") {
        let context = context(0);
        let stream = context.stream().unwrap();
        let bytes = pattern(10_001, 1);
        let memory = filled(&stream, &bytes);
        assert_eq!(stream.read(memory.whole()).unwrap(), bytes);
        stream.fill_async(memory.span(1, 3).unwrap(), 0xee).unwrap();
        assert_eq!(stream.read(memory.span(0, 5).unwrap()).unwrap(), [bytes[0], 0xee, 0xee, 0xee, bytes[4]]);
    }
}

// --- Copies ---------------------------------------------------------------------------------------------------------------------

/// Every kind of copy between two GPUs (and within one), with whatever the driver has for batches.
fn all_copies_arrive(batches: &str) {
    let (a, b) = (context(0), context(1));
    assert_eq!(format!("{:?}", a.driver().batch_copies()), batches);
    a.enable_peer(&b).unwrap();
    a.enable_peer(&b).unwrap();
    let (stream, there) = (a.stream().unwrap(), b.stream().unwrap());
    let bytes = pattern(64 * KIB, 2);
    let source = filled(&stream, &bytes);

    let local = filled(&stream, &vec![0; bytes.len()]);
    stream.copy_async(local.whole(), source.whole()).unwrap();
    assert_eq!(stream.read(local.whole()).unwrap(), bytes);

    let peer = filled(&there, &vec![0; bytes.len()]);
    stream.copy_peer_async(peer.whole(), source.whole()).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(there.read(peer.whole()).unwrap(), bytes);

    let scattered = filled(&there, &vec![0; bytes.len()]);
    // In reverse order, with an empty range, and of every length.
    let piece = 7;
    let place = |i: u64| (i * piece, piece.min(64 * KIB - i * piece));
    let ranges = (0..(64 * KIB).div_ceil(piece)).rev().map(place).chain([(0, 0)]);
    let range = |(at, bytes)| CopyRange { to: scattered.span(at, bytes).unwrap(), from: source.span(at, bytes).unwrap() };
    let ranges: Vec<CopyRange> = ranges.map(range).collect();
    stream.copy_batch_async(&ranges).unwrap();
    stream.copy_batch_async(&[]).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(there.read(scattered.whole()).unwrap(), bytes);
}

on_virtual_gpus! {
    fn copies_arrive_with_a_driver_that_has_no_batches(r#"{"driver":12040}"#) {
        all_copies_arrive("one call per range");
    }

    fn copies_arrive_with_the_first_form_of_batches(r#"{"driver":12080}"#) {
        all_copies_arrive("cuMemcpyBatchAsync");
    }

    fn copies_arrive_with_the_second_form_of_batches(r#"{"driver":13000}"#) {
        all_copies_arrive("cuMemcpyBatchAsync_v2");
    }

    fn without_peer_access_bytes_go_through_host_memory(r#"{"peers":false}"#) {
        let (a, b) = (context(0), context(1));
        assert_eq!(a.device().can_access(b.device()), Ok(false));
        let error = a.enable_peer(&b).unwrap_err();
        assert!(matches!(&error, CudaError::NoPeerAccess { .. }) && error.to_string().contains("host memory"), "{error}");
        let (here, there) = (a.stream().unwrap(), b.stream().unwrap());
        let bytes = pattern(8 * KIB, 3);
        let (source, target) = (filled(&here, &bytes), filled(&there, &vec![0; bytes.len()]));
        let range = CopyRange { to: target.whole(), from: source.whole() };
        assert!(matches!(here.copy_batch_async(&[range]), Err(CudaError::BatchRefused { index: 0, count: 1, .. })));
        let (pinned, arrived) = (a.pinned(Bytes(8 * KIB)).unwrap(), a.event(Timing::Off).unwrap());
        here.copy_to_pinned_async(&pinned, 0, source.whole()).unwrap();
        arrived.record(&here).unwrap();
        there.wait(&arrived).unwrap();
        there.copy_from_pinned_async(target.whole(), &pinned, 0).unwrap();
        assert_eq!(there.read(target.whole()).unwrap(), bytes);
    }
}

on_virtual_gpus! {
    fn one_peer_too_many_is_no_peer_access(r#"{"gpus":3,"peers_max":1}"#) {
        let [a, b, c] = [0, 1, 2].map(context);
        a.enable_peer(&b).unwrap();
        assert_eq!(a.device().can_access(c.device()), Ok(true), "the platform could");
        let error = a.enable_peer(&c).unwrap_err();
        assert!(matches!(&error, CudaError::NoPeerAccess { .. }) && error.to_string().contains("or no more of it"), "{error}");
        a.enable_peer(&b).unwrap();
    }
}

// --- Order ----------------------------------------------------------------------------------------------------------------------

on_virtual_gpus! {
    fn a_missing_wait_shows(r#"{"hold":"gate"}"#) {
        // Copies are held back until there is a file `gate` in the working folder.
        let folder = tempfile::tempdir().unwrap();
        std::env::set_current_dir(&folder).unwrap();
        let context = context(0);
        let (copying, looking) = (context.stream().unwrap(), context.stream().unwrap());
        let (old, new) = (pattern(KIB, 4), pattern(KIB, 5));
        let (source, target) = (filled(&looking, &new), filled(&looking, &old));
        let done = context.event(Timing::Off).unwrap();
        copying.copy_async(target.whole(), source.whole()).unwrap();
        done.record(&copying).unwrap();
        // The test does not wait for the copy, so it reads what was there before.
        assert_eq!((done.is_done(), copying.is_done()), (Ok(false), Ok(false)));
        assert_eq!(looking.read(target.whole()).unwrap(), old);
        std::fs::write("gate", "").unwrap();
        looking.wait(&done).unwrap();
        assert_eq!(looking.read(target.whole()).unwrap(), new);
        assert_eq!(done.is_done(), Ok(true));
    }

    // Nothing here makes events for other processes, but a Python engine may: what it would get is right.
    fn an_event_of_another_process_is_waited_for(r#"{"hold":"gate"}"#) {
        if let Ok(told) = std::env::var(TOLD) {
            return wait_for_event(&told);
        }
        let folder = tempfile::tempdir().unwrap();
        std::env::set_current_dir(&folder).unwrap();
        let context = context(0);
        let (stream, memory) = (context.stream().unwrap(), context.allocate(Bytes(KIB)).unwrap());
        context.bind().unwrap();
        let flags = sys::CUevent_flags::CU_EVENT_INTERPROCESS as u32 | sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        let (mut event, mut handle) = (std::ptr::null_mut(), sys::CUipcEventHandle { reserved: [0; 64] });
        stream.fill_async(memory.whole(), 1).unwrap();
        // SAFETY: a context is current, its default stream is the null one, and what is written to outlives the calls.
        let answers = unsafe {
            let created = sys::cuEventCreate(&mut event, flags);
            let shared = sys::cuIpcGetEventHandle(&mut handle, event);
            [created, shared, sys::cuMemsetD8Async(memory.ptr().0, 2, 1, std::ptr::null_mut()), sys::cuEventRecord(event, std::ptr::null_mut())]
        };
        assert_eq!(answers, [sys::CUresult::CUDA_SUCCESS; 4]);
        let told: Vec<String> = handle.reserved.iter().map(i8::to_string).collect();
        assert_passed(&once_more().env(TOLD, told.join(",")).output().unwrap());
        // SAFETY: created above, destroyed once.
        assert_eq!(unsafe { sys::cuEventDestroy_v2(event) }, sys::CUresult::CUDA_SUCCESS);
    }

    fn events_tell_the_time_between_them(r#"{"delay_us":3000}"#) {
        let context = context(0);
        let (stream, memory) = (context.stream().unwrap(), context.allocate(Bytes(KIB)).unwrap());
        let events = [context.event(Timing::On).unwrap(), context.event(Timing::On).unwrap()];
        events[0].record(&stream).unwrap();
        stream.fill_async(memory.whole(), 1).unwrap();
        events[1].record(&stream).unwrap();
        events[1].wait_here().unwrap();
        // The fill cannot take less than the script says.
        assert!(events[1].ms_since(&events[0]).unwrap() >= 3.0);
        let untimed = context.event(Timing::Off).unwrap();
        untimed.record(&stream).unwrap();
        stream.synchronize().unwrap();
        assert!(untimed.ms_since(&events[0]).unwrap_err().to_string().contains("cuEventElapsedTime"));
    }
}

on_virtual_gpus! {
    fn bandwidth_is_measured_by_the_gpus_clock(r#"{"delay_us":2000}"#) {
        let devices = Driver::load().unwrap().devices().unwrap();
        let measured = measure_peer_bandwidth(&devices[0], &devices[1], Bytes::from_mib(1)).unwrap();
        // No copy can take less than the script says.
        assert!(measured.peer_access && measured.ms >= 2.0, "{measured:?}");
        assert!(measured.bytes_per_s().unwrap() <= (1 << 20) as f64 / 2e-3, "{measured:?}");
    }

    fn bandwidth_through_host_memory_says_so(r#"{"peers":false}"#) {
        let devices = Driver::load().unwrap().devices().unwrap();
        assert!(!measure_peer_bandwidth(&devices[0], &devices[1], Bytes::from_mib(1)).unwrap().peer_access);
    }
}

/// The second process: sees an event of the first that is not reached, lets it be reached, and waits for it.
fn wait_for_event(told: &str) {
    let context = context(0);
    context.bind().unwrap();
    let mut handle = sys::CUipcEventHandle { reserved: [0; 64] };
    handle.reserved.iter_mut().zip(told.split(',')).for_each(|(byte, text)| *byte = text.parse().unwrap());
    let mut event = std::ptr::null_mut();
    // SAFETY: a context is current, and `event` outlives the call.
    assert_eq!(unsafe { sys::cuIpcOpenEventHandle(&mut event, handle) }, sys::CUresult::CUDA_SUCCESS);
    // SAFETY: the event is open, here and below.
    assert_eq!(unsafe { sys::cuEventQuery(event) }, sys::CUresult::CUDA_ERROR_NOT_READY);
    std::fs::write("gate", "").unwrap();
    // SAFETY: as above; destroyed once.
    let answers = unsafe { [sys::cuEventSynchronize(event), sys::cuEventQuery(event), sys::cuEventDestroy_v2(event)] };
    assert_eq!(answers, [sys::CUresult::CUDA_SUCCESS; 3]);
}

// --- Failures -------------------------------------------------------------------------------------------------------------------

/// The i-th KiB of a memory.
fn kib(memory: &DeviceMemory, i: u64) -> DeviceSpan<'_> {
    memory.span(i * KIB, KIB).unwrap()
}

on_virtual_gpus! {
    fn a_refused_copy_is_an_error_and_the_next_one_works(r#"{"faults":[{"copy":3,"does":"refuse"}]}"#) {
        let context = context(1);
        let stream = context.stream().unwrap();
        let bytes = pattern(KIB, 6);
        let (source, target) = (filled(&stream, &bytes), filled(&stream, &vec![0; 1024]));
        let error = stream.copy_async(target.whole(), source.whole()).unwrap_err();
        let text = error.to_string();
        assert!(["cuMemcpyDtoDAsync", "GPU 1", "000000000001", "CUDA_ERROR_INVALID_VALUE"].iter().all(|word| text.contains(word)), "{text}");
        assert!(!error.is_sticky());
        stream.copy_async(target.whole(), source.whole()).unwrap();
        assert_eq!(stream.read(target.whole()).unwrap(), bytes);
    }

    fn a_batch_that_ends_in_the_middle_names_the_range(r#"{"faults":[{"copy":3,"does":{"refuse_range":2}}]}"#) {
        let context = context(0);
        let stream = context.stream().unwrap();
        let bytes = pattern(4 * KIB, 7);
        let (source, target) = (filled(&stream, &bytes), filled(&stream, &vec![0; 4096]));
        let ranges: Vec<CopyRange> = (0..4).map(|i| CopyRange { to: kib(&target, i), from: kib(&source, i) }).collect();
        let error = stream.copy_batch_async(&ranges).unwrap_err();
        assert!(matches!(error, CudaError::BatchRefused { index: 2, count: 4, .. }), "{error}");
        // The ranges before it were on their way.
        let arrived = stream.read(target.whole()).unwrap();
        assert_eq!((&arrived[..2048], &arrived[2048..]), (&bytes[..2048], &[0; 2048][..]));
        stream.copy_batch_async(&ranges).unwrap();
        assert_eq!(stream.read(target.whole()).unwrap(), bytes);
    }

    fn a_copy_that_breaks_while_it_runs_shows_at_the_event(r#"{"faults":[{"copy":3,"does":"break"}]}"#) {
        let (lost, other) = (context(0), context(1));
        let stream = lost.stream().unwrap();
        let (source, target) = (filled(&stream, &[1; 64]), filled(&stream, &[0; 64]));
        let done = lost.event(Timing::Off).unwrap();
        stream.copy_async(target.whole(), source.whole()).unwrap();
        // The copy may have broken by now, and then it is this call that says so.
        let error = done.record(&stream).and_then(|()| done.wait_here()).unwrap_err();
        assert!(error.is_sticky() && error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
        assert!(stream.copy_async(target.whole(), source.whole()).unwrap_err().is_sticky());
        let well = other.stream().unwrap();
        assert_eq!(well.read(filled(&well, &[5; 8]).whole()).unwrap(), [5; 8]);
    }
}

// --- Other processes ------------------------------------------------------------------------------------------------------------

on_virtual_gpus! {
    fn memory_of_another_process_is_copied_from_and_to(r#"{"order":[1,0]}"#) {
        if let Ok(told) = std::env::var(TOLD) {
            return import(&serde_json::from_str(&told).unwrap());
        }
        let context = context(0);
        let stream = context.stream().unwrap();
        let memory = filled(&stream, &pattern(64 * KIB, 8));
        // As an engine's KV memory may be: a part of a larger allocation.
        let handle = context.export(memory.span(8 * KIB, 32 * KIB).unwrap().ptr(), Bytes(32 * KIB)).unwrap();
        assert_eq!((handle.offset, handle.gpu), (Bytes(8 * KIB), context.device().uuid));
        let error = context.import(&handle).unwrap_err();
        assert!(matches!(error, CudaError::OwnMemory { .. }), "{error}");
        let told = serde_json::to_string(&handle).unwrap();
        assert_passed(&once_more().env(TOLD, told).output().unwrap());
        let mut expected = pattern(64 * KIB, 8);
        expected[8 * 1024..9 * 1024].fill(0xab);
        assert_eq!(stream.read(memory.whole()).unwrap(), expected);
    }

    fn expandable_segments_are_refused_with_the_mend(r#"{"expandable":true}"#) {
        // More than the one piece of it that the driver tells about.
        let error = context(0).allocate(Bytes::from_mib(3)).unwrap().export().unwrap_err();
        assert!(matches!(error, CudaError::NotExportable { .. }), "{error}");
        assert!(error.to_string().contains("expandable_segments:False"), "{error}");
    }

    fn what_a_killed_process_leaves_is_removed_by_the_next("{}") {
        if std::env::var(TOLD).is_ok() {
            let _held = context(0).allocate(Bytes::from_mib(1)).unwrap();
            // SAFETY: ends this process, as from outside.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        let machine = machine().unwrap();
        let killed = once_more().env(TOLD, "die").output().unwrap();
        assert_eq!((killed.status.signal(), left_behind(&machine)), (Some(libc::SIGKILL), 1));
        let (free, total) = context(0).memory().unwrap();
        assert_eq!((free, left_behind(&machine)), (total, 0));
    }
}

/// The second process: copies the other's memory to the other GPU, and changes some of it.
fn import(handle: &IpcHandle) {
    let driver = Driver::load().unwrap();
    let owner = Context::retain(&driver.device(handle.gpu).unwrap()).unwrap();
    let stream = context(1).stream().unwrap();
    assert!(!stream.context().same_gpu(&owner));
    let theirs = owner.import(handle).unwrap();
    let ours = stream.context().allocate(handle.size).unwrap();
    stream.copy_peer_async(ours.whole(), theirs.span(0, handle.size.0).unwrap()).unwrap();
    assert_eq!(stream.read(ours.whole()).unwrap(), pattern(64 * KIB, 8)[8 * 1024..40 * 1024]);
    stream.fill_async(ours.span(0, KIB).unwrap(), 0xab).unwrap();
    stream.copy_peer_async(theirs.span(0, KIB).unwrap(), ours.span(0, KIB).unwrap()).unwrap();
    stream.synchronize().unwrap();
    assert!(theirs.span(1, handle.size.0).is_err());
    // A size that the owner does not have is seen at the import.
    let mut too_large = handle.clone();
    too_large.size = Bytes(60 * KIB);
    assert!(matches!(owner.import(&too_large), Err(CudaError::OutOfBounds { .. })));
    // From a kernel's point of view: the same memory, imported by the GPU that stores into it.
    assert!(stream.context().import(handle).is_ok());
}

// --- Kernels --------------------------------------------------------------------------------------------------------------------

on_virtual_gpus! {
    fn a_kernel_is_loaded_found_and_launched("{}") {
        let context = context(0);
        let stream = context.stream().unwrap();
        let module = Module::load(&context, b".visible .entry kv_gather() {}").unwrap();
        let gather = module.function(c"kv_gather").unwrap();
        assert!(module.function(c"kv_scatter").unwrap_err().to_string().contains("CUDA_ERROR_NOT_FOUND"));
        let memory = filled(&stream, &pattern(KIB, 9));
        let staging = filled(&stream, &[0; 48]);
        // Two ranges: where from, where to, and the bytes before.
        let ranges = [[100u64, 16, 0], [500, 0, 32]].concat();
        let ranges = filled(&stream, &ranges.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
        let (count, bytes, tile) = (2, 48, 16);
        let args = KernelArgs::new().ptr(memory.ptr()).ptr(staging.ptr()).ptr(ranges.ptr()).value(count).value(bytes).value(tile);
        // SAFETY: the six arguments of `kv_gather`, and all ranges lie within the two memories.
        unsafe { stream.launch(&gather, LaunchShape { blocks: 1, threads: 512, shared_bytes: 0 }, args) }.unwrap();
        let source = pattern(KIB, 9);
        assert_eq!(stream.read(staging.whole()).unwrap(), [&source[500..516], &source[100..132]].concat());
    }

    fn an_image_that_the_gpu_does_not_take_is_an_error("{}") {
        let error = Module::load(&context(0), b".visible .entry other() {}").unwrap_err();
        assert!(matches!(error, CudaError::Module { .. }) && error.to_string().contains("GPU 0"), "{error}");
    }
}

// --- The program ----------------------------------------------------------------------------------------------------------------

#[test]
fn the_doctor_tells_what_cuda_has() {
    let cuda = FakeCuda::new();
    let doctor = |script: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dualpool"));
        cuda.for_command(command.args(["doctor", "--device", "virtual"]), script);
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        output.lines().skip_while(|line| !line.contains(" CUDA ")).take(2).collect::<Vec<_>>().join("\n")
    };
    let well = doctor(r#"{"gpus":3,"driver":13000}"#);
    assert!(well.starts_with("ok") && well.contains("CUDA 13.0, 3 GPUs that access each other's memory"), "{well}");
    let apart = doctor(r#"{"peers":false}"#);
    assert!(apart.starts_with("note") && apart.contains("2 of 2 pairs") && apart.contains("host memory"), "{apart}");
    let old = doctor(r#"{"driver":11040}"#);
    assert!(old.starts_with("note") && old.contains("CUDA 11.4, and CUDA 12.0 is needed"), "{old}");
}
