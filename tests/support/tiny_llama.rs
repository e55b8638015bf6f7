//! A Llama of 2.4 million random parameters, written without Python. Its weights are spread so wide that greedy output varies.

use std::io::Write;
use std::path::Path;

use dualpool::core::seeded;
use rand_distr::{Distribution, Normal};
use serde_json::{Map, Value, json};

pub const VOCABULARY: u32 = 512;
pub const CONTEXT: u32 = 8192;
const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 512;
const LAYERS: usize = 4;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const SPREAD: f32 = 0.12;

pub fn write(folder: &Path, seed: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();

    let kv = HIDDEN / HEADS * KV_HEADS;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY as usize, HIDDEN])];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.extend([
            (name("input_layernorm"), vec![HIDDEN]),
            (name("self_attn.q_proj"), vec![HIDDEN, HIDDEN]),
            (name("self_attn.k_proj"), vec![kv, HIDDEN]),
            (name("self_attn.v_proj"), vec![kv, HIDDEN]),
            (name("self_attn.o_proj"), vec![HIDDEN, HIDDEN]),
            (name("post_attention_layernorm"), vec![HIDDEN]),
            (name("mlp.gate_proj"), vec![INTERMEDIATE, HIDDEN]),
            (name("mlp.up_proj"), vec![INTERMEDIATE, HIDDEN]),
            (name("mlp.down_proj"), vec![HIDDEN, INTERMEDIATE]),
        ]);
    }
    tensors
        .extend([("model.norm.weight".to_owned(), vec![HIDDEN]), ("lm_head.weight".to_owned(), vec![VOCABULARY as usize, HIDDEN])]);

    // The safetensors format: the header's length, the header as JSON, then all tensors back to back.
    let (mut header, mut data) = (Map::new(), Vec::new());
    let mut rng = seeded(seed, "weights");
    let weights = Normal::new(0.0_f32, SPREAD).unwrap();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    for (name, shape) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            let value = if shape.len() == 1 { 1.0 } else { weights.sample(&mut rng) };
            data.extend_from_slice(&((value.to_bits() >> 16) as u16).to_le_bytes()); // bfloat16
        }
        header.insert(name, json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let header = Value::Object(header).to_string();
    let mut file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(&data).unwrap();
}
