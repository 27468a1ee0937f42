"""What a DSA checkpoint's config.json says about its layers, for both published families."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.pattern import layer_count

FAMILIES = ("deepseek_v32", "glm_moe_dsa")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Widths and rules of a `deepseek_v32` or `glm_moe_dsa` model; the names are those of config.json.

    first_k_dense_replace: layers before it have a dense block, the others experts.
    rope_parameters: rope_type, rope_theta and, for yarn, its factors.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    first_k_dense_replace: int = 3
    moe_intermediate_size: int = 0
    n_routed_experts: int = 0
    n_shared_experts: int = 1
    num_experts_per_tok: int = 8
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    rope_parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def qk_head_dim(self) -> int:
        """Columns of a query or key of one head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def has_experts(self, layer: int) -> bool:
        """Whether this layer's feed-forward block is a mixture of experts."""
        return layer >= self.first_k_dense_replace

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Read the content of a config.json.

        Raises:
            PatternError: a model without lightning indexers.
            DistillError: another family, or one of its options that is not supported here.
        """
        layer_count(config)
        if config.get("model_type") not in FAMILIES:
            raise DistillError(
                f"the model's model_type is {config.get('model_type')!r}: "
                f"only {' and '.join(FAMILIES)} can be distilled"
            )
        for name, only in (("attention_bias", False), ("mlp_bias", False), ("tie_word_embeddings", False)):
            if config.get(name, only) != only:
                raise DistillError(f"the model's config has {name}={config[name]!r}: only {only!r} can be distilled")
        if config.get("hidden_act", "silu") != "silu":
            raise DistillError(
                f"the model's config has hidden_act={config['hidden_act']!r}: only 'silu' can be distilled"
            )
        if config.get("quantization_config"):
            raise DistillError(
                "the checkpoint is quantised (its config has quantization_config): distill the bf16 weights and "
                "quantise the result"
            )
        names = [each.name for each in dataclasses.fields(cls) if each.name != "rope_parameters"]
        values = {name: config[name] for name in names if config.get(name) is not None}
        try:
            return cls(**values, rope_parameters=_rope_of(config))
        except TypeError as error:
            missing = sorted(
                each.name
                for each in dataclasses.fields(cls)
                if each.default is dataclasses.MISSING
                and each.default_factory is dataclasses.MISSING
                and each.name not in values
            )
            raise DistillError(f"the model's config.json lacks {', '.join(missing) or error}") from None


def _rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """rope_parameters, or its older spelling: rope_theta beside rope_scaling."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "yarn"):
        raise DistillError(f"the model's rope_type is {kind!r}: only 'default' and 'yarn' can be distilled")
    rope["rope_type"] = kind
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    return rope
