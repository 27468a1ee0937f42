"""What the checkpoint of a spec consists of: the config that both readers understand, and the tensors."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from sgl_indexcache.nano import tokenizer
from sgl_indexcache.nano.spec import CLASSES, RandomModelSpec


def config_of(spec: RandomModelSpec) -> dict[str, Any]:
    """Content of config.json, with the names of both readers (rope_theta is SGLang's)."""
    config: dict[str, Any] = {
        "architectures": [CLASSES[spec.architecture]],
        "model_type": spec.architecture,
        "dtype": spec.dtype,
        "vocab_size": 320,
        "hidden_size": spec.hidden,
        "intermediate_size": 2 * spec.hidden,
        "moe_intermediate_size": spec.hidden // 2 or 1,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.heads,
        **dataclasses.asdict(spec.mla),
        "n_routed_experts": 8,
        "num_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "moe_layer_freq": 1,
        "first_k_dense_replace": min(1, spec.layers) if spec.moe else spec.layers,
        "index_topk": spec.index_topk,
        "index_n_heads": spec.index_n_heads,
        "index_head_dim": spec.index_head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        # transformers fixes this epsilon for the two latent norms: any other would not be one model in both.
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": spec.max_positions,
        "rope_theta": 10000.0,
        "rope_interleave": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.BOS_ID,
        "eos_token_id": tokenizer.EOS_ID,
        "pad_token_id": tokenizer.PAD_ID,
    }
    if spec.pattern is not None:
        config["index_topk_pattern"] = spec.pattern
    return config


def shapes_of(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of a checkpoint with this config.json, as published ones have them."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    q_rank, kv_rank = config["q_lora_rank"], config["kv_lora_rank"]
    rope, nope, value = config["qk_rope_head_dim"], config["qk_nope_head_dim"], config["v_head_dim"]
    index = config["index_head_dim"]

    def mlp(at: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{at}.gate_proj.weight", (width, hidden)
        yield f"{at}.up_proj.weight", (width, hidden)
        yield f"{at}.down_proj.weight", (hidden, width)

    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
        yield f"{at}.self_attn.q_a_proj.weight", (q_rank, hidden)
        yield f"{at}.self_attn.q_a_layernorm.weight", (q_rank,)
        yield f"{at}.self_attn.q_b_proj.weight", (heads * (nope + rope), q_rank)
        yield f"{at}.self_attn.kv_a_proj_with_mqa.weight", (kv_rank + rope, hidden)
        yield f"{at}.self_attn.kv_a_layernorm.weight", (kv_rank,)
        yield f"{at}.self_attn.kv_b_proj.weight", (heads * (nope + value), kv_rank)
        yield f"{at}.self_attn.o_proj.weight", (hidden, heads * value)
        yield f"{at}.self_attn.indexer.wq_b.weight", (config["index_n_heads"] * index, q_rank)
        yield f"{at}.self_attn.indexer.wk.weight", (index, hidden)
        yield f"{at}.self_attn.indexer.k_norm.weight", (index,)
        yield f"{at}.self_attn.indexer.k_norm.bias", (index,)
        yield f"{at}.self_attn.indexer.weights_proj.weight", (config["index_n_heads"], hidden)
        if layer < config["first_k_dense_replace"]:
            yield from mlp(f"{at}.mlp", config["intermediate_size"])
            continue
        yield f"{at}.mlp.gate.weight", (config["n_routed_experts"], hidden)
        yield f"{at}.mlp.gate.e_score_correction_bias", (config["n_routed_experts"],)
        for expert in range(config["n_routed_experts"]):
            yield from mlp(f"{at}.mlp.experts.{expert}", config["moe_intermediate_size"])
        yield from mlp(f"{at}.mlp.shared_experts", config["moe_intermediate_size"] * config["n_shared_experts"])


def count_parameters(config: dict[str, Any]) -> int:
    """Number of parameters of a checkpoint with this config.json."""
    return sum(math.prod(shape) for _, shape in shapes_of(config))
