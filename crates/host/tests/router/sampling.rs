//! Requests whose next token depends on more than the tokens before it stay on the engine that knows the rest.

use dualpool_router::{Action, MigrationSettings, RouterSettings};
use dualpool_types::{Arrangement, Micros, Objectives, Phase, PolicyKind, RejectReason, RequestError, RequestId, Sampling, Tuning};

use super::script::{A, B, Stage, split};

const TIED: [Sampling; 3] = [
    Sampling { temperature: 0.7, seed: Some(1), ..GREEDY },
    Sampling { presence_penalty: 0.4, ..GREEDY },
    Sampling { frequency_penalty: 0.4, ..GREEDY },
];

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_p: 1.0,
    top_k: 0,
    seed: None,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    repetition_penalty: 1.0,
};

const OBJECTIVES: Objectives = Objectives { ttft_us_max: Micros(3_000_000), itl_us_max: Micros(200_000) };

fn result(stage: &Stage, request: u64) -> Option<Result<(), RequestError>> {
    stage.result(RequestId(request)).clone()
}

#[test]
fn they_are_not_split() {
    for sampling in TIED {
        let mut stage = Stage::pair(PolicyKind::FullDisaggregation);
        stage.arrive_sampled(0, 1000, 4, OBJECTIVES, sampling);
        let leg = &stage.live[&stage.leg_of(0)].leg;
        assert_eq!((leg.hold, leg.max_tokens, leg.sampling), (false, 4, sampling));
        stage.give(stage.leg_of(0), 4);
        stage.check_over();
    }
    let mut stage = Stage::pair(PolicyKind::FullDisaggregation);
    stage.arrive_sampled(0, 1000, 4, OBJECTIVES, Sampling { temperature: 0.7, repetition_penalty: 1.3, ..GREEDY });
    assert!(stage.live[&stage.leg_of(0)].leg.hold, "nothing of this one would be lost");
    stage.cancel(0);
}

#[test]
fn they_stay_on_an_engine_that_is_drained() {
    let migration = MigrationSettings { enabled: true, ..MigrationSettings::default() };
    let settings = RouterSettings { migration, ..RouterSettings::default() };
    for sampling in TIED {
        let mut stage = Stage::with(2, &split(PolicyKind::FullDisaggregation, &[A], &[B]), &settings);
        stage.arrive_sampled(0, 1000, 4, OBJECTIVES, sampling);
        stage.give(stage.leg_of(0), 1);
        stage.drain(A);
        let actions = stage.wait(1_000);
        assert!(!actions.iter().any(|action| matches!(action, Action::Detach { .. })), "{actions:?}");
        stage.give(stage.leg_of(0), 3);
        assert!(stage.wait(50).iter().any(|action| matches!(action, Action::Note(_))), "empty at last");
        stage.check_over();
    }
}

#[test]
fn after_a_death_they_begin_anew_only_while_nobody_has_seen_a_token() {
    for sampling in TIED {
        let shared = Arrangement::shared("rr", PolicyKind::RoundRobin, 2, Tuning::default());
        let mut stage = Stage::new(2, &shared);
        stage.arrive_sampled(0, 100, 4, OBJECTIVES, sampling);
        stage.arrive_sampled(1, 100, 4, OBJECTIVES, sampling);
        let dies = stage.engine_of(0);
        stage.die(dies);
        assert_ne!(stage.engine_of(0), dies, "no token was out");
        stage.give(stage.leg_of(1), 2);
        stage.die(stage.engine_of(1));
        let Some(Err(RequestError::EngineDied { phase: Phase::Decode, why, .. })) = result(&stage, 1) else {
            panic!("{:?}", result(&stage, 1));
        };
        let stays = sampling.continues().unwrap_err().to_string();
        assert!(why.starts_with("killed; ") && why.contains(&stays), "{why}");
        assert!(matches!(result(&stage, 0), Some(Err(RequestError::EngineDied { .. }))), "no engine is left");
        stage.check_over();
    }
}

#[test]
fn what_no_engine_would_take_is_rejected() {
    let mut stage = Stage::pair(PolicyKind::DualPool);
    stage.arrive_sampled(0, 100, 4, OBJECTIVES, Sampling { top_p: 2.0, ..GREEDY });
    let Some(Err(RequestError::Rejected { reason: RejectReason::Sampling { rule } })) = result(&stage, 0) else {
        panic!("{:?}", result(&stage, 0));
    };
    assert!(rule.contains("`top_p`"), "{rule}");
}
