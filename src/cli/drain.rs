//! `dualpool drain ENGINE`

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use dualpool_fleet::admin::{self, Order};
use dualpool_types::EngineId;

use super::terminal::print;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The engine, as `engine-1` or `1`.
    #[arg(value_parser = engine)]
    engine: EngineId,
    /// The process that has the engine; needed only while several programs of yours serve.
    #[arg(long)]
    pid: Option<u32>,
    /// Let the engine take requests again instead.
    #[arg(long)]
    undo: bool,
}

fn engine(text: &str) -> Result<EngineId, String> {
    let number = text.strip_prefix("engine-").unwrap_or(text);
    number.parse().map(EngineId).map_err(|_| "expected an engine's name or number, such as `engine-1` or `1`".to_owned())
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let order = if args.undo { Order::Undrain(args.engine) } else { Order::Drain(args.engine) };
    admin::send(&program(&admin::folder(), args.pid)?, order)?;
    let engine = args.engine;
    print(&if args.undo {
        format!("{engine} takes requests again\n")
    } else {
        format!("{engine} is empty and gets no requests; `dualpool drain {engine} --undo` ends that\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The program that is to take the order.
fn program(folder: &Path, pid: Option<u32>) -> anyhow::Result<UnixStream> {
    if let Some(pid) = pid {
        let path = folder.join(format!("{pid}.sock"));
        return UnixStream::connect(path).with_context(|| format!("process {pid} is no dualpool of yours that serves"));
    }
    // A process that was killed leaves a socket at which nothing answers.
    let alive = |path: &Path| Some((path.file_stem()?.to_str()?.to_owned(), UnixStream::connect(path).ok()?));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut programs: Vec<(String, UnixStream)> = entries.filter_map(|entry| alive(&entry.path())).collect();
    programs.sort_by(|a, b| a.0.cmp(&b.0));
    match programs.len() {
        0 => bail!("no dualpool of yours serves; `dualpool run` has engines to drain while it measures"),
        1 => Ok(programs.remove(0).1),
        _ => {
            let pids: Vec<String> = programs.into_iter().map(|(pid, _)| pid).collect();
            bail!("several programs serve: {}; name one with --pid", pids.join(", "))
        }
    }
}
