//! Rules of this code base that no compiler knows: what must not be left lying about, what unsafe code must say, where a clock may be read.

use std::fmt;
use std::path::{Path, PathBuf};

/// A file under this repository, with its path as the messages show it.
struct Source {
    path: PathBuf,
    text: String,
}

/// One broken rule.
struct Finding {
    path: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

fn sources(folders: &[&str], extension: &str) -> Vec<Source> {
    fn walk(folder: &Path, extension: &str, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, extension, out);
            } else if path.extension().is_some_and(|e| e == extension) {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in folders {
        walk(&root.join(folder), extension, &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| Source {
        text: std::fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root).unwrap().to_path_buf(),
    };
    paths.into_iter().map(read).collect()
}

fn rust() -> Vec<Source> {
    sources(&["src", "crates", "tests", "benches", "examples", "kernels", "build"], "rs")
}

#[track_caller]
fn expect_none(rule: &str, findings: Vec<Finding>) {
    let list: Vec<_> = findings.iter().map(Finding::to_string).collect();
    assert!(list.is_empty(), "{rule}\n{}", list.join("\n"));
}

/// Findings of a rule that looks at one line at a time.
fn lines(sources: &[Source], broken: impl Fn(&Source, &str) -> Option<String>) -> Vec<Finding> {
    let numbered = |source: &Source| -> Vec<Finding> {
        let found = source.text.lines().enumerate().filter_map(|(i, line)| Some((i + 1, broken(source, line)?)));
        found.map(|(line, what)| Finding { path: source.path.clone(), line, what }).collect()
    };
    sources.iter().flat_map(numbered).collect()
}

// --- Leftovers --------------------------------------------------------------------------------------------------------

#[test]
fn nothing_is_left_for_later() {
    // In two halves, so that this file passes its own test.
    let words: Vec<String> = [("todo", "!"), ("unimplemented", "!"), ("FIX", "ME"), ("XX", "X"), ("TO", "DO"), ("for ", "now")]
        .map(|(a, b)| format!("{a}{b}"))
        .to_vec();
    let files: Vec<Source> = rust()
        .into_iter()
        .chain(sources(&["python"], "py"))
        .chain(sources(&["scripts"], "sh"))
        .chain(sources(&["docs"], "md"))
        .collect();
    // As words, for `XXXXXX` is what `mkdtemp` fills in; and not in quotes, for others' messages are theirs.
    let holds = |line: &str, word: &str| {
        let outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        line.match_indices(word).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            let quoted = before.matches('"').count() % 2 == 1;
            !quoted && outside(before.chars().next_back()) && outside(after.chars().next())
        })
    };
    let findings = lines(&files, |_, line| words.iter().find(|word| holds(line, word)).map(|word| format!("`{word}`")));
    expect_none("Finish it, or leave it out.", findings);
}

// --- Unsafe --------------------------------------------------------------------------------------------------------------------

#[test]
fn unsafe_says_why_it_is_sound() {
    let mut findings = Vec::new();
    for source in rust().into_iter().filter(|source| source.path != Path::new("tests/tidy.rs")) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            // The type of a function pointer does nothing yet; a function has a name before its bracket.
            let code = line.split("//").next().unwrap_or_default().replace("unsafe extern \"C\" fn(", "");
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|form| code.contains(form));
            if is_unsafe && !explained(&lines, i) {
                findings.push(Finding { path: source.path.clone(), line: i + 1, what: line.trim().to_string() });
            }
        }
    }
    expect_none("`unsafe` needs a `// SAFETY:` comment right above it (or a `# Safety` section, for a function).", findings);
}

/// A SAFETY comment on the line itself, or in the comments and attributes above the statement.
fn explained(lines: &[&str], at: usize) -> bool {
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    if says(lines[at]) {
        return true;
    }
    let above = lines[..at].iter().rev().map(|line| line.trim());
    let mut continuation = above.skip_while(|line| {
        // The statement may have begun on an earlier line.
        !line.is_empty() && !line.starts_with("//") && !line.ends_with(';') && !line.ends_with('}') && !line.starts_with("#[")
    });
    continuation.by_ref().take_while(|line| line.starts_with("//") || line.starts_with("#[")).any(says)
}

// --- Time ----------------------------------------------------------------------------------------------------------------------

/// What measures real time by its nature; all else is told the time, so that tests and simulations can tell another one.
const MAY_READ_A_CLOCK: [&str; 4] = ["crates/types/src/clock.rs", "crates/engine/", "crates/kv/", "crates/bench/"];

#[test]
fn time_is_passed_in_and_not_read() {
    let findings = lines(&sources(&["src", "crates"], "rs"), |source, line| {
        let path = source.path.to_str().unwrap();
        let allowed = MAY_READ_A_CLOCK.iter().any(|prefix| path.starts_with(prefix));
        // Tokio's clock serves its timers, and tests can stop it.
        let reads = line.replace("tokio::time::Instant::now", "").contains("Instant::now") || line.contains("SystemTime::now");
        (reads && !allowed).then(|| line.trim().to_string())
    });
    expect_none("Only types/clock, engine, kv and bench read a clock.", findings);
}

// --- The host ------------------------------------------------------------------------------------------------------------------

/// Whatever else told a router something would leave a hole in the journal. A router's own tests stand in its crate.
#[test]
fn only_the_host_tells_a_router_what_happens() {
    let findings = lines(&sources(&["src", "crates"], "rs"), |source, line| {
        let path = source.path.to_str().unwrap();
        let allowed = path.starts_with("crates/host/") || path.starts_with("crates/router/");
        (line.contains("router.handle(") && !allowed).then(|| line.trim().to_string())
    });
    expect_none("Only the host calls `Router::handle`.", findings);
}
