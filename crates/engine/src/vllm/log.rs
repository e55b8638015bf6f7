//! An engine's log lines: to `tracing` one level below vLLM's own (what matters reaches the user as an error of ours), and the
//! last ones kept to explain a failure.

use std::collections::VecDeque;
use std::sync::Mutex;

use dualpool_types::EngineId;

/// Lines kept per engine: more than vLLM's longest traceback.
const LINES_KEPT_MAX: usize = 400;
/// Bytes kept of one line; vLLM prints whole configurations on one.
const LINE_BYTES_MAX: usize = 4096;

pub(super) struct Log {
    engine: EngineId,
    lines: Mutex<VecDeque<String>>,
}

impl Log {
    pub(super) fn new(engine: EngineId) -> Log {
        Log { engine, lines: Mutex::default() }
    }

    pub(super) fn line(&self, line: &str) {
        let line = &line[..line.floor_char_boundary(LINE_BYTES_MAX)];
        if line.trim().is_empty() {
            return;
        }
        let engine = self.engine;
        match level(line) {
            "ERROR" | "CRITICAL" => tracing::info!(%engine, "{line}"),
            "WARNING" => tracing::debug!(%engine, "{line}"),
            _ => tracing::trace!(%engine, "{line}"),
        }
        let mut lines = self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if lines.len() == LINES_KEPT_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// The last error the engine wrote: an exception's own line, without the frame of vLLM's log.
    pub(super) fn cause(&self) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        lines.iter().rev().map(|line| message(line)).find(|text| is_exception(text)).map(str::to_owned)
    }

    pub(super) fn last(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        lines.back().map_or_else(|| "none".to_owned(), |line| message(line).trim().to_owned())
    }
}

/// `ERROR` of `(EngineCore pid=7) ERROR 11-20 05:41:19 [core.py:1510] text`; empty when the line is of another make.
fn level(line: &str) -> &str {
    let rest = without_process(line);
    let word = rest.split(' ').next().unwrap_or_default();
    if matches!(word, "DEBUG" | "INFO" | "WARNING" | "ERROR" | "CRITICAL") { word } else { "" }
}

/// The text of a log line, without process, level, time and place.
fn message(line: &str) -> &str {
    let rest = without_process(line);
    if level(line).is_empty() {
        return rest;
    }
    rest.split_once("] ").map_or("", |(_, text)| text)
}

fn without_process(line: &str) -> &str {
    match line.split_once(") ") {
        Some((process, rest)) if process.starts_with('(') && process.contains(" pid=") => rest,
        _ => line,
    }
}

/// `ValueError: text`, `torch.OutOfMemoryError: text`; not a line of a traceback, which is indented.
fn is_exception(text: &str) -> bool {
    let Some((name, _)) = text.split_once(": ") else { return false };
    let word = name.rsplit('.').next().unwrap_or(name);
    let named = word.ends_with("Error") || word.ends_with("Exception");
    named && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_')
}

/// What an engine is doing while it starts, by a line of its log.
pub(super) fn stage(line: &str) -> Option<&'static str> {
    const STAGES: [(&str, &str); 5] = [
        ("Initializing a V1 LLM engine", "setting up the engine"),
        ("Starting to load model", "loading weights"),
        ("Loading weights took", "weights loaded"),
        ("KV cache size", "allocating the KV cache"),
        ("Capturing CUDA graphs", "capturing CUDA graphs"),
    ];
    STAGES.iter().find(|(words, _)| line.contains(words)).map(|(_, stage)| *stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_last_exception_without_its_frame() {
        let log = Log::new(EngineId(0));
        log.line("(EngineCore pid=7) INFO 11-20 05:41:18 [core.py:10] Initializing");
        log.line("(EngineCore pid=7) ERROR 11-20 05:41:19 [core.py:1510]   File \"x.py\", line 3, in f");
        log.line("(EngineCore pid=7) ERROR 11-20 05:41:19 [core.py:1510] ValueError: the KV cache is too small");
        log.line("(EngineCore pid=7) INFO 11-20 05:41:20 [core.py:9] [shutdown] done: yes");
        assert_eq!(log.cause().unwrap(), "ValueError: the KV cache is too small");
        assert_eq!(log.last(), "[shutdown] done: yes");
    }

    #[test]
    fn kept_lines_and_bytes_are_bounded() {
        let log = Log::new(EngineId(0));
        for _ in 0..LINES_KEPT_MAX + 5 {
            log.line(&"ä".repeat(LINE_BYTES_MAX));
        }
        let lines = log.lines.lock().unwrap();
        assert_eq!(lines.len(), LINES_KEPT_MAX);
        assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX));
    }
}
