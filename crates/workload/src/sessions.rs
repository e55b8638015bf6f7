//! `prefix_sessions`: conversations. Every prompt begins with the one before it, and every session with one of a few system prompts,
//! so that an engine that has served a session's last turn has most of the next one's KV - if the router sends it there.
//!
//! The load is open: a turn comes when its user would have read the answer to the turn before, by the planned speed and not by the
//! real one. A slow system is not spared the next turns.
//!
//! Answers inside of a history are drawn, for the real ones differ from model to model. What a turn shares with the turn before it is
//! therefore that turn's prompt, not its answer.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::iter::Peekable;
use std::ops::RangeInclusive;

use rand::Rng as _;
use rand_distr::{Distribution, Exp1, Zipf};

use dualpool_types::{Class, LONG_PROMPT_TOKENS_MIN, Micros, Rng, SessionId, TokenId, Turn, seeded};

use super::item::{ModelLimits, WorkItem};
use super::lengths::Lengths;
use super::parameter::{ParameterError, countable, fits, require, within};
use super::process::{ArrivalProcess, Times};
use super::tokens::{Text, Writer};

/// The requests of `prefix_sessions`. By default they fit the default context, and suit two one-core CPU engines with a
/// 135M-parameter model.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefixSessions {
    pub sessions: u32,
    /// New sessions per second, on average.
    pub rate: f64,
    /// How sessions begin.
    pub arrivals: ArrivalProcess,
    /// How many system prompts there are.
    pub prefixes: u32,
    pub prefix_tokens: u32,
    /// How unevenly sessions choose among the system prompts: the n-th most popular has a weight of `n^-skew`. 0 is evenly.
    pub prefix_skew: f64,
    /// Turns of a session, drawn uniformly.
    pub turns: RangeInclusive<u32>,
    /// New tokens that the user adds in a turn.
    pub question: Lengths,
    /// Output tokens of a turn, and as many that the next turn's history has for them.
    pub answer: Lengths,
    /// From the planned end of an answer to the next question: exponential, with this mean.
    pub think: Micros,
    /// A turn is planned to have its first token after this,
    pub planned_ttft: Micros,
    /// and each further token after another one of these.
    pub planned_itl: Micros,
    /// Prompts from here on count as long.
    pub long_prompt_tokens_min: u32,
}

impl Default for PrefixSessions {
    fn default() -> Self {
        PrefixSessions {
            sessions: 24,
            rate: 1.0,
            arrivals: ArrivalProcess::Poisson,
            prefixes: 4,
            prefix_tokens: 512,
            prefix_skew: 0.8,
            turns: 2..=6,
            question: Lengths { median: 48, spread: 0.5, min: 8, max: 128 },
            answer: Lengths { median: 24, spread: 0.5, min: 4, max: 64 },
            think: Micros(1_500_000),
            planned_ttft: Micros(300_000),
            planned_itl: Micros(30_000),
            long_prompt_tokens_min: LONG_PROMPT_TOKENS_MIN,
        }
    }
}

impl PrefixSessions {
    /// The requests, in order of arrival. Memory grows with the sessions that go on at one time, not with all.
    pub fn items(&self, model: ModelLimits, seed: u64) -> Result<impl Iterator<Item = WorkItem> + use<>, ParameterError> {
        self.check(model)?;
        // What the constructor refuses, `check` has refused before.
        let skew = self.prefix_skew;
        let popularity = Zipf::new(f64::from(self.prefixes), skew).map_err(|_| ParameterError {
            key: "prefix_skew",
            value: skew.to_string(),
            expected: "from 0 to 10".into(),
        })?;
        Ok(Sessions {
            starts: self.arrivals.times(self.rate, seeded(seed, "arrivals")).peekable(),
            begun: 0,
            going_on: BinaryHeap::new(),
            given: 0,
            writer: Writer::new(model.vocab_size, seed),
            popularity,
            plan: self.clone(),
            seed,
        })
    }

    fn check(&self, model: ModelLimits) -> Result<(), ParameterError> {
        model.check()?;
        self.arrivals.check(self.rate)?;
        require("prefixes", self.prefixes, self.prefixes >= 1, "at least 1")?;
        within("prefix_skew", self.prefix_skew, 0.0..=10.0, "from 0 to 10")?;
        let (fewest, most) = (*self.turns.start(), *self.turns.end());
        require("turns", format!("{fewest} to {most}"), 1 <= fewest && fewest <= most, "at least 1, the lower bound first")?;
        countable("sessions * turns", u64::from(self.sessions) * u64::from(most))?;
        self.question.check("question")?;
        self.answer.check("answer")?;
        let an_hour = Micros::from_secs(3600.0);
        for (key, span) in [("think", self.think), ("planned_ttft", self.planned_ttft), ("planned_itl", self.planned_itl)] {
            require(key, span, span <= an_hour, "at most an hour")?;
        }
        let turn = u64::from(self.question.max) + u64::from(self.answer.max);
        let longest = u64::from(self.prefix_tokens).saturating_add(turn.saturating_mul(most.into()));
        fits("prefix_tokens + turns * (question.max + answer.max)", longest, model.max_model_len)
    }

    /// From a turn's arrival to the next one's.
    fn until_next(&self, output_tokens: u32, rng: &mut Rng) -> Micros {
        let answering = self.planned_ttft.0 + self.planned_itl.0 * u64::from(output_tokens.saturating_sub(1));
        let thinking: f64 = Exp1.sample(rng);
        Micros(answering + (self.think.0 as f64 * thinking).round() as u64)
    }
}

/// A session that has turns to come.
struct Session {
    id: u32,
    turn: u32,
    turns: u32,
    /// When the next turn comes.
    at: Micros,
    history: Vec<TokenId>,
    /// Its own, so that a session is the same whatever else goes on.
    rng: Rng,
}

impl Session {
    fn due(&self) -> (Micros, u32) {
        (self.at, self.id)
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Session) -> bool {
        self.due() == other.due()
    }
}

impl Eq for Session {}

impl PartialOrd for Session {
    fn partial_cmp(&self, other: &Session) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Session {
    fn cmp(&self, other: &Session) -> Ordering {
        self.due().cmp(&other.due())
    }
}

struct Sessions {
    plan: PrefixSessions,
    seed: u64,
    writer: Writer,
    popularity: Zipf<f64>,
    starts: Peekable<Times>,
    begun: u32,
    /// The session with the earliest turn on top.
    going_on: BinaryHeap<Reverse<Session>>,
    given: u32,
}

impl Sessions {
    /// Begins every session that begins before the next turn of those going on.
    fn begin_due(&mut self) {
        while self.begun < self.plan.sessions
            && let Some(at) = self.starts.next_if(|&at| self.going_on.peek().is_none_or(|Reverse(session)| at <= session.at))
        {
            let id = self.begun;
            let mut rng = seeded(self.seed, &format!("session {id}"));
            // Zipf counts from 1, in whole numbers.
            let prefix = self.popularity.sample(&mut rng) as u64 - 1;
            let mut history = Vec::new();
            self.writer.append(&mut history, Text::System(prefix), self.plan.prefix_tokens as usize);
            let turns = rng.random_range(self.plan.turns.clone());
            self.going_on.push(Reverse(Session { id, turn: 0, turns, at, history, rng }));
            self.begun += 1;
        }
    }
}

impl Iterator for Sessions {
    type Item = WorkItem;

    fn next(&mut self) -> Option<WorkItem> {
        self.begin_due();
        let Reverse(mut session) = self.going_on.pop()?;
        let question = self.plan.question.draw(&mut session.rng) as usize;
        let answer = self.plan.answer.draw(&mut session.rng);

        let turn = Text::Turn { session: session.id.into(), turn: session.turn };
        let prompt_ends = session.history.len() + question;
        self.writer.append(&mut session.history, turn, question + answer as usize);
        let prompt = &session.history[..prompt_ends];

        let class = if prompt.len() >= self.plan.long_prompt_tokens_min as usize { Class::Long } else { Class::Short };
        let item = WorkItem {
            turn: Some(Turn { session: SessionId(session.id.into()), index: session.turn }),
            ..WorkItem::new(self.given, session.at, prompt.into(), answer, class)
        };
        self.given += 1;
        session.turn += 1;
        session.at += self.plan.until_next(answer, &mut session.rng);
        if session.turn < session.turns {
            self.going_on.push(Reverse(session));
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const MODEL: ModelLimits = ModelLimits { vocab_size: 49_152, max_model_len: 4608 };

    fn by_session(plan: &PrefixSessions, seed: u64) -> BTreeMap<SessionId, Vec<WorkItem>> {
        let mut sessions = BTreeMap::new();
        for item in plan.items(MODEL, seed).unwrap() {
            sessions.entry(item.turn.unwrap().session).or_insert_with(Vec::new).push(item);
        }
        sessions
    }

    #[test]
    fn turns_come_in_order_and_every_session_has_all_of_its_turns() {
        let plan = PrefixSessions { sessions: 200, ..PrefixSessions::default() };
        let items: Vec<WorkItem> = plan.items(MODEL, 1).unwrap().collect();
        assert!(items.iter().enumerate().all(|(i, item)| item.index == i as u32) && items.is_sorted_by_key(|item| item.at));
        let sessions = by_session(&plan, 1);
        assert_eq!(sessions.len(), 200);
        for turns in sessions.values() {
            assert!(plan.turns.contains(&(turns.len() as u32)));
            assert!(turns.iter().enumerate().all(|(i, item)| item.turn.unwrap().index == i as u32));
        }
        let lengths: BTreeSet<usize> = sessions.values().map(Vec::len).collect();
        assert_eq!(lengths, (2..=6).collect());
    }

    #[test]
    fn a_prompt_is_the_one_before_and_its_answer_and_new_tokens() {
        let plan = PrefixSessions::default();
        for turns in by_session(&plan, 2).values() {
            for pair in turns.windows(2) {
                let (before, after) = (&pair[0], &pair[1]);
                assert_eq!(after.prompt[..before.prompt.len()], before.prompt[..]);
                let new = (after.prompt.len() - before.prompt.len()) as u32 - before.max_tokens;
                assert!((plan.question.min..=plan.question.max).contains(&new));
            }
        }
    }

    #[test]
    fn sessions_share_a_system_prompt_and_nothing_else() {
        let plan = PrefixSessions { sessions: 100, ..PrefixSessions::default() };
        let sessions = by_session(&plan, 3);
        let prefix = plan.prefix_tokens as usize;
        let systems: BTreeSet<&[TokenId]> = sessions.values().map(|turns| &turns[0].prompt[..prefix]).collect();
        assert_eq!(systems.len(), plan.prefixes as usize);
        let questions: BTreeSet<&[TokenId]> = sessions.values().map(|turns| &turns[0].prompt[prefix..prefix + 8]).collect();
        assert_eq!(questions.len(), sessions.len());
    }

    #[test]
    fn a_skew_makes_one_system_prompt_popular() {
        let most_popular = |prefix_skew| {
            let plan = PrefixSessions { sessions: 1000, turns: 1..=1, prefixes: 10, prefix_skew, ..PrefixSessions::default() };
            let mut counts = BTreeMap::new();
            plan.items(MODEL, 1).unwrap().for_each(|item| *counts.entry(item.prompt[..8].to_vec()).or_insert(0) += 1);
            counts.into_values().max().unwrap()
        };
        let (even, skewed) = (most_popular(0.0), most_popular(1.5));
        assert!((80..150).contains(&even) && skewed > 400, "{even} and {skewed} of 1000");
    }

    #[test]
    fn a_turn_comes_when_the_answer_before_it_is_planned_to_be_read() {
        let plan = PrefixSessions { sessions: 300, ..PrefixSessions::default() };
        let mut thought = Vec::new();
        for turns in by_session(&plan, 4).values() {
            for pair in turns.windows(2) {
                let answered = pair[0].at.0 + 300_000 + 30_000 * u64::from(pair[0].max_tokens - 1);
                assert!(pair[1].at.0 >= answered, "{:?} comes before the planned end of the turn before", pair[1].turn);
                thought.push((pair[1].at.0 - answered) as f64 / 1e6);
            }
        }
        let mean = thought.iter().sum::<f64>() / thought.len() as f64;
        assert!((1.3..1.7).contains(&mean), "users think for {mean:.2} s, asked for 1.5 s");
    }

    /// What one session says and when does not hang on how many others there are.
    #[test]
    fn more_sessions_leave_the_first_ones_as_they_are() {
        let few = by_session(&PrefixSessions { sessions: 5, ..PrefixSessions::default() }, 5);
        let many = by_session(&PrefixSessions { sessions: 50, ..PrefixSessions::default() }, 5);
        for (id, turns) in few {
            let same = |(a, b): (&WorkItem, &WorkItem)| (a.at, a.turn, &a.prompt) == (b.at, b.turn, &b.prompt);
            assert!(turns.len() == many[&id].len() && turns.iter().zip(&many[&id]).all(same), "{id}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let key = |plan: PrefixSessions| plan.items(MODEL, 1).err().unwrap().key;
        let plan = PrefixSessions::default;
        assert_eq!(key(PrefixSessions { turns: 2..=60, ..plan() }), "prefix_tokens + turns * (question.max + answer.max)");
        assert_eq!(key(PrefixSessions { turns: 0..=3, ..plan() }), "turns");
        assert_eq!(key(PrefixSessions { sessions: 0, ..plan() }), "sessions * turns");
        assert_eq!(key(PrefixSessions { prefixes: 0, ..plan() }), "prefixes");
        assert_eq!(key(PrefixSessions { prefix_skew: -1.0, ..plan() }), "prefix_skew");
        assert_eq!(key(PrefixSessions { think: Micros(u64::MAX), ..plan() }), "think");
        assert_eq!(key(PrefixSessions { rate: f64::NAN, ..plan() }), "rate");
    }
}
