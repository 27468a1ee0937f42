"""Our in-place rotary embedding against SGLang's arithmetic, bit for bit."""

from types import SimpleNamespace

import pytest
import torch

from sgl_indexcache.indexer.cpu.project import rotate_

ROPE, HEADS, TOKENS, POSITIONS = 64, 5, 40, 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("neox", [True, False], ids=["halves", "neighbours"])
def test_equals_sglang(neox: bool, dtype: torch.dtype) -> None:
    from sglang.srt.layers.rotary_embedding.utils import apply_rotary_emb

    torch.manual_seed(0)
    angles = torch.rand(POSITIONS, ROPE // 2) * 6
    rotary = SimpleNamespace(cos_sin_cache=torch.cat((angles.cos(), angles.sin()), -1), is_neox_style=neox)
    positions = torch.randint(0, POSITIONS, (TOKENS,))
    cos, sin = rotary.cos_sin_cache[positions].chunk(2, dim=-1)
    x = torch.randn(TOKENS, HEADS, 2 * ROPE).to(dtype)
    expected = apply_rotary_emb(x[..., :ROPE], cos, sin, neox)
    untouched = x[..., ROPE:].clone()
    rotate_(x[..., :ROPE], rotary, positions)
    assert torch.equal(x[..., :ROPE], expected)
    assert torch.equal(x[..., ROPE:], untouched)
