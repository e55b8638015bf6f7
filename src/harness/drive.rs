//! One run: an arrangement serves one workload once.

use std::time::Duration;

use anyhow::anyhow;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Cancel;
use crate::config::ObjectiveSettings;
use crate::controller::{Controller, NewRequest, Recording, Reply, ReplyStream};
use crate::core::{Class, Clock, EngineId, Micros, MonotonicClock, Objectives};
use crate::router::{Arrangement, CostModel};
use crate::workload::WorkItem;

/// How long after its last arrival a run may take before it is given up.
const OVERTIME_MAX: Duration = Duration::from_secs(600);

/// How long the engines may take to give back all KV blocks once the last request ended.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// How long the fleet may take to fall idle, change its arrangement and forget its caches before a run.
const ARRANGE_MAX: Duration = Duration::from_secs(30);

/// Time between the decision to start and the first planned arrival: the submitting task is running by then.
const HEAD_START: Duration = Duration::from_millis(20);

/// How the requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Each at its planned time, however many are still running.
    OpenLoop,
    /// Each after the one before it ended, with all prefix caches reset: no request shares a step or a block with another one.
    OneByOne,
}

#[derive(Debug, Error)]
pub(super) enum DriveError {
    #[error("cancelled")]
    Cancelled,
    #[error("arm `{arm}`: {unfinished} of {requests} requests were not over {} s after the last arrival", OVERTIME_MAX.as_secs())]
    Overtime { arm: String, unfinished: usize, requests: usize },
    #[error("arm `{arm}`: {engine} died, and with an engine less the arms cannot be compared; see its log, then run again")]
    EngineDied { arm: String, engine: EngineId },
    #[error("arm `{arm}`: {recorded} of {requests} requests were recorded")]
    Lost { arm: String, recorded: usize, requests: usize },
    #[error("arm `{arm}`: {source}")]
    Arrange { arm: String, source: anyhow::Error },
    #[error("the router's cost model cannot be read: {0}")]
    Costs(anyhow::Error),
}

/// What a run left.
#[derive(Debug)]
pub(super) struct Run {
    /// In the order of the workload.
    pub recording: Recording,
    /// KV blocks still held after the last request ended; 0 is right.
    pub held_blocks: u64,
}

impl Run {
    /// The longest time between two samples of the engines. They are taken by a timer, so when it is many periods long, the whole
    /// machine stood still (a paused virtual machine, a starved process), whatever arm was on.
    pub fn longest_pause(&self) -> Micros {
        let samples = &self.recording.samples;
        samples.windows(2).map(|pair| pair[1].at_us - pair[0].at_us).max().unwrap_or_default()
    }
}

pub(super) struct Driver<'a> {
    pub controller: &'a Controller,
    pub objectives: &'a ObjectiveSettings,
    pub cancel: &'a Cancel,
}

impl Driver<'_> {
    /// What the router has learned of these engines so far.
    pub async fn costs(&self) -> Result<CostModel, DriveError> {
        self.controller.costs().await.map_err(DriveError::Costs)
    }

    pub async fn run(&self, arrangement: &Arrangement, repetition: u32, items: &[WorkItem], pace: Pace) -> Result<Run, DriveError> {
        let arm = &arrangement.name;
        let arranged = tokio::time::timeout(ARRANGE_MAX, self.arrange(arrangement)).await;
        let arranged = arranged.unwrap_or_else(|_| Err(anyhow!("the engines were not idle and arranged within {ARRANGE_MAX:?}")));
        arranged.map_err(|source| DriveError::Arrange { arm: arm.clone(), source })?;

        let origin = Instant::now() + HEAD_START;
        self.controller.record(arm, repetition, MonotonicClock::new().now().plus(HEAD_START.into())).await;
        let served = tokio::select! {
            served = self.serve(arm, items, pace, origin) => served,
            () = self.cancel.cancelled() => Err(DriveError::Cancelled),
        };
        // Also after a failure: the requests it dropped are over, and their blocks given back, before anyone goes on.
        let settled = self.controller.settle(SETTLE_MAX).await;
        let mut recording = self.controller.recorded().await;
        served?;
        let held_blocks = settled.map_err(|source| DriveError::Arrange { arm: arm.clone(), source })?.held_blocks;
        if let Some(&engine) = self.controller.dead_engines().await.first() {
            return Err(DriveError::EngineDied { arm: arm.clone(), engine });
        }
        if recording.requests.len() != items.len() {
            return Err(DriveError::Lost { arm: arm.clone(), recorded: recording.requests.len(), requests: items.len() });
        }
        recording.requests.sort_by_key(|r| r.index);
        if pace == Pace::OpenLoop {
            // A request that this process sent late has waited since it was due: the delay is the request's, never ours to hide.
            for (record, item) in recording.requests.iter_mut().zip(items) {
                record.arrived_us = item.at;
            }
        }
        Ok(Run { recording, held_blocks })
    }

    async fn arrange(&self, arrangement: &Arrangement) -> anyhow::Result<()> {
        self.controller.arrange(arrangement).await?;
        self.controller.reset_prefix_caches().await
    }

    async fn serve(&self, arm: &str, items: &[WorkItem], pace: Pace, origin: Instant) -> Result<(), DriveError> {
        match pace {
            Pace::OpenLoop => self.open_loop(arm, items, origin).await,
            Pace::OneByOne => self.one_by_one(arm, items).await,
        }
    }

    async fn open_loop(&self, arm: &str, items: &[WorkItem], origin: Instant) -> Result<(), DriveError> {
        // Bounded by the workload; dropping the set cancels what is still running.
        let mut clients = JoinSet::new();
        for item in items {
            tokio::time::sleep_until(origin + Duration::from(item.at)).await;
            // Submitted here and followed in a task: requests that are due together reach the router in the workload's order.
            clients.spawn(follow(self.controller.submit(self.request(item)).await));
        }
        let all_over = async { while clients.join_next().await.is_some() {} };
        if tokio::time::timeout(OVERTIME_MAX, all_over).await.is_err() {
            return Err(DriveError::Overtime { arm: arm.to_string(), unfinished: clients.len(), requests: items.len() });
        }
        Ok(())
    }

    async fn one_by_one(&self, arm: &str, items: &[WorkItem]) -> Result<(), DriveError> {
        for (done, item) in items.iter().enumerate() {
            let over = follow(self.controller.submit(self.request(item)).await);
            if tokio::time::timeout(OVERTIME_MAX, over).await.is_err() {
                return Err(DriveError::Overtime { arm: arm.to_string(), unfinished: items.len() - done, requests: items.len() });
            }
            // Blocks of a hand-off are given back a moment after the request's end, and a cache in use cannot be reset.
            let failed = |source| DriveError::Arrange { arm: arm.to_string(), source };
            self.controller.settle(SETTLE_MAX).await.map_err(failed)?;
            self.controller.reset_prefix_caches().await.map_err(failed)?;
        }
        Ok(())
    }

    fn request(&self, item: &WorkItem) -> NewRequest {
        NewRequest {
            prompt: item.prompt.clone(),
            max_tokens: item.max_tokens,
            ignore_eos: true,
            class: item.class,
            objectives: objectives(self.objectives, item.class),
            index: item.index,
        }
    }
}

/// Reads a request's replies to its end. What it was and when is in the recording.
async fn follow(mut replies: ReplyStream) {
    while let Some(reply) = replies.next().await {
        if matches!(reply, Reply::End(_)) {
            break;
        }
    }
}

/// The user's objectives for a request of this class.
pub(super) fn objectives(settings: &ObjectiveSettings, class: Class) -> Objectives {
    let ttft_ms = match class {
        Class::Short => settings.ttft_short_ms,
        Class::Long => settings.ttft_long_ms,
    };
    Objectives { ttft_us_max: Micros::from_ms(ttft_ms), itl_us_max: Micros::from_ms(settings.itl_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Role;
    use crate::telemetry::EngineSample;

    #[test]
    fn the_longest_pause_is_the_widest_gap_between_samples() {
        let sample = |at_ms: u64, engine: u16| EngineSample {
            arm: "a".into(),
            repetition: 0,
            at_us: Micros(at_ms * 1000),
            engine: EngineId(engine),
            role: Role::Shared,
            waiting: 0,
            running: 0,
            kv_usage: None,
            prefix_hits: None,
        };
        let samples = [0, 50, 100, 9700, 9750].into_iter().flat_map(|at| [sample(at, 0), sample(at, 1)]).collect();
        let run = |samples| Run { recording: Recording { requests: vec![], samples }, held_blocks: 0 };
        assert_eq!(run(samples).longest_pause(), Micros(9_600_000));
        assert_eq!(run(vec![]).longest_pause(), Micros::ZERO);
    }
}
