//! The kernels' own source, compiled for the CPU and run lane by lane: no GPU is needed to see that they copy what the reference copies.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use dualpool_cuda::kernels::{ByteRange, DeviceByteRange, Division, Piece, records_into, reference, windows};

/// One launch. The sizes are the test's own, far below what a host would choose: more tiles and blocks for fewer bytes.
struct Launch {
    kernel: usize,
    blocks: u64,
    tile_bytes: u64,
    records: Vec<DeviceByteRange>,
    bytes: u64,
    source: Vec<u8>,
    target: Vec<u8>,
}

impl Launch {
    fn of(kernel: usize, blocks: u64, tile_bytes: u64, ranges: &[ByteRange]) -> Launch {
        let mut records = Vec::new();
        let bytes = records_into(ranges.iter().copied(), &mut records);
        let extent = |end: fn(&ByteRange) -> u64| ranges.iter().map(|range| end(range) + range.length).max().unwrap_or(0) as usize;
        Launch {
            kernel,
            blocks,
            tile_bytes,
            records,
            bytes,
            source: (0..extent(|range| range.source)).map(|i| (i * 31 % 251) as u8).collect(),
            target: vec![255; extent(|range| range.target)],
        }
    }

    fn encoded(&self) -> Vec<u8> {
        let header = [
            self.kernel as u64,
            self.blocks,
            self.tile_bytes,
            self.records.len() as u64,
            self.bytes,
            self.source.len() as u64,
            self.target.len() as u64,
        ];
        let records = self.records.iter().flat_map(|range| [range.source, range.target, range.begin]);
        let words = header.into_iter().chain(records).flat_map(u64::to_le_bytes);
        words.chain(self.source.iter().copied()).chain(self.target.iter().copied()).collect()
    }

    fn expected(&self) -> Vec<u8> {
        let mut target = self.target.clone();
        reference::copy_ranges(&self.source, &mut target, &self.records, self.bytes);
        target
    }
}

/// The emulator around `kernels`, compiled into a folder of this test's.
fn emulator(kernels: &Path, name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let status = Command::new("c++")
        .args(["-std=c++17", "-O1", "-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"])
        .arg(format!("-DKERNELS=\"{}\"", kernels.display()))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand_in_gpus/kernels/emulator.cpp"))
        .arg("-o")
        .arg(&program)
        .status()
        .expect("`c++` runs (Debian: apt-get install g++)");
    assert!(status.success(), "the emulator does not compile");
    program
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/kv_copy.cu")
}

/// What the emulated launches leave in their targets; an error is what the emulator objected to.
fn emulated(program: &Path, launches: &[Launch]) -> Result<Vec<u8>, String> {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let cases: Vec<Vec<u8>> = launches.iter().map(Launch::encoded).collect();
    // A program that has given up reads no further: the exit status says more than the broken pipe.
    let feed = std::thread::spawn(move || cases.iter().try_for_each(|case| input.write_all(case)));
    let output = child.wait_with_output().unwrap();
    let fed = feed.join().unwrap();
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    fed.unwrap();
    Ok(output.stdout)
}

fn check(launches: &[Launch]) {
    // Tests run side by side, and a program that is being written cannot be run.
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| emulator(&kernels(), "kernel-emulator"));
    let program = &*PROGRAM;
    let found = emulated(program, launches).unwrap();
    let mut rest = &found[..];
    for (i, launch) in launches.iter().enumerate() {
        let (target, after) = rest.split_at(launch.target.len());
        let expected = launch.expected();
        let differs = target.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "launch {i}, kernel {}: the first byte that differs", launch.kernel);
        rest = after;
    }
    assert!(rest.is_empty());
}

/// Ranges in any order, of any alignment: of both ends apart, of one end, and of none.
fn random_ranges(rng: &mut ChaCha8Rng) -> Vec<ByteRange> {
    let word: u64 = [1, 2, 4, 8, 16][rng.random_range(0..5)];
    let length_max: u64 = [20, 300, 5_000][rng.random_range(0..3)];
    let (mut source, mut target) = (0, 0);
    let mut ranges = Vec::new();
    for _ in 0..rng.random_range(0..120) {
        source += word * rng.random_range(0..4);
        target += word * rng.random_range(0..4);
        let length = rng.random_range(0..length_max);
        let length = if rng.random_bool(0.5) { length } else { length.next_multiple_of(word) };
        ranges.push(ByteRange { source, target, length });
        source += length;
        target += length;
    }
    ranges.reverse();
    ranges
}

#[test]
fn kernels_copy_what_the_reference_copies() {
    let seed = 20_260;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut launches = Vec::new();
    for i in 0..150 {
        let ranges = random_ranges(&mut rng);
        let tile_bytes = [16, 48, 512, 4_096][rng.random_range(0..4)];
        launches.push(Launch::of(i % 3, rng.random_range(1..4), tile_bytes, &ranges));
        for window in windows(ranges.iter().map(|range| (range.source, range.length)), 4_096).take(2) {
            let gathered = |piece: &Piece| ByteRange {
                source: ranges[piece.range].source + piece.within,
                target: piece.at,
                length: piece.length,
            };
            let gather: Vec<ByteRange> = window.pieces.iter().map(gathered).collect();
            launches.push(Launch::of(0, 1, 512, &gather));
        }
    }
    println!("seed {seed}, {} launches", launches.len());
    check(&launches);
}

#[test]
fn one_long_range_and_many_short_ones_are_copied_as_the_host_divides_them() {
    let divided = |ranges: &[ByteRange], blocks_max| {
        let Division { blocks, tile_bytes } = Division::of(ranges.iter().map(|range| range.length).sum(), blocks_max);
        Launch::of(0, u64::from(blocks), tile_bytes, ranges)
    };
    let long = [ByteRange { source: 16, target: 48, length: 1_000_003 }];
    // More than 32 * 32, so that the search takes a third step.
    let short: Vec<ByteRange> = (0..3_000).map(|i| ByteRange { source: i * 48, target: i * 32, length: 32 }).collect();
    let mixed: Vec<ByteRange> =
        short.iter().copied().chain([ByteRange { source: 144_000, target: 100_000, length: 300_000 }]).collect();
    check(&[divided(&long, 4), divided(&short, 2), divided(&mixed, 3), divided(&[], 3)]);
}

/// What the emulator is trusted to notice, each in a copy of the kernels with one fault.
#[test]
fn the_emulator_notices_what_would_go_wrong_on_a_gpu() {
    let ranges: Vec<ByteRange> = (0..40).map(|i| ByteRange { source: i * 100 + 3, target: i * 100 + 3, length: 90 }).collect();
    let launch = [Launch::of(0, 1, 512, &ranges)];
    let source = std::fs::read_to_string(kernels()).unwrap();
    for (name, right, wrong, notice) in [
        ("no-head", "to_alignment < length ? to_alignment : length;", "0;", "not aligned"),
        ("over-read", "(length - head) / sizeof(Word)", "(length - head + 15) / sizeof(Word)", "outside of the ranges"),
        ("partial-vote", "while (high - low > 1) {", "while (high - low > 1 + (lane == 5)) {", "not all lanes"),
    ] {
        assert_eq!(source.matches(right).count(), 1, "{right}");
        let faulty = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.cu"));
        std::fs::write(&faulty, source.replace(right, wrong)).unwrap();
        let error = emulated(&emulator(&faulty, name), &launch).unwrap_err();
        assert!(error.contains(notice), "{name}: {error}");
    }
}
