//! Rules of this code base that no compiler knows: who may import whom, how long a file may be, and what must not be left lying about.

use std::fmt;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

const LINES_MAX: usize = 600;

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
    sources(&["src", "tests", "benches", "examples", "kernels", "build"], "rs")
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

// --- Module order --------------------------------------------------------------------------------------------------------------

/// The modules of the crate in the order of `src/lib.rs`, which is the order of the layers, lowest first.
fn layers(lib: &str) -> Vec<String> {
    let file = syn::parse_file(lib).unwrap();
    let name = |item: &syn::Item| match item {
        syn::Item::Mod(module) => Some(module.ident.to_string()),
        _ => None,
    };
    file.items.iter().filter_map(name).collect()
}

/// Every module of the crate that a file names, with the line.
#[derive(Default)]
struct Imports(Vec<(String, usize)>);

impl Imports {
    fn of(text: &str) -> Imports {
        let mut imports = Imports::default();
        imports.visit_file(&syn::parse_file(text).unwrap());
        imports
    }

    fn add(&mut self, module: &syn::Ident) {
        self.0.push((module.to_string(), module.span().start().line));
    }

    fn add_tree(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => self.add(&path.ident),
            syn::UseTree::Name(name) => self.add(&name.ident),
            syn::UseTree::Rename(rename) => self.add(&rename.ident),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree)),
            syn::UseTree::Glob(_) => {}
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_use_path(&mut self, path: &'ast syn::UsePath) {
        // `use {crate::a, std::b}` hides `crate` in a group, so every level is looked at.
        if path.ident == "crate" {
            self.add_tree(&path.tree);
        }
        syn::visit::visit_use_path(self, path);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let (Some(first), Some(second)) = (path.segments.first(), path.segments.iter().nth(1))
            && first.ident == "crate"
        {
            self.add(&second.ident);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        // A macro's arguments are tokens and not paths: `format!("{}", crate::cli::x())`.
        let mut tokens = Vec::new();
        flatten(mac.tokens.clone(), &mut tokens);
        for window in tokens.windows(4) {
            if let [Token::Word(first), Token::Colon, Token::Colon, Token::Word(second)] = window
                && first == "crate"
            {
                self.add(second);
            }
        }
        syn::visit::visit_macro(self, mac);
    }
}

enum Token {
    Word(syn::Ident),
    Colon,
    Other,
}

fn flatten(tokens: proc_macro2::TokenStream, out: &mut Vec<Token>) {
    for token in tokens {
        match token {
            proc_macro2::TokenTree::Ident(ident) => out.push(Token::Word(ident)),
            proc_macro2::TokenTree::Punct(punct) if punct.as_char() == ':' => out.push(Token::Colon),
            proc_macro2::TokenTree::Group(group) => {
                out.push(Token::Other);
                flatten(group.stream(), out);
            }
            _ => out.push(Token::Other),
        }
    }
}

/// Imports of `text`, which belongs to layer `own`, from layers above it.
fn upward(layers: &[String], own: &str, text: &str) -> Vec<(String, usize)> {
    let place = |module: &str| layers.iter().position(|layer| layer == module);
    let own = place(own);
    Imports::of(text).0.into_iter().filter(|(module, _)| own < place(module)).collect()
}

#[test]
fn modules_import_only_from_modules_below() {
    let sources = sources(&["src"], "rs");
    let lib = sources.iter().find(|s| s.path == Path::new("src/lib.rs")).unwrap();
    let layers = layers(&lib.text);
    let mut findings = Vec::new();
    for source in &sources {
        let own = source.path.iter().nth(1).unwrap().to_str().unwrap().trim_end_matches(".rs");
        if !layers.iter().any(|layer| layer == own) {
            assert!(["lib", "main"].contains(&own), "{} belongs to no module of src/lib.rs", source.path.display());
            continue;
        }
        findings.extend(upward(&layers, own, &source.text).into_iter().map(|(module, line)| Finding {
            path: source.path.clone(),
            line,
            what: format!("`{own}` imports `{module}`, which is above it"),
        }));
    }
    expect_none("A module imports only from modules listed before it in src/lib.rs.", findings);
}

#[test]
fn the_order_check_sees_every_kind_of_import() {
    let layers = ["core", "router", "cli"].map(String::from);
    let upward = |text: &str| upward(&layers, "router", text).into_iter().map(|(module, _)| module).collect::<Vec<_>>();
    for text in [
        "use crate::cli::Cli;",
        "use crate::{core::Time, cli::Cli};",
        "use {crate::cli as x};",
        "use crate::cli;",
        "fn f() -> crate::cli::Cli { todo() }",
        "fn f() { crate::cli::run() }",
        "mod tests { use crate::cli::Cli; }",
        "fn f() { assert!(x, \"{}\", (crate::cli::run())) }",
    ] {
        assert_eq!(upward(text), ["cli"], "{text}");
    }
    assert!(upward("use crate::core::Time; use crate::router::Event; use super::x; use cli::y;").is_empty());
}

// --- Size and leftovers --------------------------------------------------------------------------------------------------------

#[test]
fn files_hold_one_thing() {
    let mut findings = Vec::new();
    for source in sources(&["src"], "rs").into_iter().chain(sources(&["python"], "py")) {
        let count = source.text.lines().count();
        if count > LINES_MAX {
            findings.push(Finding { path: source.path, line: count, what: format!("{count} lines") });
        }
    }
    expect_none(&format!("A file of more than {LINES_MAX} lines holds two things: divide it."), findings);
}

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
            let code = line.split("//").next().unwrap_or_default();
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
const MAY_READ_A_CLOCK: [&str; 4] = ["src/core/clock.rs", "src/engine/", "src/migrate/", "src/harness/"];

#[test]
fn time_is_passed_in_and_not_read() {
    let findings = lines(&sources(&["src"], "rs"), |source, line| {
        let path = source.path.to_str().unwrap();
        let allowed = MAY_READ_A_CLOCK.iter().any(|prefix| path.starts_with(prefix));
        // Tokio's clock serves its timers, and tests can stop it.
        let reads = line.replace("tokio::time::Instant::now", "").contains("Instant::now") || line.contains("SystemTime::now");
        (reads && !allowed).then(|| line.trim().to_string())
    });
    expect_none("Only core/clock, engine, migrate and harness read a clock.", findings);
}
