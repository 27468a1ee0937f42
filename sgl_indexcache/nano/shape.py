"""The shapes of the trained nano model and of the toy with which its recipe is tested on a CPU."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from sgl_indexcache.nano.layout import config_of
from sgl_indexcache.nano.spec import MlaDims, RandomModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoShape:
    """Widths of a dense `glm_moe_dsa` model; the names are those of config.json.

    Defaults are the trained model: kv_lora_rank 512, rope 64 and index_head_dim 128 are what CUDA kernels for
    sparse MLA are compiled for, and 16 layers of these with everything else kept narrow are 5.85 M parameters.

    rope_theta: with 1e6, 11 of the 32 rotary pairs turn by less than one radian over 8,192 positions, so that
    rotary columns also carry content at a distance, beside the 16 columns without position.
    """

    vocab_size: int = 320
    hidden_size: int = 128
    intermediate_size: int = 192
    num_hidden_layers: int = 16
    num_attention_heads: int = 4
    q_lora_rank: int = 48
    kv_lora_rank: int = 512
    qk_rope_head_dim: int = 64
    qk_nope_head_dim: int = 16
    v_head_dim: int = 16
    index_n_heads: int = 16
    index_head_dim: int = 128
    index_topk: int = 256
    max_position_embeddings: int = 8192
    rope_theta: float = 1e6

    @property
    def qk_head_dim(self) -> int:
        """Columns of a query or key of one head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def config(self) -> dict[str, Any]:
        """Content of config.json, readable by transformers and SGLang (see layout.config_of)."""
        mla = {field.name: getattr(self, field.name) for field in dataclasses.fields(MlaDims)}
        spec = RandomModelSpec(
            architecture="glm_moe_dsa",
            layers=self.num_hidden_layers,
            index_topk=self.index_topk,
            index_n_heads=self.index_n_heads,
            index_head_dim=self.index_head_dim,
            heads=self.num_attention_heads,
            hidden=self.hidden_size,
            mla=MlaDims(**mla),
            max_positions=self.max_position_embeddings,
            dtype="bfloat16",
        )
        config = config_of(spec)
        config["vocab_size"] = self.vocab_size
        config["intermediate_size"] = self.intermediate_size
        config["rope_theta"] = self.rope_theta
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": self.rope_theta}
        return config


NANO = NanoShape()
TOY = NanoShape(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    q_lora_rank=32,
    kv_lora_rank=32,
    qk_rope_head_dim=16,
    index_n_heads=4,
    index_head_dim=32,
    index_topk=16,
    max_position_embeddings=512,
    rope_theta=1e4,
)
"""Three layers, context 512, k = 16: seconds on one core."""

SHAPES = {"nano": NANO, "toy": TOY}
