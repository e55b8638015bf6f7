//! One direction between two engines: the streams of its copies, and how each class of copy is carried out.
//!
//! Every class queues a part of the plan, marks it, and queues the next part while the GPU works on this one; never more than two parts are
//! under way, so that a stop takes effect within the time that these take.

use std::collections::BTreeSet;

use dualpool_cuda::{Context, CudaError, DeviceMemory, Event, PinnedMemory, Stream, Timing};

use super::super::copy_plan::ByteRange;
use super::super::cost::CopyClass;
use super::super::transport::Stop;
use super::region::{Region, ranges};
use super::wait::drained;
use super::{CopyError, SharedKernels};

/// Parts under way at a time.
pub(super) const PARTS: usize = 2;

/// How far the source's GPU reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    SameGpu,
    Peer,
    /// The GPUs cannot access each other's memory, or have as many peers as they can have.
    HostOnly,
}

pub(super) struct Route {
    reach: Reach,
    /// Classes whose set-up failed.
    without: BTreeSet<CopyClass>,
    /// On the source's GPU: what reads the source.
    pub(super) outward: Stream,
    /// On the source's GPU: copies from staging memory to staging memory.
    pub(super) link: Stream,
    /// On the target's GPU: what writes the target from staging or host memory.
    pub(super) inward: Stream,
    /// Of the last parts.
    pub(super) marks: [Marks; PARTS],
    pub(super) kernels: Option<Ends<SharedKernels>>,
    /// Made when they are first needed.
    pub(super) staging: Option<Ends<DeviceMemory>>,
    pub(super) host: Option<PinnedMemory>,
    /// The target as kernels of the source's GPU reach it.
    pub(super) target_seen: Option<Region>,
}

/// The source is read (by a stream of the source's GPU), the link crossed (also), the target written (by one of the target's).
pub(super) struct Marks {
    pub read: Event,
    pub crossed: Event,
    pub written: Event,
}

/// One of each on the source's and on the target's GPU.
#[derive(Clone)]
pub(super) struct Ends<T> {
    pub source: T,
    pub target: T,
}

impl Route {
    pub(super) fn new(
        source: &Region,
        target: &Region,
        kernels: Option<(SharedKernels, SharedKernels)>,
    ) -> Result<Route, CudaError> {
        let (from, to) = (source.context(), target.context());
        let marks = || -> Result<Marks, CudaError> {
            let event = |context: &Context| context.event(Timing::Off);
            Ok(Marks { read: event(from)?, crossed: event(from)?, written: event(to)? })
        };
        Ok(Route {
            reach: reach(from, to)?,
            without: BTreeSet::new(),
            outward: from.stream()?,
            link: from.stream()?,
            inward: to.stream()?,
            marks: [marks()?, marks()?],
            kernels: kernels.map(|(source, target)| Ends { source, target }),
            staging: None,
            host: None,
            target_seen: None,
        })
    }

    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// What can be done here, in ascending order of `CopyClass`.
    pub(super) fn classes(&self) -> Vec<CopyClass> {
        let has = |class: &CopyClass| match (class, self.reach) {
            (CopyClass::ThroughHost, _) => true,
            (_, Reach::HostOnly) => false,
            (CopyClass::Direct, _) => true,
            (CopyClass::PeerStore, _) => self.kernels.is_some(),
            // Within one GPU it is two copies where a kernel makes one.
            (CopyClass::Staged, reach) => reach == Reach::Peer && self.kernels.is_some(),
        };
        CopyClass::ALL.into_iter().filter(|class| has(class) && !self.without.contains(class)).collect()
    }

    /// When this returns, in whatever way, nothing of it is under way any more.
    pub(super) fn copy(
        &mut self,
        class: CopyClass,
        plan: &[ByteRange],
        source: &Region,
        target: &Region,
        stop: &Stop,
    ) -> Result<(), CopyError> {
        let done = match class {
            CopyClass::Direct => ranges(plan, source, target).and_then(|ranges| self.direct(&ranges, stop)),
            CopyClass::Staged => ranges(plan, source, target).and_then(|ranges| self.staged(&ranges, stop)),
            CopyClass::PeerStore => self.peer_store(plan, source, target, stop),
            CopyClass::ThroughHost => ranges(plan, source, target).and_then(|ranges| self.through_host(&ranges, stop)),
        };
        done.inspect_err(|error| {
            self.drain(source, target);
            if matches!(error, CopyError::SetUp(_)) {
                self.without.insert(class);
            }
        })
    }

    /// Waits until nothing that was queued touches the engines' memory any more. An error here is one of the copies', which have been
    /// reported as failed already.
    fn drain(&self, source: &Region, target: &Region) {
        for stream in [&self.outward, &self.link, &self.inward] {
            let gpu = stream.context().device();
            let over = drained(stream, format_args!("a copy from {} to {} on {gpu}", source.engine(), target.engine()));
            if let Err(error) = over {
                tracing::debug!("after a copy that failed: {error}");
            }
        }
    }
}

fn reach(from: &Context, to: &Context) -> Result<Reach, CudaError> {
    if from.same_gpu(to) {
        return Ok(Reach::SameGpu);
    }
    // Both ways: copies go by the source's GPU, and a batch of them may be carried out by either.
    match from.enable_peer(to).and_then(|()| to.enable_peer(from)) {
        Ok(()) => Ok(Reach::Peer),
        Err(CudaError::NoPeerAccess { .. }) => Ok(Reach::HostOnly),
        Err(error) => Err(error),
    }
}
