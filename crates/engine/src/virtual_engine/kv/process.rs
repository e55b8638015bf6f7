//! A process that holds one virtual engine's KV memory on a GPU, and the way to it: a line of JSON per request and answer over its standard
//! input and output. It ends with its standard input, hence with its engine, however that ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use dualpool_cuda::{DeviceMemory, Driver, GpuUuid, Stream};
use dualpool_kv::wire::{MemoryKind, Segment};
use dualpool_types::{BlockId, Bytes, Program};

use super::shape::{LAYERS, Shape};
use super::store::Content;

/// The subcommand that runs `serve`; its one argument is the memory to hold.
pub(super) const SUBCOMMAND: &str = "hold-gpu-memory";
/// How long the process may take for an answer, the first of which waits for the driver to start, and to end once it is told to.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Order {
    uuid: GpuUuid,
    shape: Shape,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Fill(Vec<Content>),
    Wrong(Vec<Content>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// The first one.
    Memory(MemoryKind),
    Filled,
    Wrong(Option<BlockId>),
    Failed(String),
}

/// The engine's end. Dropping it ends the process, and frees the memory.
pub struct KvProcess {
    child: Child,
    requests: Option<ChildStdin>,
    /// From a thread of its own, which ends when the process does: a pipe cannot be read with a bound on the wait.
    answers: Receiver<std::io::Result<String>>,
    memory: MemoryKind,
    patience: Duration,
}

impl KvProcess {
    pub fn start(program: &Program, uuid: GpuUuid, shape: Shape) -> anyhow::Result<KvProcess> {
        let order = serde_json::to_string(&Order { uuid, shape })?;
        let mut command = program.command();
        command.args([SUBCOMMAND, &order]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Out of the terminal's way: Ctrl-C is for the program, whose engines need the memory while they end.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {} {SUBCOMMAND}", program.path.display()))?;
        KvProcess::greet(child, uuid, PATIENCE)
    }

    /// Waits until the process has its memory.
    fn greet(mut child: Child, uuid: GpuUuid, patience: Duration) -> anyhow::Result<KvProcess> {
        let (requests, stdout) = (child.stdin.take(), child.stdout.take());
        let (lines, answers) = sync_channel(1);
        let memory = MemoryKind::Cuda { uuid, segments: Vec::new() };
        let mut process = KvProcess { child, requests, answers, memory, patience };
        let stdout = stdout.context("the process that holds GPU memory has no pipes")?;
        std::thread::Builder::new().name("gpu-memory".into()).spawn(move || read(stdout, &lines))?;
        match process.answer()? {
            Answer::Memory(memory) => process.memory = memory,
            other => bail!("the process that holds GPU memory sent {other:?} as its first message"),
        }
        Ok(process)
    }

    pub fn memory(&self) -> &MemoryKind {
        &self.memory
    }

    pub fn fill(&mut self, contents: &[Content]) -> anyhow::Result<()> {
        match self.ask(&Request::Fill(contents.to_vec()))? {
            Answer::Filled => Ok(()),
            other => bail!("the process that holds GPU memory was to fill it and answered {other:?}"),
        }
    }

    pub fn wrong(&mut self, contents: &[Content]) -> anyhow::Result<Option<BlockId>> {
        match self.ask(&Request::Wrong(contents.to_vec()))? {
            Answer::Wrong(block) => Ok(block),
            other => bail!("the process that holds GPU memory was to check it and answered {other:?}"),
        }
    }

    fn ask(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let requests = self.requests.as_mut().context("the process that holds GPU memory is ending")?;
        say(requests, request).context("the process that holds GPU memory is gone")?;
        self.answer()
    }

    fn answer(&mut self) -> anyhow::Result<Answer> {
        let line = match self.answers.recv_timeout(self.patience) {
            Ok(line) => line.context("the process that holds GPU memory is gone")?,
            Err(RecvTimeoutError::Disconnected) => bail!("the process that holds GPU memory ended; its last log lines are above"),
            Err(RecvTimeoutError::Timeout) => {
                // It is asked nothing more: what it says to this would be taken for the answer to that.
                self.requests = None;
                bail!("the process that holds GPU memory did not answer within {:?}; its driver may hang", self.patience)
            }
        };
        match serde_json::from_str(&line).with_context(|| format!("the process that holds GPU memory sent {line:?}"))? {
            Answer::Failed(why) => bail!(why),
            answer => Ok(answer),
        }
    }
}

impl Drop for KvProcess {
    fn drop(&mut self) {
        self.requests = None;
        // Answers to requests that were given up come before the end.
        let end = loop {
            if let Err(end) = self.answers.recv_timeout(self.patience) {
                break end;
            }
        };
        let ended = match end {
            RecvTimeoutError::Disconnected => Ok(()),
            RecvTimeoutError::Timeout => {
                tracing::warn!("the process that holds GPU memory did not end within {:?}, and is killed", self.patience);
                self.child.kill()
            }
        };
        if let Err(error) = ended.and_then(|()| self.child.wait()) {
            tracing::warn!("a process that holds GPU memory cannot be waited for: {error}");
        }
    }
}

/// Passes on what the process says, until it ends or the channel is closed.
fn read(stdout: ChildStdout, lines: &SyncSender<std::io::Result<String>>) {
    for line in BufReader::new(stdout).lines() {
        if lines.send(line).is_err() {
            break;
        }
    }
}

fn say(to: &mut impl Write, what: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)?;
    Ok(to.flush()?)
}

/// The process itself, until its standard input ends.
pub fn serve(order: &str) -> anyhow::Result<()> {
    let order: Order = serde_json::from_str(order).context("what memory to hold is not understood")?;
    let mut answers = std::io::stdout().lock();
    let memory = match GpuMemory::allocate(order) {
        Ok(memory) => memory,
        Err(error) => return say(&mut answers, &Answer::Failed(format!("no KV memory on {}: {error}", order.uuid))),
    };
    say(&mut answers, &Answer::Memory(memory.kind()?))?;
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Request::Fill(contents) => memory.fill(&contents).map(|()| Answer::Filled),
            Request::Wrong(contents) => memory.wrong(&contents).map(Answer::Wrong),
        };
        say(&mut answers, &answer.unwrap_or_else(|error| Answer::Failed(error.to_string())))?;
    }
    Ok(())
}

struct GpuMemory {
    order: Order,
    /// One allocation per layer.
    layers: Vec<DeviceMemory>,
    stream: Stream,
}

impl GpuMemory {
    fn allocate(order: Order) -> Result<GpuMemory, dualpool_cuda::CudaError> {
        let context = dualpool_cuda::Context::retain(&Driver::load()?.device(order.uuid)?)?;
        let layer = |_| context.allocate(Bytes(order.shape.layer_bytes()));
        Ok(GpuMemory { order, layers: (0..LAYERS).map(layer).collect::<Result<_, _>>()?, stream: context.stream()? })
    }

    fn kind(&self) -> Result<MemoryKind, dualpool_cuda::CudaError> {
        let segments = self.layers.iter().map(|layer| Ok(Segment::from(&layer.export()?))).collect::<Result<_, _>>()?;
        Ok(MemoryKind::Cuda { uuid: self.order.uuid, segments })
    }

    fn fill(&self, contents: &[Content]) -> Result<(), dualpool_cuda::CudaError> {
        let shape = self.order.shape;
        for content in contents {
            for (number, layer) in (0..).zip(&self.layers) {
                let span = layer.span(shape.within_layer(content.block).start, shape.block_bytes())?;
                self.stream.write(span, &shape.content(content.seed, number))?;
            }
        }
        Ok(())
    }

    fn wrong(&self, contents: &[Content]) -> Result<Option<BlockId>, dualpool_cuda::CudaError> {
        let shape = self.order.shape;
        for content in contents {
            for (number, layer) in (0..).zip(&self.layers) {
                let span = layer.span(shape.within_layer(content.block).start, shape.block_bytes())?;
                if self.stream.read(span)? != shape.content(content.seed, number) {
                    return Ok(Some(content.block));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What a shell script says in place of a process that holds memory.
    fn started(script: &str, patience: Duration) -> anyhow::Result<KvProcess> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        KvProcess::greet(command.spawn()?, GpuUuid::from_bytes([1; 16]), patience)
    }

    fn memory() -> String {
        serde_json::to_string(&Answer::Memory(MemoryKind::Shm { bytes: 1 })).unwrap()
    }

    #[test]
    fn one_that_does_not_answer_is_given_up_and_killed() {
        let error = started("exec sleep 1000", Duration::from_millis(10)).map(drop).unwrap_err();
        assert!(error.to_string().contains("did not answer within 10ms"), "{error:#}");
        let mut process = started(&format!("echo '{}'; exec sleep 1000", memory()), PATIENCE).unwrap();
        process.patience = Duration::from_millis(10);
        assert!(process.fill(&[]).unwrap_err().to_string().contains("did not answer"));
        assert!(process.fill(&[]).unwrap_err().to_string().contains("is ending"), "nothing more is asked of it");
    }

    #[test]
    fn one_that_ends_is_told_from_one_that_hangs() {
        let error = started("exit 0", PATIENCE).map(drop).unwrap_err();
        assert!(error.to_string().contains("ended"), "{error:#}");
        let script = format!("echo '{}'; read request; echo '\"filled\"'; read request", memory());
        let mut process = started(&script, PATIENCE).unwrap();
        process.fill(&[]).unwrap();
        assert!(process.wrong(&[]).unwrap_err().to_string().contains("ended"));
    }
}
