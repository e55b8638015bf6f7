//! `kv-index`, the index of the SGLang model gateway.

use kv_index::{
    ChainBlockMap, ChainIndex, ContentHash, OverlapScores, SequenceHash, StoredBlock, chain_prefix_hash,
    compute_request_content_hashes,
};

use crate::Index;
use crate::prompts::{BLOCK, Workload};

pub struct KvIndex {
    index: ChainIndex,
    engines: usize,
}

fn blocks(tokens: &[u32]) -> Vec<StoredBlock> {
    let mut parent: Option<SequenceHash> = None;
    let block = |content_hash: ContentHash| {
        let seq_hash = parent.map_or(SequenceHash(content_hash.0), |parent| chain_prefix_hash(parent, content_hash));
        parent = Some(seq_hash);
        StoredBlock { seq_hash, content_hash }
    };
    compute_request_content_hashes(tokens, BLOCK).into_iter().map(block).collect()
}

impl KvIndex {
    pub fn new(workload: &Workload) -> KvIndex {
        let engines = workload.engines;
        let index = ChainIndex::with_max_workers(engines);
        let mut maps: Vec<ChainBlockMap> = (0..engines).map(|_| ChainBlockMap::default()).collect();
        let ids: Vec<u32> =
            (0..engines).map(|engine| index.intern_worker(&engine.to_string()).expect("there is room for all engines")).collect();
        for placement in &workload.placements {
            let (engine, blocks) = (placement.engine, blocks(workload.tokens(placement)));
            index.apply_stored(ids[engine], &blocks, None, &mut maps[engine]).expect("a chain from its root");
        }
        KvIndex { index, engines }
    }

    pub fn look_up(&self, prompt: &[u32]) -> OverlapScores {
        self.index.find_matches(&compute_request_content_hashes(prompt, BLOCK), false)
    }
}

impl Index for KvIndex {
    fn held(&mut self, prompt: &[u32]) -> Vec<u32> {
        let scores = self.look_up(prompt).scores;
        (0..self.engines)
            .map(|engine| {
                let id = self.index.worker_id(&engine.to_string()).expect("interned");
                scores.get(&id).copied().unwrap_or(0)
            })
            .collect()
    }
}
