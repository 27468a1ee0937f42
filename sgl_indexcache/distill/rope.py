"""Rotary positions of both families: plain, or stretched by YaRN (arXiv 2309.00071, as DeepSeek-V3 uses it)."""

import math

import torch

from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.functional import Rotary


def _magnitude(factor: float, by: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0


def frequencies(config: ModelConfig, device: torch.device | None = None) -> torch.Tensor:
    """Radians per position of each rotary pair, float32 [rope / 2]."""
    rope, width = config.rope_parameters, config.qk_rope_head_dim
    base = float(rope["rope_theta"])
    plain: torch.Tensor = base ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    if rope["rope_type"] == "default":
        return plain
    original = rope["original_max_position_embeddings"]

    def pair_that_turns(times: float) -> float:
        """The (fractional) pair that turns so many times over the original context."""
        return width * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_that_turns(rope.get("beta_fast") or 32)), 0)
    high = min(math.ceil(pair_that_turns(rope.get("beta_slow") or 1)), width - 1)
    ramp = (torch.arange(width // 2, device=device, dtype=torch.float32) - low) / max(high - low, 1e-3)
    stretched = ramp.clamp(0, 1)
    # Fast pairs keep their frequency, slow ones are stretched by the factor.
    return plain * (1 - stretched) + plain / float(rope["factor"]) * stretched


def rotary(config: ModelConfig, positions: torch.Tensor) -> Rotary:
    """cos and sin, float32 [..., rope / 2], of positions int64 [...]."""
    angles = positions[..., None].float() * frequencies(config, positions.device)
    rope = config.rope_parameters
    size = 1.0
    if rope["rope_type"] == "yarn":
        factor = float(rope["factor"])
        one, all_ = rope.get("mscale"), rope.get("mscale_all_dim")
        size = _magnitude(factor, one) / _magnitude(factor, all_) if one and all_ else _magnitude(factor, 1.0)
        size = rope.get("attention_factor") or size
    return Rotary(angles.cos() * size, angles.sin() * size)


def attention_scale(config: ModelConfig) -> float:
    """Scale of attention's logits."""
    scale = config.qk_head_dim**-0.5
    rope = config.rope_parameters
    if rope["rope_type"] == "yarn" and rope.get("mscale_all_dim"):
        scale *= _magnitude(float(rope["factor"]), rope["mscale_all_dim"]) ** 2
    return float(scale)
