"""On a GPU: FlashInfer as a consumer, against float32, with short rows, poisoned slots and graphs that share a plan."""

import pytest
import torch

from sgl_indexcache.attention import flashinfer

LATENT, ROPE, WIDTH, SLOTS = 512, 64, 2048, 1 << 15
SCALE = 0.07
# bf16 probabilities and output; rows of few keys come out closest to it.
TOLERANCE = 1e-2


@pytest.fixture(scope="module")
def workspace() -> torch.Tensor:
    # Partial outputs of an earlier forward stand in it: NaN must not leak from them.
    buffer = torch.empty(flashinfer.WORKSPACE_BYTES // 4, dtype=torch.float32, device="cuda").fill_(float("nan"))
    return buffer.view(torch.uint8)


def selection(lengths: list[int]) -> torch.Tensor:
    """Distinct slots, none of them slot 0, -1 padded; int32 `[T, WIDTH]`."""
    chosen = torch.full((len(lengths), WIDTH), -1, dtype=torch.int32)
    for row, length in enumerate(lengths):
        chosen[row, :length] = (torch.randperm(SLOTS - 1)[:length] + 1).int()
    return chosen.cuda()


def cache_of(chosen: torch.Tensor) -> torch.Tensor:
    """A cache that is NaN wherever no row selected it; slot 0, SGLang's padding slot, is finite."""
    cache = torch.full((SLOTS, 1, LATENT + ROPE), float("nan"), dtype=torch.bfloat16, device="cuda")
    used = torch.cat([chosen[chosen >= 0].unique(), torch.zeros(1, dtype=torch.int32, device="cuda")]).long()
    cache[used] = torch.randn(len(used), 1, LATENT + ROPE, device="cuda").bfloat16()
    return cache


def queries(rows: int, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As SGLang hands them over: the latent part head by head in memory, the rope part inside a wider row."""
    latent = torch.randn(heads, rows, LATENT, device="cuda").bfloat16().transpose(0, 1)
    return latent, torch.randn(rows, heads, 192 + ROPE, device="cuda").bfloat16()[..., 192:]


def reference(latent: torch.Tensor, rope: torch.Tensor, cache: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    out = []
    for row in range(len(chosen)):
        keys = cache[chosen[row][chosen[row] >= 0].long(), 0].float()
        query = torch.cat([latent[row], rope[row]], dim=-1).float()
        out.append((query @ keys.T * SCALE).softmax(dim=-1) @ keys[:, :LATENT])
    return torch.stack(out)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.float() - want).norm() / want.norm())


def plan_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor(lengths, dtype=torch.int32)


@pytest.mark.parametrize("heads", [4, 16, 32, 128])
@pytest.mark.parametrize(
    "lengths",
    [[1], [WIDTH], [63, 64, 65], [1, 2, 127, 500, 2047, WIDTH, WIDTH], [WIDTH] * 33, [777] * 257],
    ids=["one-key", "one-row", "around-64", "mixed", "33-rows", "257-rows"],
)
def test_short_rows_and_poisoned_slots(heads: int, lengths: list[int], workspace: torch.Tensor) -> None:
    torch.manual_seed(len(lengths))
    consumer = flashinfer.FlashInferMla(heads, WIDTH, LATENT, ROPE, workspace)
    chosen = selection(lengths)
    cache = cache_of(chosen)
    latent, rope = queries(len(lengths), heads)
    consumer.plan(plan_of(lengths))
    out = consumer.run(latent, rope, cache, chosen, SCALE)
    assert error(out, reference(latent, rope, cache, chosen)) < TOLERANCE


def test_a_plan_is_replaced_in_place_and_shared_by_graphs(workspace: torch.Tensor) -> None:
    """Graphs of 4 and 8 rows, captured with one key a row, replayed in turn for other lengths and selections."""
    torch.manual_seed(0)
    consumer = flashinfer.FlashInferMla(32, WIDTH, LATENT, ROPE, workspace)
    everything = selection([WIDTH] * 8)
    cache = cache_of(everything)
    graphs = {}
    for rows in (8, 4):
        latent, rope = queries(rows, 32)
        chosen = everything[:rows].clone()
        consumer.plan(plan_of([1] * rows))
        consumer.run(latent, rope, cache, chosen, SCALE)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = consumer.run(latent, rope, cache, chosen, SCALE)
        graphs[rows] = (graph, latent, rope, chosen, out)
    generator = torch.Generator().manual_seed(1)
    for step in range(12):
        rows = (4, 8, 8)[step % 3]
        graph, latent, rope, chosen, out = graphs[rows]
        lengths = torch.randint(1, WIDTH + 1, (rows,), generator=generator).tolist()
        lengths[-1] = 1  # a padding row
        order = torch.randperm(WIDTH, device="cuda")
        for row, length in enumerate(lengths):
            chosen[row] = -1
            chosen[row, :length] = everything[row, order[:length]]
        latent.normal_()
        consumer.plan(plan_of(lengths))
        graph.replay()
        assert error(out, reference(latent, rope, cache, chosen)) < TOLERANCE, f"step {step}"


def test_rows_without_a_plan_are_zero(workspace: torch.Tensor) -> None:
    consumer = flashinfer.FlashInferMla(32, WIDTH, LATENT, ROPE, workspace)
    chosen = selection([100, 100, 0])
    cache = cache_of(chosen)
    latent, rope = queries(3, 32)
    consumer.plan(plan_of([100, 100]))
    out = consumer.run(latent, rope, cache, chosen, SCALE)
    assert error(out[:2], reference(latent[:2], rope[:2], cache, chosen[:2])) < TOLERANCE
    assert out[2].abs().max() == 0


def test_as_many_rows_as_a_chunk_of_prefill(workspace: torch.Tensor) -> None:
    consumer = flashinfer.FlashInferMla(32, WIDTH, LATENT, ROPE, workspace)
    rows = 8192
    chosen = selection([WIDTH] * 64).repeat(rows // 64, 1)
    cache = cache_of(chosen)
    latent, rope = queries(rows, 32)
    consumer.plan(torch.full((rows,), WIDTH, dtype=torch.int32))
    out = consumer.run(latent, rope, cache, chosen, SCALE)
    for part in (slice(0, 4), slice(rows - 4, rows)):
        assert error(out[part], reference(latent[part], rope[part], cache, chosen[part])) < TOLERANCE
