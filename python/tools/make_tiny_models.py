"""Makes the tiny random models that the tests run real engines on: no download, seconds to load, seeded weights.

    python python/tools/make_tiny_models.py models

writes `tiny-llama` (dense), `tiny-qwen3-moe` (mixture of experts) and `tiny-sliding-window` (two sliding-window layers for every full one,
hence three KV-cache groups in vLLM, and block tables with holes). They have no tokenizer: the engines are given token ids.
"""

import sys
from pathlib import Path

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

# With the usual 0.02 a random model repeats one token for ever, and a test that compares tokens could not fail.
INITIALIZER_RANGE = 0.12

# head_dim is 64 because vLLM's CPU attention wants a multiple of 32.
COMMON = dict(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=8192,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
    initializer_range=INITIALIZER_RANGE,
    tie_word_embeddings=False,
)

MOE = dict(moe_intermediate_size=128, num_experts=8, num_experts_per_tok=2, decoder_sparse_step=1, norm_topk_prob=True)

# Two CPU blocks of 128 tokens, so that a prompt of a few hundred tokens leaves the window.
SLIDING = COMMON | dict(
    num_hidden_layers=6,
    sliding_window=256,
    layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
    query_pre_attn_scalar=COMMON["head_dim"],
)

MODELS: dict[str, tuple[type[PreTrainedModel], PreTrainedConfig]] = {
    "tiny-llama": (LlamaForCausalLM, LlamaConfig(**COMMON)),
    "tiny-qwen3-moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**COMMON, **MOE)),
    "tiny-sliding-window": (Gemma3ForCausalLM, Gemma3TextConfig(**SLIDING)),
}


def make(name: str, folder: Path) -> None:
    architecture, config = MODELS[name]
    torch.manual_seed(0)
    model = architecture(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    GenerationConfig(bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id).save_pretrained(folder)
    print(f"{folder}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} MODELS_FOLDER")
    for name in MODELS:
        make(name, Path(sys.argv[1]) / name)


if __name__ == "__main__":
    main()
