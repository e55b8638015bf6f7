//! What the kernels compile to for every chip they are for. NVRTC comes with the test environment and needs no GPU.

use std::path::Path;

use dualpool_cuda::ComputeCapability;
use dualpool_cuda::kernels::nvrtc::{Nvrtc, NvrtcError, folders};
use dualpool_cuda::kernels::{NAMES, SOURCE};

/// A100, H100/H200, B200.
const TARGETS: [ComputeCapability; 3] = [capability(8), capability(9), capability(10)];

const fn capability(major: u32) -> ComputeCapability {
    ComputeCapability { major, minor: 0 }
}

/// Two blocks of 512 threads on one multiprocessor of 65,536 registers. With more, a copy's blocks would leave less room for others.
const REGISTERS_MAX: u32 = 64;

/// What ptxas says of one kernel.
#[derive(Debug, Default, PartialEq)]
struct Resources {
    name: String,
    registers: u32,
    spill_bytes: u32,
    stack_bytes: u32,
}

/// From the log of `--ptxas-options=-v`: three lines per kernel.
fn resources(log: &str) -> Vec<Resources> {
    let number_before =
        |line: &str, word: &str| -> Option<u32> { line.split_once(word)?.0.split_whitespace().next_back()?.parse().ok() };
    let mut kernels: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernels.push(Resources { name: rest.split('\'').next().unwrap().into(), ..Resources::default() });
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        if let Some(registers) = number_before(line, " registers") {
            kernel.registers = registers;
        }
        for word in [" bytes spill stores", " bytes spill loads"] {
            kernel.spill_bytes += number_before(line, word).unwrap_or(0);
        }
        kernel.stack_bytes += number_before(line, " bytes stack frame").unwrap_or(0);
    }
    kernels
}

fn nvrtc(target: ComputeCapability) -> Nvrtc {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv");
    Nvrtc::find(&folders(Some(&venv)), target).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_kernel_compiles_for_every_target_without_spills() {
    for target in TARGETS {
        let compiler = nvrtc(target);
        let cubin = compiler.compile("kv_copy.cu", SOURCE, target, &["--ptxas-options=-v"]).unwrap();
        assert_eq!(cubin.image[..4], *b"\x7fELF", "{target}");
        let found = resources(&cubin.log);
        println!("{target}, {}: {found:?}", compiler.name());
        let mut names: Vec<&str> = found.iter().map(|kernel| kernel.name.as_str()).collect();
        names.sort();
        let mut expected = NAMES;
        expected.sort();
        assert_eq!(names, expected, "{target}: {}", cubin.log);
        for kernel in &found {
            assert!((1..=REGISTERS_MAX).contains(&kernel.registers), "{target}: {kernel:?}");
            assert_eq!((kernel.spill_bytes, kernel.stack_bytes), (0, 0), "{target}: {kernel:?}");
        }
    }
}

#[test]
fn spills_are_seen_when_there_are_some() {
    let target = TARGETS[1];
    // Four blocks on a multiprocessor leave 32 registers, too few for four 16-byte words and their addresses.
    let crowded = SOURCE.replace("__launch_bounds__(THREADS)", "__launch_bounds__(THREADS, 4)");
    let cubin = nvrtc(target).compile("crowded.cu", &crowded, target, &["--ptxas-options=-v"]).unwrap();
    let found = resources(&cubin.log);
    assert_eq!(found.len(), NAMES.len());
    assert!(found.iter().all(|kernel| kernel.registers <= 32 && kernel.spill_bytes > 0 && kernel.stack_bytes > 0), "{found:?}");
}

#[test]
fn a_broken_kernel_is_refused_with_the_compilers_words() {
    let target = TARGETS[1];
    let compiler = nvrtc(target);
    let error = compiler.compile("broken.cu", "extern \"C\" __global__ void f() { nothing(); }", target, &[]).unwrap_err();
    assert!(error.to_string().contains("broken.cu does not compile for sm_90"), "{error}");
    assert!(error.to_string().contains("nothing"), "{error}");
    let unknown = capability(99);
    assert!(matches!(compiler.compile("kv_copy.cu", SOURCE, unknown, &[]), Err(NvrtcError::UnknownTarget { .. })));
}
