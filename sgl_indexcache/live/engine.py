"""The HTTP client of one running engine: switch its pattern, score, generate, read selections."""

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.pattern import Pattern, wire

_FACTS = (
    "version",
    "device",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "page_size",
    "chunked_prefill_size",
    "tp_size",
    "dp_size",
)
"""What of /server_info the value of a loss depends on, beside model and pattern."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What the engine generated. `ids`: generated token ids; `text`: the same as text, empty without a tokenizer."""

    ids: list[int]
    text: str


class Engine:
    """One engine that runs the plugin; one request at a time, so that batch shapes, and bits, repeat.

    timeout   seconds for one forward
    patience  seconds for which a refused switch is tried again: just after an answer the scheduler is not idle
    """

    def __init__(self, url: str, timeout: float = 3600.0, patience: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.patience = patience

    def info(self) -> dict[str, Any]:
        """SGLang's /server_info."""
        return dict(self._ask("/server_info"))

    def facts(self) -> dict[str, Any]:
        """The settings that losses depend on, by name."""
        info = self.info()
        state = self._state(info)
        return {**{name: info.get(name) for name in _FACTS}, "scoring": state.get("scoring")}

    def pattern(self) -> Pattern:
        """The pattern in force; raises LiveError when data-parallel ranks differ."""
        info = self.info()
        self._state(info)
        patterns = {state.get("indexcache", {}).get("pattern") for state in info["internal_states"]}
        if len(patterns) != 1 or None in patterns:
            raise LiveError(f"the schedulers of {self.url} do not agree on one pattern: restart the server")
        return Pattern(patterns.pop())

    def switch(self, pattern: Pattern) -> None:
        """Put `pattern` in force; raises LiveError when the engine refuses for longer than `patience`."""
        begin, pause = time.monotonic(), 0.01
        while not all(self._ask("/set_internal_state", {"server_args": wire.encode(pattern)})):
            if time.monotonic() - begin > self.patience:
                raise LiveError(
                    f"the engine at {self.url} refuses to switch its pattern: it must be idle, run without captured "
                    f"graphs and have {len(pattern)} layers (its log names the reason)"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.5)

    def score(self, ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities (nats, float64) of ids[1:], each given all tokens before it.

        The whole prompt is computed anew: a log-probability start of 0 keeps SGLang from using cached KV.
        """
        answer = self._generate(ids, 0, return_logprob=True, logprob_start_len=0)
        entries = answer["meta_info"]["input_token_logprobs"]
        if [entry[1] for entry in entries] != list(ids):
            raise LiveError(f"the engine at {self.url} scored other tokens than it was given")
        return np.array([entry[0] for entry in entries[1:]], dtype=np.float64)

    def generate(self, ids: Sequence[int], new_tokens: int) -> Generation:
        """Greedy continuation; ends early at the end of sequence."""
        answer = self._generate(ids, new_tokens)
        return Generation(answer.get("output_ids") or [], answer.get("text") or "")

    def selections(self, ids: Sequence[int], layers: int, top_k: int, new_tokens: int = 1) -> np.ndarray:
        """Selections of the prompt and of `new_tokens - 1` decode steps: int32 `[T, layers, top_k]`.

        T = len(ids) + new_tokens - 1. Row t holds positions 0..t, padded with -1.

        Raises:
            LiveError: the server was started without --enable-return-indexer-topk.
        """
        answer = self._generate(ids, new_tokens, stop=False, return_indexer_topk=True)
        packed = answer["meta_info"].get("indexer_topk")
        if not packed:
            raise LiveError(
                f"the engine at {self.url} returns no selections: start it with --enable-return-indexer-topk"
            )
        flat = np.frombuffer(base64.b64decode(packed), dtype=np.int32)
        return flat.reshape(len(ids) + new_tokens - 1, layers, top_k)

    def _generate(self, ids: Sequence[int], new_tokens: int, stop: bool = True, **more: Any) -> dict[str, Any]:
        sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": not stop}
        body = {"input_ids": list(ids), "sampling_params": sampling, **more}
        return dict(self._ask("/generate", body))

    def _state(self, info: dict[str, Any]) -> dict[str, Any]:
        state = info["internal_states"][0].get("indexcache")
        if not state:
            raise LiveError(f"the engine at {self.url} does not run indexcache: start it with sgl-indexcache serve")
        return dict(state)

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace").strip()[:300]
            raise LiveError(f"the engine at {self.url} refused {path} ({error.code}): {reason}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise LiveError(f"the engine at {self.url} does not answer {path}: {error}") from None
