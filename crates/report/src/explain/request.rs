//! Every decision about one request, with what spoke for and against each engine.

use std::path::Path;

use dualpool_types::RequestId;
use dualpool_types::records::{Candidate, MigrationReason, NoteRecord, Outcome, Placed, RouterNote};

use super::evidence::{Decided, SCORE, Weights};
use super::fates::Fate;
use super::text::{harmless, term};
use super::{DECISIONS, ExplainError, PLACEMENTS_TAKE, WorkloadFolder, weights, workloads};
use crate::grid::{aligned, bare};
use crate::lines::Lines;

/// The least and the greatest id seen.
#[derive(Clone, Copy, Default)]
struct Ids(Option<(u64, u64)>);

impl Ids {
    fn saw(&mut self, id: u64) {
        let (first, last) = self.0.unwrap_or((id, id));
        self.0 = Some((first.min(id), last.max(id)));
    }
}

/// All that was decided about the request, as text, in every arm and workload that served one of this id.
pub fn told(dir: &Path, request: RequestId) -> Result<String, ExplainError> {
    let (mut text, mut ids, mut noted) = (String::new(), Ids::default(), false);
    for folder in workloads(dir)? {
        let told = folder.told(request, &mut ids)?;
        noted |= told.noted;
        if !told.text.is_empty() {
            if let Some(name) = &folder.name {
                text += &format!("== {name} ==\n\n");
            }
            text += &told.text;
        }
    }
    match ids.0 {
        _ if !text.is_empty() => Ok(harmless(&text)),
        _ if !noted => Err(ExplainError::NothingNoted(dir.into())),
        None => Err(ExplainError::NoRequests(dir.into())),
        Some((first, last)) => Err(ExplainError::UnknownRequest { folder: dir.into(), request: request.0, first, last }),
    }
}

struct Told {
    text: String,
    /// Whether there are decisions at all, of whatever request.
    noted: bool,
}

impl WorkloadFolder {
    fn told(&self, request: RequestId, ids: &mut Ids) -> Result<Told, ExplainError> {
        let (mut told, mut explained) = (Told { text: String::new(), noted: false }, false);
        if let Some(decisions) = Lines::<NoteRecord>::open(&self.dir, DECISIONS)? {
            told.noted = true;
            let weights = weights(&self.dir)?;
            for record in decisions {
                let record = record?;
                explained |= matches!(record.note, RouterNote::Placed(_));
                let (RouterNote::Placed(Placed { request: of, .. }) | RouterNote::Migrated { request: of, .. }) = record.note
                else {
                    continue;
                };
                ids.saw(of.0);
                if of == request {
                    told.text += &decision(&record, Weights(weights.as_ref()));
                }
            }
        }
        let mut ends = String::new();
        for fate in self.fates()?.into_iter().flatten() {
            let fate = fate?;
            ids.saw(fate.request());
            if fate.request() == request.0 && told.noted {
                ends += &end(&fate);
            }
        }
        if !ends.is_empty() && !explained {
            told.text += PLACEMENTS_TAKE;
        }
        told.text += &ends;
        Ok(told)
    }
}

fn end(fate: &Fate) -> String {
    let how = match &fate.outcome {
        Outcome::Done => "done".to_string(),
        Outcome::Failed { error } => error.to_string(),
    };
    format!("{}, repetition {}: in the end {how}\n", fate.arm, fate.repetition)
}

fn decision(record: &NoteRecord, weights: Weights<'_>) -> String {
    let head = format!("{}, repetition {}, at {:.3} s: ", record.arm, record.repetition, record.at_us.as_secs());
    match &record.note {
        RouterNote::Placed(placed) => format!("{head}{}", placement(placed, weights)),
        RouterNote::Migrated { from, to, tokens, why, .. } => {
            let why = match why {
                MigrationReason::SavesTime => "it was predicted to save time",
                MigrationReason::Drain => "its engine is drained",
            };
            let kv = if *tokens == 0 { "its KV computed again".into() } else { format!("with the KV of {tokens} tokens") };
            format!("{head}moved while it decoded, {from} to {to}, {kv}, because {why}\n\n")
        }
        // Of no request.
        _ => String::new(),
    }
}

fn placement(placed: &Placed, weights: Weights<'_>) -> String {
    let Placed { policy, prompt_tokens, outputs, from, chosen, prefill_only, candidates, .. } = placed;
    let kv = from.map_or(String::new(), |from| format!(", KV on {from}"));
    let then = if *prefill_only { ", which only prefills it" } else { "" };
    let mut text = format!(
        "{} placed it on {chosen}{then}: {prompt_tokens} tokens so far, {outputs} to come{kv}; {}\n",
        policy.name(),
        why(placed, weights)
    );
    let mut names: Vec<&str> = candidates.iter().flat_map(|candidate| candidate.terms.keys().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    let mut table = bare();
    table.set_header(["", SCORE, "cached tokens"].into_iter().chain(names.iter().copied()));
    for candidate in candidates {
        let mark = if candidate.engine == *chosen { " *" } else { "" };
        let figures = [candidate.score.map_or("-".into(), term), candidate.cached_tokens.to_string()];
        let terms = names.iter().map(|name| candidate.terms.get(*name).map_or("-".into(), |&value| term(value)));
        table.add_row([format!("{}{mark}", candidate.engine)].into_iter().chain(figures).chain(terms));
    }
    text += &aligned(table);
    text + "\n"
}

fn why(placed: &Placed, weights: Weights<'_>) -> String {
    let Some(evidence) = weights.judge(placed) else { return "no engine was scored".into() };
    let over = |other: Option<&Candidate>| other.map_or(String::new(), |other| format!(" over {}", other.engine));
    match evidence.decided {
        Decided::OnlyOne => "there was no other engine".into(),
        Decided::Turns => "it was its turn".into(),
        Decided::By(term) => format!("decided by `{term}`{}", over(evidence.other)),
        Decided::Equal => format!("chosen{}, which has the same score, by turns or by devices", over(evidence.other)),
        Decided::NotByScore => "another one has the better score: a rule of the policy, a lost device or a draw decided".into(),
        Decided::Unknown => "which term decided is not known, for the weights are not".into(),
    }
}
