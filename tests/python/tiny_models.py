"""Makes a tiny random model whose greedy output varies from token to token: `tiny_models.py NAME FOLDER`."""

import sys
from pathlib import Path

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

COMMON = dict(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=8192,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
    # Weights this large make attention matter: with the usual 0.02, a wrong KV block would hardly change a token.
    initializer_range=0.12,
    tie_word_embeddings=False,
)

MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON)),
    # Two sliding-window layers for every full one: several KV groups, and block tables with holes.
    "sliding": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **{**COMMON, "num_hidden_layers": 6},
            head_dim=64,
            query_pre_attn_scalar=64,
            sliding_window=256,
            sliding_window_pattern=3,
        )
    ),
}


def make(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    MODELS[name]().to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
