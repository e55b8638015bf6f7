//! Recorded traces, from the bytes of a file to the requests of a run.

use std::io::{self, BufRead, Cursor, Read};
use std::path::PathBuf;

use proptest::prelude::*;

use dualpool_types::{Class, Micros, Priority, SessionId, Turn};
use dualpool_workload::trace::{
    BAD_ROWS_NAMED, Clipped, Format, LINE_BYTES_MAX, REORDER_ROWS, Replay, ReplayOptions, ReplayReport, Rows, TraceError, TraceRow,
    open,
};
use dualpool_workload::{ModelLimits, TOKENS_MAX, WorkItem};

const AZURE: &str = "azure-2023-conv-first-300.csv";
const MOONCAKE: &str = "mooncake-conversation-first-200.jsonl";
const MODEL: ModelLimits = ModelLimits { vocab_size: 49_152, max_model_len: 131_072 };

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/traces").join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap()
}

fn options() -> ReplayOptions {
    ReplayOptions::new(MODEL)
}

fn replay(bytes: &[u8], options: ReplayOptions) -> Result<(Vec<WorkItem>, ReplayReport), TraceError> {
    let mut replay = Replay::new(Rows::new("trace", bytes)?, options)?;
    let items: Result<Vec<WorkItem>, TraceError> = replay.by_ref().collect();
    Ok((items?, replay.report()))
}

fn items(text: &str) -> Vec<WorkItem> {
    replay(text.as_bytes(), options()).unwrap().0
}

fn error(bytes: &[u8]) -> String {
    replay(bytes, options()).unwrap_err().to_string()
}

fn lengths(items: &[WorkItem]) -> Vec<(usize, u32)> {
    items.iter().map(|item| (item.prompt.len(), item.max_tokens)).collect()
}

fn shared(a: &WorkItem, b: &WorkItem) -> usize {
    a.prompt.iter().zip(b.prompt.iter()).take_while(|(a, b)| a == b).count()
}

// --- The formats ---------------------------------------------------------------------------------------------------------------

#[test]
fn azure_2023_is_read_as_it_was_recorded() {
    let mut replay = Replay::new(open(&path(AZURE)).unwrap(), options()).unwrap();
    let items: Vec<WorkItem> = replay.by_ref().map(Result::unwrap).collect();
    assert_eq!(items.len(), 300);
    assert_eq!(lengths(&items)[..3], [(374, 44), (396, 109), (879, 55)]);
    // 18:15:46.680590, 18:15:50.995169 and, the last, 18:17:10.709692; what is below a microsecond is cut off.
    assert_eq!([items[0].at, items[1].at, items[299].at], [Micros(0), Micros(4_314_579), Micros(84_029_102)]);
    assert_eq!(items[2].class, Class::Long);
    assert_eq!(items[3].class, Class::Short, "91 tokens of prompt");
    let report = replay.report();
    assert_eq!((report.format, report.requests, report.out_of_order), (Format::AzureCsv, 300, 0));
    assert_eq!(report.to_string(), "Azure LLM CSV: 300 requests, no bad rows");
}

/// The later traces write the same columns with microseconds and an offset, and no fraction at all where it is 0.
#[test]
fn azure_2024_gives_the_same_requests() {
    let earlier = text(AZURE);
    let later = earlier.lines().map(|line| match line.split_once(',') {
        Some((time, rest)) if time != "TIMESTAMP" => format!("{}+00:00,{rest}\n", &time[..time.len() - 1]),
        _ => format!("{line}\n"),
    });
    let later: String = later.collect();
    assert!(later.contains("2023-11-16 18:15:46.680590+00:00,374,44\n"));
    assert_eq!(items(&later), items(&earlier));
    let whole = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.25+00:00,8,2\n2024-05-10 00:00:01+00:00,8,2\n";
    assert_eq!(items(whole)[1].at, Micros(750_000));
}

#[test]
fn mooncake_prompts_share_exactly_the_blocks_whose_ids_they_share() {
    let text = text(MOONCAKE);
    let (items, report) = replay(text.as_bytes(), options()).unwrap();
    let rows: Vec<TraceRow> = Rows::new("trace", text.as_bytes()).unwrap().map(Result::unwrap).collect();
    assert_eq!(report.to_string(), "Mooncake JSONL: 200 requests, no bad rows");
    assert_eq!(lengths(&items)[..2], [(6758, 500), (7322, 490)]);
    assert_eq!(items[199].at, Micros(72_000_000));
    let mut longest = 0;
    for (row, item) in rows.iter().zip(&items) {
        assert_eq!(row.prompt_tokens as usize, item.prompt.len());
        for (other_row, other_item) in rows.iter().zip(&items).filter(|(other, _)| other.line > row.line) {
            let ids = row.hash_ids.iter().zip(&other_row.hash_ids).take_while(|(a, b)| a == b).count();
            let tokens = (ids * 512).min(item.prompt.len()).min(other_item.prompt.len());
            let shared = shared(item, other_item);
            // Two texts may begin with the same token by chance, once in 49,088 pairs.
            assert!((tokens..=tokens + 2).contains(&shared), "lines {} and {}: {shared}", row.line, other_row.line);
            longest = longest.max(ids);
        }
    }
    assert!(longest > 10, "the excerpt has long shared prefixes");
}

#[test]
fn a_trace_written_in_our_own_format_is_the_same_trace() {
    for file in [AZURE, MOONCAKE] {
        let rows = open(&path(file)).unwrap();
        let mut own = TraceRow::header(rows.block_tokens()) + "\n";
        for row in rows.map(Result::unwrap) {
            own += &row.to_line();
            own.push('\n');
        }
        let (items, report) = replay(own.as_bytes(), options()).unwrap();
        assert_eq!(report.format, Format::DualpoolJsonl);
        let original: Vec<WorkItem> = Replay::new(open(&path(file)).unwrap(), options()).unwrap().map(Result::unwrap).collect();
        assert_eq!(lengths(&items), lengths(&original));
        assert!(items.iter().zip(&original).all(|(own, original)| own.at == original.at));
        if file == MOONCAKE {
            assert!(items[5..].iter().zip(&original[5..]).all(|(own, original)| shared(own, original) >= 512));
        }
    }
}

#[test]
fn our_own_format_carries_priority_class_and_session() {
    let text = r#"{"dualpool_trace": 1, "block_tokens": 16}
        {"at_ms": 10, "prompt_tokens": 40, "output_tokens": 2, "hash_ids": [1, 2], "session": 7, "turn": 0, "priority": 3}
        {"at_ms": 11.5, "prompt_tokens": 400, "output_tokens": 2, "hash_ids": [1, 2, 3], "class": "short"}
        {"at_ms": 12, "prompt_tokens": 400, "output_tokens": 2}"#;
    let items = items(text);
    assert_eq!(items.iter().map(|item| item.at.0).collect::<Vec<_>>(), [0, 1500, 2000]);
    assert_eq!((items[0].priority, items[0].turn), (Priority::Low, Some(Turn { session: SessionId(7), index: 0 })));
    assert_eq!((items[1].priority, items[1].turn), (Priority::Normal, None));
    assert_eq!([items[0].class, items[1].class, items[2].class], [Class::Short, Class::Short, Class::Long]);
    assert!((32..34).contains(&shared(&items[0], &items[1])));
    assert!(shared(&items[1], &items[2]) < 2);
}

#[test]
fn a_mark_and_other_line_ends_change_nothing() {
    for file in [AZURE, MOONCAKE] {
        let plain = text(file).replace("\r\n", "\n");
        let expected = items(&plain);
        assert_eq!(items(&plain.replace('\n', "\r\n")), expected);
        assert_eq!(items(&format!("\u{feff}{plain}")), expected);
        assert_eq!(items(plain.trim_end()), expected);
    }
    assert!(text(AZURE).contains("\r\n"), "the excerpt keeps the original's line ends");
}

// --- What cannot be used -------------------------------------------------------------------------------------------------------

#[test]
fn a_file_of_no_known_format_is_refused_with_what_was_looked_for() {
    for (content, found) in [
        (
            &b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,x\n"[..],
            "`Timestamp,Model,",
        ),
        (b"TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n", "`TIMESTAMP,NumImages,"),
        // Alike but for the units: seconds, and blocks of 16 tokens.
        (
            br#"{"chat_id": 1, "parent_chat_id": -1, "timestamp": 61.1, "input_length": 131, "output_length": 12, "type": "text",
                 "turn": 1, "hash_ids": [1]}"#,
            "no JSON object: `{\"chat_id",
        ),
        (br#"{"chat_id": 1, "timestamp": 61.1, "input_length": 131, "output_length": 12, "hash_ids": [1]}"#, "the keys `chat_id, "),
        (br#"{"prompt": "hello"}"#, "an object with the keys `prompt`"),
        (br#"{"dualpool_trace": 9}"#, "the header of version 9"),
        (b"[1, 2]", "`[1, 2]`"),
        (b"\x1f\x8b\x08\x00\xff\xfe\n", "compressed"),
        (&vec![b'x'; LINE_BYTES_MAX + 1], "too long for a line"),
    ] {
        let message = error(content);
        assert!(message.contains(found), "{message}");
        for format in ["`TIMESTAMP,ContextTokens,GeneratedTokens`", "`input_length`", "`at_ms`"] {
            assert!(message.contains(format), "{message}");
        }
    }
}

#[test]
fn a_file_without_a_request_is_refused() {
    for empty in [&b""[..], b"\n\r\n", b"  "] {
        assert_eq!(error(empty), "trace is empty: there is no request in it");
    }
    let header = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n";
    assert_eq!(
        error(header.as_bytes()),
        "trace: no request is left: 0 can be used, 0 of them are skipped by the offset; no bad rows"
    );
    assert!(error(TraceRow::header(16).as_bytes()).contains("no request is left"));
    let bad = error(format!("{header}2024-05-10 00:00:00,-1,1\n").as_bytes());
    assert!(bad.ends_with("1 bad row: line 2: ContextTokens is `-1`; it must be a count of tokens"), "{bad}");
    let past = replay(text(AZURE).as_bytes(), ReplayOptions { offset: 300, ..options() }).unwrap_err().to_string();
    assert!(past.contains("300 can be used, 300 of them are skipped"), "{past}");
    let missing = open(&path("not-there.csv")).unwrap_err().to_string();
    assert!(missing.starts_with("cannot open the trace ") && missing.contains("not-there.csv"), "{missing}");
}

#[test]
fn bad_rows_cost_only_themselves_and_are_named() {
    let good = text(AZURE);
    let mut lines: Vec<String> = good.lines().map(String::from).collect();
    let bad =
        ["2023-11-16 18:16:00,12", "yesterday,1,1", "2023-11-16 18:16:00,0,7", "2023-11-16 18:16:00,1e9,7", "{}", "\u{1}", ",,"];
    bad.iter().enumerate().for_each(|(i, bad)| lines.insert(10 + 20 * i, bad.to_string()));
    lines.insert(3, format!("2023-11-16 18:16:00,{},7", TOKENS_MAX + 1));
    let (items, report) = replay(lines.join("\n").as_bytes(), options()).unwrap();
    assert_eq!(lengths(&items), lengths(&self::items(&good)));
    assert_eq!((report.bad_rows.count, report.bad_rows.named.len()), (8, BAD_ROWS_NAMED));
    let named: Vec<u64> = report.bad_rows.named.iter().map(|bad| bad.line).collect();
    assert_eq!(named, [4, 12, 32, 52, 72]);
    assert!(report.to_string().contains("8 bad rows: line 4: ContextTokens is 16777217"), "{report}");
    assert!(report.to_string().ends_with("and 3 more"), "{report}");
}

#[test]
fn a_first_line_of_a_known_format_may_be_a_bad_row() {
    let text = r#"{"timestamp": 0, "input_length": -4, "output_length": 1}
                  {"timestamp": 5, "input_length": 4, "output_length": 1}"#;
    let (items, report) = replay(text.as_bytes(), options()).unwrap();
    assert_eq!((items.len(), items[0].at), (1, Micros::ZERO));
    assert_eq!((report.bad_rows.count, report.bad_rows.named[0].line), (1, 1));
}

#[test]
fn rows_a_little_out_of_order_are_sorted_and_others_refused() {
    let text = text(AZURE).replace("\r\n", "\n");
    let mut lines: Vec<&str> = text.lines().collect();
    lines[1..].reverse();
    let (sorted, report) = replay(lines.join("\n").as_bytes(), options()).unwrap();
    assert_eq!(lengths(&sorted), lengths(&items(&text)));
    assert!(report.out_of_order > 250 && report.to_string().contains("rows put in order"), "{report}");

    let row = |ms: usize| format!("{{\"at_ms\": {ms}, \"prompt_tokens\": 4, \"output_tokens\": 1}}\n");
    let late: String = (1..2 * REORDER_ROWS).chain([0]).map(row).collect();
    let message = error(late.as_bytes());
    assert!(message.contains(&format!("line {}", 2 * REORDER_ROWS)) && message.contains("sort the file by time"), "{message}");
}

// --- The replay ----------------------------------------------------------------------------------------------------------------

#[test]
fn speed_changes_when_and_nothing_else() {
    let text = text(AZURE);
    let normal = items(&text);
    let fast = replay(text.as_bytes(), ReplayOptions { speed: 4.0, ..options() }).unwrap().0;
    for (normal, fast) in normal.iter().zip(&fast) {
        assert!(normal.at.0.abs_diff(fast.at.0 * 4) <= 2, "{} against {}", normal.at, fast.at);
        assert_eq!(*normal, WorkItem { at: normal.at, ..fast.clone() });
    }
}

#[test]
fn a_part_of_a_trace_has_the_prompts_of_the_whole() {
    for file in [AZURE, MOONCAKE] {
        let text = text(file);
        let all = items(&text);
        let (part, report) = replay(text.as_bytes(), ReplayOptions { offset: 50, limit: Some(20), ..options() }).unwrap();
        assert_eq!((part.len(), report.requests, report.skipped), (20, 20, 50));
        for (i, (item, whole)) in part.iter().zip(&all[50..]).enumerate() {
            assert_eq!(*item, WorkItem { index: i as u32, at: whole.at - all[50].at, ..whole.clone() });
        }
    }
}

#[test]
fn what_the_context_does_not_hold_is_clipped_and_counted() {
    let text = text(MOONCAKE);
    let whole = items(&text);
    let model = ModelLimits { max_model_len: 4608, ..MODEL };
    let (clipped, report) = replay(text.as_bytes(), ReplayOptions { model, ..options() }).unwrap();
    let mut expected = Clipped::default();
    for (clipped, whole) in clipped.iter().zip(&whole) {
        assert!(clipped.prompt.len() + clipped.max_tokens as usize <= 4608);
        assert_eq!(clipped.prompt[..], whole.prompt[..clipped.prompt.len()], "a prompt keeps its beginning");
        let cut = (whole.prompt.len() - clipped.prompt.len()) as u64;
        expected.requests += u32::from(cut > 0 || whole.max_tokens > clipped.max_tokens);
        expected.prompt_tokens += cut;
        expected.output_tokens += u64::from(whole.max_tokens - clipped.max_tokens);
    }
    assert!(expected.requests > 100);
    assert_eq!(report.clipped, expected);
    assert!(report.to_string().contains(&format!("{} clipped to 4608 tokens", expected.requests)), "{report}");
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let refused = |options: ReplayOptions| replay(text(AZURE).as_bytes(), options).unwrap_err().to_string();
    for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let message = refused(ReplayOptions { speed, ..options() });
        assert!(message.starts_with("replay_speed is ") && message.ends_with("from 0.001 to 1000000"), "{message}");
    }
    assert!(refused(ReplayOptions { limit: Some(0), ..options() }).starts_with("limit is 0"));
    for model in [ModelLimits { vocab_size: 1, ..MODEL }, ModelLimits { max_model_len: 1, ..MODEL }] {
        assert!(refused(ReplayOptions { model, ..options() }).contains("is 1; it must be "));
    }
}

/// A file that goes on for ever, and fails when more of it is read than `left` rows.
struct Endless {
    left: usize,
    row: u64,
    line: Cursor<Vec<u8>>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Endless {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.line.position() == self.line.get_ref().len() as u64 {
            self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("the disk is gone"))?;
            let line = format!("{{\"timestamp\": {}, \"input_length\": 9, \"output_length\": 1, \"hash_ids\": [1]}}\n", self.row);
            self.row += 1;
            self.line = Cursor::new(line.into_bytes());
        }
        self.line.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.line.consume(amount);
    }
}

#[test]
fn a_trace_is_read_as_far_as_it_is_needed() {
    let endless = |left| Endless { left, row: 0, line: Cursor::default() };
    let rows = Rows::new("endless", endless(5000)).unwrap();
    let mut replay = Replay::new(rows, ReplayOptions { limit: Some(3000), ..options() }).unwrap();
    assert_eq!(replay.by_ref().map(Result::unwrap).count(), 3000);
    assert!(replay.next().is_none());

    let mut replay = Replay::new(Rows::new("endless", endless(5000)).unwrap(), options()).unwrap();
    let failure = replay.by_ref().find_map(Result::err).unwrap().to_string();
    assert_eq!(failure, "endless: cannot read on after line 5000: the disk is gone");
    assert!(replay.next().is_none(), "an error is the end");
}

// --- Properties ----------------------------------------------------------------------------------------------------------------

/// Rows with ids from a tree, as a recorder gives them: an id stands for its block and all before it.
fn recorded() -> impl Strategy<Value = Vec<TraceRow>> {
    let turn = prop::option::of((0u64..9, 0u32..9)).prop_map(|turn| turn.map(|(id, index)| Turn { session: SessionId(id), index }));
    let ids = prop::collection::vec(0u64..3, 0..6).prop_map(|branches| {
        let below = |id: &mut u64, branch| {
            *id = *id * 3 + branch + 1;
            Some(*id)
        };
        branches.into_iter().scan(0, below).collect::<Vec<u64>>()
    });
    let row =
        (0u64..100_000, ids, 0u32..40, 1u32..9, 1u8..=3, turn).prop_map(|(at, hash_ids, own, output_tokens, priority, turn)| {
            let prompt_tokens = 16 * hash_ids.len() as u32 + own.max(u32::from(hash_ids.is_empty()));
            let priority = Priority::try_from(priority).unwrap();
            TraceRow { line: 0, at: Micros(at), prompt_tokens, output_tokens, hash_ids, priority, class: None, turn }
        });
    // Line 1 is the header's.
    let numbered = |rows: Vec<TraceRow>| (2..).zip(rows).map(|(line, row)| TraceRow { line, ..row }).collect();
    prop::collection::vec(row, 1..40).prop_map(numbered)
}

fn written(rows: &[TraceRow]) -> String {
    let lines = rows.iter().map(|row| row.to_line() + "\n");
    TraceRow::header(16) + "\n" + &lines.collect::<String>()
}

proptest! {
    // A failing case is printed. A file that keeps it is looked for beside `src/lib.rs`, which a test out here has not.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(rows in recorded()) {
        let read: Result<Vec<TraceRow>, TraceError> = Rows::new("trace", written(&rows).as_bytes()).unwrap().collect();
        prop_assert_eq!(read.unwrap(), rows);
    }

    #[test]
    fn one_seed_gives_one_workload_and_ids_say_what_is_shared(rows in recorded(), seed in 0u64..1000) {
        let text = written(&rows);
        let run = |seed| replay(text.as_bytes(), ReplayOptions { seed, ..options() }).unwrap().0;
        let items = run(seed);
        prop_assert_eq!(&items, &run(seed));
        prop_assert!(items.is_sorted_by_key(|item| item.at));
        for (item, other) in items.iter().zip(run(seed + 1)) {
            prop_assert!(item.prompt.len() < 4 || item.prompt != other.prompt, "two seeds, one prompt");
        }
        let mut rows = rows;
        rows.sort_by_key(|row| row.at);
        for (i, (row, item)) in rows.iter().zip(&items).enumerate() {
            prop_assert_eq!(row.prompt_tokens as usize, item.prompt.len());
            for (other_row, other_item) in rows[..i].iter().zip(&items) {
                let ids = row.hash_ids.iter().zip(&other_row.hash_ids).take_while(|(a, b)| a == b).count();
                // By chance two texts may begin alike, but not for long.
                prop_assert!((16 * ids..16 * ids + 4).contains(&shared(item, other_item)));
            }
        }
    }

    /// Whatever is in a file, reading it comes to an end with requests that fit the model, or with an error.
    #[test]
    fn no_file_does_harm(
        start in prop::sample::select(vec!["", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "{\"dualpool_trace\": 1}\n",
                                           "{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 1}\n"]),
        rest in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "[0-9eE,.:TZ+ \"{}\\[\\]-]{0,40}".prop_map(String::into_bytes),
            "2024-0[0-9]-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2},[0-9]{1,9},[0-9]{1,9}".prop_map(String::into_bytes),
            "\\{\"at_ms\": -?[0-9]{1,20}, \"prompt_tokens\": [0-9]{1,7}, \"output_tokens\": [0-9]{1,7}\\}".prop_map(String::into_bytes),
        ], 0..20),
    ) {
        let bytes = [start.as_bytes(), &rest.join(&b'\n')].concat();
        let model = ModelLimits { vocab_size: 100, max_model_len: 64 };
        if let Ok((items, report)) = replay(&bytes, ReplayOptions { model, ..options() }) {
            prop_assert_eq!(items.len(), report.requests as usize);
            prop_assert!(!items.is_empty());
            for item in items {
                prop_assert!(!item.prompt.is_empty() && item.max_tokens > 0 && item.prompt.len() + item.max_tokens as usize <= 64);
            }
        }
    }
}
