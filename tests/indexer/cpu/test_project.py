"""Which linear layers the indexer multiplies itself, and that it makes no difference."""

from typing import Any

import pytest
import torch

from sgl_indexcache.attention.cpu import is_plain_matrix
from sgl_indexcache.indexer.cpu.project import _multiply


@pytest.fixture
def layer() -> Any:
    from sglang.srt.layers.linear import ReplicatedLinear

    torch.manual_seed(0)
    linear = ReplicatedLinear(24, 40, bias=False, params_dtype=torch.float32)
    linear.weight.data = torch.randn(40, 24)
    return linear


@pytest.mark.parametrize("rows", [0, 1, 7, 130])
def test_the_product_is_that_of_the_layer(rows: int, layer: Any) -> None:
    x = torch.randn(rows, 24)
    assert is_plain_matrix(layer)
    torch.testing.assert_close(_multiply(layer, x, is_plain_matrix(layer)), layer(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("what", ["adapter", "quantised", "bias", "packed", "hook"])
def test_a_layer_that_does_more_multiplies_by_itself(what: str, layer: Any) -> None:
    from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod

    x, expected = torch.randn(3, 24), torch.zeros(3, 40)

    class Double(UnquantizedLinearMethod):  # type: ignore[misc, unused-ignore]
        def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            doubled: torch.Tensor = 2 * super().apply(layer, x, bias)
            return doubled

    plain = x @ layer.weight.T
    if what == "adapter":
        inner = layer

        def layer(x: torch.Tensor) -> tuple[torch.Tensor, None]:
            return inner(x)[0] + 1, None

        expected = plain + 1
    elif what == "quantised":
        layer.quant_method = Double()
        expected = 2 * plain
    elif what == "bias":
        layer.bias = torch.nn.Parameter(torch.ones(40))
        expected = plain + 1
    elif what == "packed":
        layer.use_intel_amx_backend = True
        assert not is_plain_matrix(layer)
        return
    else:
        layer.register_forward_hook(lambda module, args, output: (output[0] - 1, output[1]))
        expected = plain - 1
    assert not is_plain_matrix(layer)
    torch.testing.assert_close(_multiply(layer, x, is_plain_matrix(layer)), expected, rtol=1e-5, atol=1e-5)


def test_other_dtypes_are_left_to_the_layer(layer: Any) -> None:
    layer.weight.data = layer.weight.data.bfloat16()
    x = torch.randn(5, 24).bfloat16()
    assert torch.equal(_multiply(layer, x, is_plain_matrix(layer)), layer(x)[0])
