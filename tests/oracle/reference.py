"""The reference: a checkpoint in transformers (eager, fp32), with what its indexers scored and chose.

The indexers return positions only. Their scores are taken where they are used: in the one top-k call that an
indexer makes in its forward, seen through a torch function mode that is in force for that forward alone. So
nothing of the formula is written a second time here, and the router's top-k calls are not seen.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .near_tie import Expected


class _TopK(TorchFunctionMode):
    """Records the scores and indices of every top-k in its scope; hands out `force` [T, k] if given."""

    def __init__(self, force: torch.Tensor | None):
        super().__init__()
        self.force = force
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in (torch.Tensor.topk, torch.topk):
            return result
        self.calls.append((args[0][0].clone(), result.indices[0].clone()))
        if self.force is None:
            return result
        return torch.return_types.topk((result.values, self.force[None]))


class Reference:
    """A checkpoint loaded once; every `run` is one forward over one whole sequence, without a cache.

    folder   checkpoint in the Hugging Face layout
    pattern  F/S letters to use instead of the config's own; needs the architecture glm_moe_dsa

    Raises:
        ValueError: a pattern with Shared layers on an architecture that transformers runs all Full.
    """

    def __init__(self, folder: Path, pattern: str | None = None):
        from transformers import AutoConfig, AutoModelForCausalLM

        given = {} if pattern is None else {"index_topk_pattern": pattern}
        config = AutoConfig.from_pretrained(folder, **given)
        letters = pattern or getattr(config, "index_topk_pattern", None) or "F" * config.num_hidden_layers
        if "S" in letters and config.model_type != "glm_moe_dsa":
            raise ValueError(f"transformers runs {config.model_type} all Full: no reference for {letters}")
        if pattern is not None and config.model_type == "glm_moe_dsa":
            # The config derives these when it is made, which may be before it takes the override.
            config.indexer_types = ["full" if letter == "F" else "shared" for letter in letters]
        self.producers = tuple(letters.rindex("F", 0, layer + 1) for layer in range(len(letters)))
        self.topk = int(config.index_topk)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        full = [layer.self_attn.indexer is not None for layer in self.model.model.layers]
        if full != [letter == "F" for letter in letters]:
            raise ValueError(f"transformers did not take the pattern {letters}")

    def run(self, tokens: Sequence[int], force: torch.Tensor | None = None) -> Expected:
        """Log-probabilities, scores and selections for T tokens.

        tokens  ids, from position 0
        force   well-formed selections int `[T, L, k]`; Full layers then hand these out instead of their own, so that
                scores and log-probabilities are those that follow from these choices. The selections returned are still
                the indexers' own.
        """
        with torch.no_grad(), self._watched(force) as seen:
            logits = self.model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
        rows, layers = len(tokens), len(self.producers)
        after = torch.ones(rows, rows, dtype=torch.bool).triu(1)
        selections = torch.full((rows, layers, self.topk), -1, dtype=torch.int32)
        scores: list[torch.Tensor | None] = [None] * layers
        for layer, mode in seen.items():
            if len(mode.calls) != 1:
                raise RuntimeError(f"the indexer of layer {layer} made {len(mode.calls)} top-k calls, not one")
            ((raw, chosen),) = mode.calls
            scores[layer] = raw.float().masked_fill(after, float("-inf"))
            # The top-k of an early row runs over into masked keys; they sort last, so -1 stays at the end.
            chosen = chosen.to(torch.int32)
            late = chosen > torch.arange(rows)[:, None]
            selections[:, layer, : chosen.shape[1]] = chosen.masked_fill(late, -1)
        for layer, producer in enumerate(self.producers):
            selections[:, layer] = selections[:, producer]
        return Expected(logits.float().log_softmax(-1), tuple(scores), selections, self.producers)

    @contextmanager
    def _watched(self, force: torch.Tensor | None) -> Iterator[dict[int, _TopK]]:
        """Put every indexer's forward under its own mode; gives the modes by layer."""
        seen: dict[int, _TopK] = {}
        indexers = {i: layer.self_attn.indexer for i, layer in enumerate(self.model.model.layers)}
        for number, indexer in indexers.items():
            if indexer is None:
                continue
            mode = _TopK(None if force is None else _without_padding(force[:, number]))
            seen[number] = mode
            indexer.forward = _under(mode, indexer.forward)
        try:
            yield seen
        finally:
            for number in seen:
                del indexers[number].forward  # uncovers the method of the class


def _under(mode: TorchFunctionMode, forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return forward(*args, **kwargs)

    return run


def _without_padding(selection: torch.Tensor) -> torch.Tensor:
    """Selections `[T, k]` with -1 replaced by the row's first entry, which a mask may get twice."""
    return torch.where(selection < 0, selection[:, :1], selection).long()
