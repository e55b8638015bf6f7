//! Tests on virtual GPUs. A process loads one CUDA driver, so each of them runs itself again in a process that has the driver it is about.

use std::process::{Command, Output};

use super::fake_cuda::FakeCuda;
use super::program::text;

/// Set in the process that has the driver: the name of its machine.
const MACHINE: &str = "VIRTUAL_GPUS_OF";

/// Tests whose bodies run in a process with the virtual GPUs that their script describes.
#[allow(unused_macros, reason = "as in `support`")]
macro_rules! on_virtual_gpus {
    ($($(#[$note:meta])* fn $name:ident($script:expr) $body:block)*) => {$(
        $(#[$note])*
        #[test]
        fn $name() {
            use $crate::support::own_process;
            if own_process::machine().is_some() {
                return $body;
            }
            let mut command = own_process::of_test(module_path!(), stringify!($name));
            own_process::assert_passed(&own_process::with_gpus(&mut command, stringify!($name), $script));
        }
    )*};
}
#[allow(unused_imports, reason = "as in `support`")]
pub(crate) use on_virtual_gpus;

/// The machine with this process's GPUs; none in the process that has yet to start the one with the driver.
pub fn machine() -> Option<String> {
    std::env::var(MACHINE).ok()
}

/// A test of this module in a process of its own.
pub fn of_test(module: &str, test: &str) -> Command {
    let (_, module) = module.split_once("::").expect("tests are in modules of their binary");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::{test}"), "--nocapture", "--test-threads=1"]);
    command
}

/// The test that this process runs, in one more process.
pub fn once_more() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(std::env::args_os().skip(1));
    command
}

#[track_caller]
pub fn assert_passed(output: &Output) {
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{}\n{stdout}{}", output.status, text(&output.stderr));
    assert!(stdout.contains("1 passed"), "the test did not run:\n{stdout}");
}

/// What the command gives on a machine of its own, with the virtual GPUs of `script`. It is left clean.
#[track_caller]
pub fn with_gpus(command: &mut Command, name: &str, script: &str) -> Output {
    // The same test may run elsewhere at the same time, with GPUs of its own.
    let machine = format!("{}-{}", name.replace('_', "-"), std::process::id());
    let script = script.replacen('{', &format!("{{\"machine\":\"{machine}\","), 1).replace(",}", "}");
    let cuda = FakeCuda::new();
    cuda.for_command(command, &script);
    let output = command.env(MACHINE, &machine).output().unwrap();
    assert_eq!(left_behind(&machine), 0, "shared memory is left behind: {}", text(&output.stderr));
    output
}

/// Files of shared memory that a machine's GPUs have.
pub fn left_behind(machine: &str) -> usize {
    let ours = |name: &str| name.starts_with(&format!("fake-cuda.{machine}."));
    std::fs::read_dir("/dev/shm").unwrap().flatten().filter(|file| file.file_name().to_str().is_some_and(ours)).count()
}
