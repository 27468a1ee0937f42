"""The mixture-of-experts block of both families: sigmoid router with groups, routed and shared experts.

Formulas are those of transformers' `deepseek_v32` (DeepSeek-V3 technical report, section 2.1.2); the parameters are
named as in the checkpoint, one module an expert.
"""

import torch
from torch import nn

from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.functional import linear, swiglu, widened
from sgl_indexcache.distill.parameters import Mlp


class Router(nn.Module):
    """Scores of the experts, and the correction that balances their choice."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))


class Experts(nn.Module):
    """Routed and shared experts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = Router(config)
        width = config.moe_intermediate_size
        self.experts = nn.ModuleList(Mlp(config.hidden_size, width) for _ in range(config.n_routed_experts))
        self.shared_experts = Mlp(config.hidden_size, width * config.n_shared_experts)

    def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The chosen experts int64 [N, experts_per_tok] of rows [N, hidden], and their weights float32."""
        c = self.config
        share = linear(widened(x), self.gate.weight).sigmoid()
        bias = self.gate.e_score_correction_bias
        assert isinstance(bias, torch.Tensor)
        choice = share.detach() + bias.to(share.dtype)
        groups = choice.view(len(choice), c.n_group, -1).topk(2, dim=-1).values.sum(-1)
        allowed = torch.zeros_like(groups, dtype=torch.bool)
        allowed.scatter_(1, groups.topk(c.topk_group, dim=-1, sorted=False).indices, True)
        outside = ~allowed.repeat_interleave(c.n_routed_experts // c.n_group, dim=1)
        chosen = choice.masked_fill(outside, float("-inf")).topk(c.num_experts_per_tok, dim=-1, sorted=False).indices
        weights = share.gather(1, chosen)
        if c.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * c.routed_scaling_factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's result [N, hidden] of rows [N, hidden]."""
        chosen, weights = self.route(x)
        out = widened(swiglu(x, *self.shared_experts.weights()))
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        rows = order // chosen.shape[1]
        counts = torch.bincount(flat, minlength=len(self.experts)).tolist()
        begin = 0
        for expert, count in zip(self.experts, counts, strict=True):
            if count:
                assert isinstance(expert, Mlp)
                slots = order[begin : begin + count]
                outputs = widened(swiglu(x[rows[begin : begin + count]], *expert.weights()))
                out = out.index_add(0, rows[begin : begin + count], outputs * weights.flatten()[slots, None])
            begin += count
        return out.to(x.dtype)
