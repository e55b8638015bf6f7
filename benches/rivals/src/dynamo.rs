//! `dynamo-kv-router`: its indexers, and its default selector over what they say. Of its decision only these two are measured; what
//! surrounds them there (queue, bookings, load projections) is left out, and the request it selects for is made once.

use std::collections::{HashMap, HashSet};

use dynamo_kv_router::indexer::{KvIndexerInterface, SyncIndexer, ThreadPoolIndexer};
use dynamo_kv_router::protocols::{
    BlockHashOptions, ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheStoreData, KvCacheStoredBlockData,
    OverlapScores, RouterEvent, RoutingConstraints, WorkerConfigLike, WorkerId, WorkerWithDpRank, compute_block_hash_for_seq,
    compute_seq_hash_for_block,
};
use dynamo_kv_router::scheduling::{OverlapSignals, ScheduleMode};
use dynamo_kv_router::{
    ConcurrentRadixTreeCompressed, DefaultWorkerSelector, KvRouterConfig, PositionalIndexer, RadixTree, SchedulingRequest,
    WorkerLoadProjection, WorkerSelectionInput, WorkerSelector,
};

use crate::Index;
use crate::prompts::{BLOCK, BLOCKS, PROMPT, Workload};

/// How far the positional indexer jumps at once; its documentation's own choice.
const JUMP: usize = 32;

#[derive(Default)]
struct Worker {
    taints: HashSet<String>,
    blocks: u64,
}

impl WorkerConfigLike for Worker {
    fn data_parallel_start_rank(&self) -> u32 {
        0
    }

    fn data_parallel_size(&self) -> u32 {
        1
    }

    fn max_num_batched_tokens(&self) -> Option<u64> {
        Some(2048)
    }

    fn total_kv_blocks(&self) -> Option<u64> {
        Some(self.blocks)
    }

    fn taints(&self) -> &HashSet<String> {
        &self.taints
    }
}

/// The indexers that a single caller can ask without a queue between.
enum Indexer {
    Radix(Box<RadixTree>),
    Compressed(ThreadPoolIndexer<ConcurrentRadixTreeCompressed>),
    Positional(ThreadPoolIndexer<PositionalIndexer>),
}

pub const INDEXERS: [&str; 3] = ["radix_tree", "radix_tree_compressed", "positional"];

pub struct Dynamo {
    indexer: Indexer,
    selector: DefaultWorkerSelector,
    workers: HashMap<WorkerId, Worker>,
    request: SchedulingRequest,
}

impl Dynamo {
    pub fn new(workload: &Workload, indexer: &str) -> Dynamo {
        let mut indexer = match indexer {
            "radix_tree" => Indexer::Radix(Box::new(RadixTree::new())),
            "positional" => Indexer::Positional(ThreadPoolIndexer::new(PositionalIndexer::new(JUMP), 1, BLOCK as u32)),
            _ => Indexer::Compressed(ThreadPoolIndexer::new(ConcurrentRadixTreeCompressed::new(), 1, BLOCK as u32)),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
        for (id, placement) in workload.placements.iter().enumerate() {
            let event = stored(id as u64, placement.engine, workload.tokens(placement));
            match &mut indexer {
                Indexer::Radix(tree) => tree.apply_event(event).expect("a chain from its root"),
                Indexer::Compressed(pool) => runtime.block_on(pool.apply_event(event)),
                Indexer::Positional(pool) => runtime.block_on(pool.apply_event(event)),
            }
        }
        match &indexer {
            Indexer::Radix(_) => {}
            Indexer::Compressed(pool) => runtime.block_on(pool.flush()),
            Indexer::Positional(pool) => runtime.block_on(pool.flush()),
        }
        let engines = workload.engines;
        let worker = || Worker { blocks: (BLOCKS / engines) as u64, ..Worker::default() };
        Dynamo {
            indexer,
            selector: DefaultWorkerSelector::new(Some(KvRouterConfig { router_temperature: 0.0, ..Default::default() }), "decode"),
            workers: (0..engines as WorkerId).map(|id| (id, worker())).collect(),
            request: request(engines),
        }
    }

    pub fn look_up(&self, prompt: &[u32]) -> OverlapScores {
        let hashes = compute_block_hash_for_seq(prompt, BLOCK as u32, BlockHashOptions::default());
        match &self.indexer {
            Indexer::Radix(tree) => tree.find_matches(hashes, false),
            Indexer::Compressed(pool) => pool.backend().find_matches(&hashes, false),
            Indexer::Positional(pool) => pool.backend().find_matches(&hashes, false),
        }
    }

    /// The whole decision.
    pub fn decide(&mut self, prompt: &[u32]) -> WorkerWithDpRank {
        let scores = self.look_up(prompt).scores;
        let overlap = &mut self.request.overlap;
        overlap.effective_overlap_blocks.clear();
        overlap.effective_cached_tokens.clear();
        for (worker, blocks) in scores {
            overlap.effective_overlap_blocks.insert(worker, f64::from(blocks));
            overlap.effective_cached_tokens.insert(worker, blocks as usize * BLOCK);
        }
        let input = WorkerSelectionInput::configured(&self.workers, &self.request, self.request.eligibility(), BLOCK as u32);
        self.selector.select_worker(input).expect("workers are there").worker
    }
}

impl Index for Dynamo {
    fn held(&mut self, prompt: &[u32]) -> Vec<u32> {
        let scores = self.look_up(prompt).scores;
        let of = |id: usize| scores.get(&WorkerWithDpRank::from_worker_id(id as WorkerId)).copied().unwrap_or(0);
        (0..self.workers.len()).map(of).collect()
    }
}

fn stored(event_id: u64, engine: usize, tokens: &[u32]) -> RouterEvent {
    let local = compute_block_hash_for_seq(tokens, BLOCK as u32, BlockHashOptions::default());
    let sequence = compute_seq_hash_for_block(&local);
    let block = |(&tokens_hash, &hash): (&_, &_)| KvCacheStoredBlockData {
        block_hash: ExternalSequenceBlockHash(hash),
        tokens_hash,
        mm_extra_info: None,
    };
    let blocks = local.iter().zip(&sequence).map(block).collect();
    let data = KvCacheEventData::Stored(KvCacheStoreData { parent_hash: None, start_position: Some(0), blocks });
    RouterEvent::new(engine as WorkerId, KvCacheEvent { event_id, data, dp_rank: 0 })
}

fn request(engines: usize) -> SchedulingRequest {
    let load = |id: usize| {
        let busy =
            WorkerLoadProjection { active_prefill_tokens: 256, active_decode_blocks: 24, active_requests: 4, ..Default::default() };
        (WorkerWithDpRank::from_worker_id(id as WorkerId), busy)
    };
    SchedulingRequest {
        mode: ScheduleMode::QueryOnly { request_id: None },
        token_seq: None,
        isl_tokens: PROMPT,
        lora_name: None,
        expected_output_tokens: Some(32),
        affinity_target: None,
        pinned_worker: None,
        allowed_worker_ids: None,
        routing_constraints: RoutingConstraints::default(),
        router_config_override: None,
        track_prefill_tokens: true,
        priority_jump: 0.0,
        strict_priority: 0,
        policy_class: None,
        session_context: None,
        overlap: OverlapSignals {
            tier_overlap_blocks: Default::default(),
            effective_overlap_blocks: Default::default(),
            effective_cached_tokens: Default::default(),
        },
        kv_transfer_candidates: None,
        retain_kv_transfer_chain: false,
        shared_cache_hits: None,
        worker_loads: (0..engines).map(load).collect(),
        resp_tx: None,
    }
}
