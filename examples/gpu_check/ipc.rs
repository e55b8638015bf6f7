//! Two processes and one memory: the other process gathers from this one's memory and scatters into it, through an IPC handle.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use dualpool_cuda::kernels::Kernels;
use dualpool_cuda::{Context, CopyRange, IpcHandle};
use dualpool_kv::COPY_GRID_BLOCKS;
use dualpool_types::Bytes;

use crate::findings::Findings;

const BLOCK_BYTES: u64 = 4 << 10;
const BLOCKS: u64 = 2_048;

/// For the other process to start, compile its kernels and copy.
const PEER_WAIT: Duration = Duration::from_secs(60);

const WHAT: &str = "another process gathers from this one's memory and scatters into it";

pub fn check(context: &Context, folders: &[PathBuf], findings: &mut Findings) -> anyhow::Result<()> {
    let stream = context.stream()?;
    let content: Vec<u8> = (0..BLOCKS * BLOCK_BYTES).map(|at| (at / BLOCK_BYTES * 7 + at % 251) as u8).collect();
    let memory = context.allocate(Bytes(content.len() as u64))?;
    stream.write(memory.whole(), &content)?;
    let outcome = match memory.export().map_err(anyhow::Error::from).and_then(|handle| run_peer(&handle, folders)) {
        Err(error) => Err(format!("{error:#}")),
        Ok(()) => {
            let found = stream.read(memory.whole())?;
            // Every odd block has become its even neighbour, which stayed as it was.
            let block = |bytes: &[u8], index: u64| bytes[(index * BLOCK_BYTES) as usize..][..BLOCK_BYTES as usize].to_vec();
            match (0..BLOCKS).find(|&i| block(&found, i) != block(&content, i & !1)) {
                Some(wrong) => Err(format!("block {wrong} of {BLOCKS} is not what the other process should have left")),
                None => Ok(format!("{} blocks of {BLOCK_BYTES} bytes", BLOCKS / 2)),
            }
        }
    };
    findings.correct("ipc", WHAT, outcome);
    Ok(())
}

fn run_peer(handle: &IpcHandle, folders: &[PathBuf]) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    if !folders.is_empty() {
        command.arg("--libraries").arg(std::env::join_paths(folders)?);
    }
    let mut child = command.arg("ipc-peer").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut input = child.stdin.take().context("the other process has no stdin")?;
    input.write_all(&serde_json::to_vec(handle)?)?;
    drop(input);
    let end = Instant::now() + PEER_WAIT;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("the other process ended with {status}"),
            None if Instant::now() >= end => {
                child.kill()?;
                child.wait()?;
                bail!("the other process was not done after {PEER_WAIT:?}");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

pub fn peer(contexts: &[Context], folders: &[PathBuf]) -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let handle: IpcHandle = serde_json::from_str(&text)?;
    let context = contexts.iter().find(|context| context.device().uuid == handle.gpu).context("the handle's GPU is not here")?;
    let memory = context.import(&handle)?;
    let staging = context.allocate(Bytes(handle.size.0 / 2))?;
    let stream = context.stream()?;
    let mut kernels = Kernels::load(context, folders, COPY_GRID_BLOCKS)?;
    let copies = |from_memory: bool| -> anyhow::Result<Vec<CopyRange<'_>>> {
        let copy = |pair: u64| -> anyhow::Result<CopyRange<'_>> {
            let staged = staging.span(pair * BLOCK_BYTES, BLOCK_BYTES)?;
            let block = |index: u64| memory.span(index * BLOCK_BYTES, BLOCK_BYTES);
            Ok(match from_memory {
                true => CopyRange { from: block(2 * pair)?, to: staged },
                false => CopyRange { from: staged, to: block(2 * pair + 1)? },
            })
        };
        (0..BLOCKS / 2).map(copy).collect()
    };
    kernels.gather(&stream, &copies(true)?)?;
    kernels.scatter(&stream, &copies(false)?)?;
    Ok(stream.synchronize()?)
}
