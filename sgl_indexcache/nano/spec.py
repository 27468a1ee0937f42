"""What a random model is: its shape and seed, checked when it is made."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from sgl_indexcache.errors import UserError
from sgl_indexcache.pattern.pattern import Pattern

Architecture = Literal["deepseek_v32", "glm_moe_dsa"]
CLASSES: dict[str, str] = {
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "glm_moe_dsa": "GlmMoeDsaForCausalLM",
}
Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


class RandomModelError(UserError):
    """A spec that no model can have, or a folder that holds something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaDims:
    """Widths of the latent attention, in elements; the names are those of config.json."""

    q_lora_rank: int = 96
    kv_lora_rank: int = 64
    qk_rope_head_dim: int = 32
    qk_nope_head_dim: int = 32
    v_head_dim: int = 32


TINY = MlaDims()
KERNEL = MlaDims(kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128)
"""The latent and rope widths that GPU attention kernels are compiled for (DeepSeek-V3.2, GLM-5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomModelSpec:
    """All that a random model's files depend on.

    architecture     `model_type` of the config
    layers           decoder layers
    moe              experts from layer 1 on; False makes every layer dense
    pattern          F/S letters written as `index_topk_pattern`; None writes none, which means all Full. Indexer
                     weights are written for every layer, so any pattern can be put on the checkpoint later.
                     transformers follows the pattern for glm_moe_dsa only
    index_topk       size of a selection, in positions
    index_n_heads    heads of the indexer. With few of them many scores are exactly zero (ReLU) and tie
    index_head_dim   width of an index key
    heads            attention heads
    hidden           width of the residual stream
    mla              widths of the latent attention
    max_positions    longest sequence, in tokens
    dtype            dtype on disk; the values are bf16-representable either way, so both hold the same model
    seed             of the weights

    Raises:
        RandomModelError: from the constructor, when no model can have this shape.
    """

    architecture: Architecture = "deepseek_v32"
    layers: int = 6
    moe: bool = False
    pattern: str | None = None
    index_topk: int = 64
    index_n_heads: int = 32
    index_head_dim: int = 128
    heads: int = 4
    hidden: int = 128
    mla: MlaDims = TINY
    max_positions: int = 8192
    dtype: Dtype = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in CLASSES:
            raise RandomModelError(f"architecture {self.architecture!r} is unknown: use one of {', '.join(CLASSES)}")
        if self.dtype not in DTYPES:
            raise RandomModelError(f"dtype {self.dtype!r} is unknown: use one of {', '.join(DTYPES)}")
        sizes = {
            "layers",
            "index_topk",
            "index_n_heads",
            "index_head_dim",
            "heads",
            "hidden",
            "max_positions",
        }
        for name, value in [
            *((n, getattr(self, n)) for n in sorted(sizes)),
            *dataclasses.asdict(self.mla).items(),
        ]:
            if value < 1:
                raise RandomModelError(f"{name} is {value}: it must be at least 1")
        rope, index = self.mla.qk_rope_head_dim, self.index_head_dim
        if rope % 2 or rope > index:
            raise RandomModelError(f"qk_rope_head_dim is {rope}: it must be even and at most index_head_dim ({index})")
        if self.pattern is not None:
            Pattern.parse(self.pattern, layers=self.layers)
