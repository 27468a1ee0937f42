"""A multi-turn conversation over a growing prefix, streamed from SGLang's /generate and timed."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgl_indexcache.nano.tokenizer import EOS_ID


@dataclass(frozen=True, slots=True)
class Turn:
    """One answered turn."""

    prompt_tokens: int
    cached_tokens: int
    ttft: float
    """seconds from the request to the first streamed token"""
    tpot: float
    """seconds per token after the first; NaN for an answer of one token"""
    text: str


def stream(url: str, token_ids: list[int], new_tokens: int) -> Iterator[dict[str, Any]]:
    """The events of a streamed greedy generation of at most `new_tokens` tokens."""
    body = {
        "input_ids": token_ids,
        "stream": True,
        "sampling_params": {"temperature": 0, "max_new_tokens": new_tokens, "stop_token_ids": [EOS_ID]},
    }
    request = urllib.request.Request(url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        for line in answer:
            if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                yield json.loads(line[len(b"data: ") :])


class Conversation:
    """Keeps the token ids of a conversation, so that every turn's prompt extends the one before exactly."""

    def __init__(self, url: str, model: Path, new_tokens: int) -> None:
        from tokenizers import Tokenizer  # type: ignore[import-untyped]

        self._url = url
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._new_tokens = new_tokens
        self._history: list[int] = []

    def add(self, role: str, content: str) -> None:
        """Append a message that the model does not answer."""
        self._history += self._encode(f"<s>{role}\n{content}</s>")

    def ask(self, content: str, show: Callable[[str], None] = lambda _: None) -> Turn:
        """Send a user message, stream the answer through `show`, and keep both in the history."""
        self.add("user", content)
        prompt = self._history + self._encode("<s>assistant\n")
        begin = time.perf_counter()
        arrivals: list[float] = []
        event: dict[str, Any] = {}
        shown = 0
        for event in stream(self._url, prompt, self._new_tokens):
            arrivals.append(time.perf_counter())
            show(event["text"][shown:])
            shown = len(event["text"])
        meta, answer = event["meta_info"], list(event["output_ids"])
        self._history = prompt + answer + ([] if answer[-1:] == [EOS_ID] else [EOS_ID])
        after_first = meta["completion_tokens"] - 1
        return Turn(
            prompt_tokens=meta["prompt_tokens"],
            cached_tokens=meta["cached_tokens"],
            ttft=arrivals[0] - begin,
            tpot=(arrivals[-1] - arrivals[0]) / after_first if after_first else float("nan"),
            text=event["text"],
        )

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
