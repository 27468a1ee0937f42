"""Work divided between threads gives what one thread gives, to the bit, and fails as one thread fails."""

import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
import torch

from sgl_indexcache.indexer.cpu import exact
from sgl_indexcache.indexer.cpu.exact import Selector
from sgl_indexcache.indexer.cpu.workers import share
from sgl_indexcache.kernels.score.cpu import takes_onednn
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.selection import KnownRows, Rows

HEADS, DIM, TOPK = 32, 128, 24
USUAL = 2


@pytest.fixture(autouse=True)
def usual_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(USUAL)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("known", [[], [*range(0, 1000, 3), *range(1000, 1350)]], ids=["none known", "some known"])
def test_results_do_not_depend_on_the_number_of_threads(
    known: list[int], onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(
        "sgl_indexcache.kernels.score.cpu.takes_onednn", lambda *inputs: onednn and takes_onednn(*inputs)
    )
    rows = Rows.of([1, 0, 2], [1200, 700, 90], [1000, 400, 1], 1403)
    q, gates, keys = torch.randn(1403, HEADS, DIM), torch.randn(1403, HEADS), torch.randn(2000, DIM)
    table = torch.stack([torch.randperm(2000)[:1200] for _ in range(3)]).int()
    scored: dict[tuple[int, ...], torch.Tensor] = {}

    def spy(scores: torch.Tensor, lengths: torch.Tensor, k: int) -> torch.Tensor:
        scored[tuple(lengths.tolist())] = scores.clone()
        return select(scores, lengths, k)

    monkeypatch.setattr(exact, "select", spy)

    def run(threads: int) -> tuple[torch.Tensor, torch.Tensor, dict[tuple[int, ...], torch.Tensor]]:
        torch.set_num_threads(threads)
        scored.clear()
        mask = torch.zeros(1403, dtype=torch.bool)
        mask[known] = True
        inputs = KnownRows(
            torch.full((1403, TOPK), -1, dtype=torch.int32), mask, torch.ones_like(mask), torch.zeros(1403)
        )
        with torch.inference_mode():
            selection = Selector(TOPK)(lambda part: (q[part], gates[part]), keys, table, rows, inputs)
        assert torch.get_num_threads() == threads
        return selection, inputs.margin, dict(scored)

    # Without slices shared out torch's own threads divide every operation.
    alone, together, many = run(1), run(USUAL), run(3)
    monkeypatch.setattr(Selector, "_workers", lambda *_: 1)
    within = run(USUAL)
    for other in (together, many, within):
        assert torch.equal(other[0], alone[0])
        assert torch.equal(other[1], alone[1])
        assert other[2].keys() == alone[2].keys()
        assert all(torch.equal(other[2][part], scores) for part, scores in alone[2].items())


@pytest.mark.parametrize("scratch", [1 << 16, 1 << 20, 3 << 20, 1 << 28])
def test_all_threads_together_stay_within_the_scratch(scratch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows.of([0], [2048], [2048], 2048)
    alive, largest, lock = 0, 0, threading.Lock()
    plain = Selector._fill

    def fill(self: Selector, part: exact.Slice, *rest: object) -> None:
        nonlocal alive, largest
        own = 4 * (part.end - part.begin) * int(part.lengths.max())
        with lock:
            alive += own
            largest = max(largest, alive)
        plain(self, part, *rest)
        with lock:
            alive -= own

    monkeypatch.setattr(Selector, "_fill", fill)
    torch.set_num_threads(4)
    q, gates, keys = torch.randn(2048, 1, 16), torch.randn(2048, 1), torch.randn(2048, 16)
    table = torch.arange(2048, dtype=torch.int32).unsqueeze(0)
    Selector(TOPK, scratch_bytes=scratch)(lambda part: (q[part], gates[part]), keys, table, rows)
    assert 0 < largest <= scratch


def test_pieces_are_worked_on_side_by_side_with_one_torch_thread_each() -> None:
    name: ContextVar[str] = ContextVar("name")
    name.set("of the caller")
    both = threading.Barrier(2, timeout=30)
    seen: list[tuple[object, ...]] = []

    def run(_: int) -> None:
        both.wait()
        state = torch.get_num_threads(), torch.is_inference_mode_enabled(), torch.is_grad_enabled(), name.get()
        seen.append((threading.current_thread(), *state))

    with torch.inference_mode():
        share(range(2), lambda: run, 2)
    with torch.no_grad():
        share(range(2), lambda: run, 2)
    assert [state[1:] for state in seen] == [(1, True, False, "of the caller")] * 2 + [
        (1, False, False, "of the caller")
    ] * 2
    assert len({state[0] for state in seen}) == 2
    assert torch.get_num_threads() == USUAL
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [USUAL]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_reaches_the_caller_and_ends_the_work(workers: int) -> None:
    done: list[int] = []

    def run(piece: int) -> None:
        if piece == 3:
            raise ValueError("piece 3")
        done.append(piece)

    # Without an end: the other threads must stop by themselves.
    def pieces() -> Iterator[int]:
        piece = 0
        while True:
            yield piece
            piece += 1

    with pytest.raises(ValueError, match="piece 3"):
        share(pieces(), lambda: run, workers)
    assert done[:3] == [0, 1, 2]
    share(range(3), lambda: lambda piece: done.append(10 + piece), workers)
    assert sorted(done[-3:]) == [10, 11, 12]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_while_pieces_are_made_reaches_the_caller(workers: int) -> None:
    def pieces() -> Iterator[int]:
        yield 1
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        share(pieces(), lambda: lambda _: None, workers)
