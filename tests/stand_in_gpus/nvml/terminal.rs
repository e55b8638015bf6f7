//! `dualpool top` on a terminal of its own: it gives it back as it was, however it ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::program;

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// The user's side, which shows what is written and takes what is typed, and the program's side.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut its) = (-1, -1);
    let size = libc::winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: both places are valid, the size is one, and the two other arguments may be null.
    let made = unsafe { libc::openpty(&mut ours, &mut its, std::ptr::null_mut(), std::ptr::null_mut(), &size) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: openpty made both, and no other code has them.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(its)) }
}

/// How the terminal treats what is typed.
fn mode(terminal: &OwnedFd) -> u32 {
    let mut mode = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the descriptor is open, and the place is valid.
    let asked = unsafe { libc::tcgetattr(terminal.as_raw_fd(), mode.as_mut_ptr()) };
    assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the call succeeded, so it filled it in.
    unsafe { mode.assume_init() }.c_lflag
}

fn read_until(terminal: &mut File, seen: &mut String, text: &str) {
    let mut buffer = [0; 4096];
    while !seen.contains(text) {
        let length = terminal.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "it ended without `{text}`: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}

/// Starts it, waits for its first frame, has `act` end it, and returns its exit code.
fn ends(act: impl FnOnce(&mut File, &Child)) -> Option<i32> {
    let folder = tempfile::tempdir().unwrap();
    let (mut ours, its) = terminal();
    let before = mode(&its);
    let side = || its.try_clone().unwrap();
    let mut child = program::dualpool(&folder, &["top"])
        .env("TERM", "xterm-256color")
        .stdin(side())
        .stdout(side())
        .stderr(side())
        .spawn()
        .unwrap();
    let mut seen = String::new();
    read_until(&mut ours, &mut seen, "older/newer");
    assert!(seen.contains(ENTER), "{seen}");
    assert_ne!(mode(&its), before, "a key is taken without Return");
    act(&mut ours, &child);
    read_until(&mut ours, &mut seen, LEAVE);
    let code = child.wait().unwrap().code();
    assert_eq!(mode(&its), before, "the terminal is as it was");
    code
}

#[test]
fn keys_end_it() {
    assert_eq!(ends(|terminal, _| terminal.write_all(b"\x1b[Bq").unwrap()), Some(0));
    let ctrl_c = b"\x03";
    assert_eq!(ends(|terminal, _| terminal.write_all(ctrl_c).unwrap()), Some(130));
}

#[test]
fn signals_end_it() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        assert_eq!(ends(|_, child| kill(Pid::from_raw(child.id() as i32), signal).unwrap()), Some(130), "{signal}");
    }
}
