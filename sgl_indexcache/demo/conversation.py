"""A multi-turn conversation over a growing prefix, streamed from SGLang's /generate and timed."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One answered turn."""

    prompt_tokens: int
    cached_tokens: int
    ttft: float
    """seconds from the request to the first streamed token"""
    tpot: float
    """seconds per token after the first"""
    text: str


def stream(url: str, token_ids: list[int], new_tokens: int) -> Iterator[dict[str, Any]]:
    """The events of a streamed greedy generation of exactly `new_tokens` tokens."""
    body = {
        "input_ids": token_ids,
        "stream": True,
        "sampling_params": {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True},
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
        first = last = begin
        shown = 0
        event: dict[str, Any] = {}
        for event in stream(self._url, prompt, self._new_tokens):
            last = time.perf_counter()
            if first == begin:
                first = last
            show(event["text"][shown:])
            shown = len(event["text"])
        meta = event["meta_info"]
        self._history = prompt + list(event["output_ids"]) + self._encode("</s>")
        after_first = max(1, meta["completion_tokens"] - 1)
        return Turn(
            meta["prompt_tokens"],
            meta["cached_tokens"],
            first - begin,
            (last - first) / after_first,
            event["text"],
        )

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
