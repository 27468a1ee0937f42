"""An answer that no forward computed has no time."""

from collections.abc import Iterator
from typing import Any

import pytest

from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.bench.measure import measure
from sgl_indexcache.bench.workload import Workload

WORKLOAD = Workload((128,), (64,), (1, 4), 200, 1, 1, 8, 128, 1000)


class Engine:
    """Answers prompts of up to `most` tokens, and says of longer ones that they are too long, as SGLang does."""

    def __init__(self, most: int) -> None:
        self.most = most

    def generate(self, input_ids: list[Any], stream: bool = False, **_: Any) -> Any:
        if stream:
            return self._stream(input_ids)
        if isinstance(input_ids[0], list):
            return [self._answer(ids) for ids in input_ids]
        return self._answer(input_ids)

    def _stream(self, ids: list[int]) -> Iterator[dict[str, Any]]:
        yield self._answer(ids)

    def _answer(self, ids: list[int]) -> dict[str, Any]:
        reason = {"type": "length"} if len(ids) <= self.most else {"type": "abort", "message": "Input is too long."}
        return {"meta_info": {"finish_reason": reason, "output_top_logprobs": [[(-1.0, 7, None)]]}}

    def flush_cache(self) -> None:
        pass


def test_a_workload_that_is_answered_has_every_figure() -> None:
    figures: list[dict[str, Any]] = []
    assert measure(Engine(1000), WORKLOAD, figures.append) == {"tokens": [7], "log_probs": [-1.0]}
    assert [figure["kind"] for figure in figures] == ["cold", "warm", "repeat", "decode", "decode"]


@pytest.mark.parametrize(("most", "recorded"), [(127, []), (150, ["cold"]), (192, ["cold", "warm", "repeat"])])
def test_a_prompt_that_is_refused_stops_the_benchmark(most: int, recorded: list[str]) -> None:
    figures: list[dict[str, Any]] = []
    with pytest.raises(BenchError, match=r"was not answered \(Input is too long\.\): use shorter"):
        measure(Engine(most), WORKLOAD, figures.append)
    assert [figure["kind"] for figure in figures] == recorded
