"""OpenAI's chat/completions and completions."""

from collections.abc import Sequence
from typing import Any

import msgspec

from sgl_indexcache.loadtest.client.dialect import (
    BadEventError,
    BodyOptions,
    Reader,
    ServerReportedError,
    joined_ids,
    joined_text,
)
from sgl_indexcache.loadtest.errors import OptionError
from sgl_indexcache.loadtest.workload.plan import Piece


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"null")


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_DECODER = msgspec.json.Decoder(_Chunk)


class OpenAiReader(Reader):
    """Reads chunks of either API. Without running counts, a chunk with content counts as one token."""

    __slots__ = ("_counts", "_keep")

    def __init__(self, keep_reply: bool) -> None:
        super().__init__()
        self._keep = keep_reply
        self._counts: dict[int, int] = {}

    def feed(self, data: bytes) -> int:
        try:
            chunk = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadEventError(str(error)) from None
        if bytes(chunk.error) != b"null":
            raise ServerReportedError(bytes(chunk.error).decode(errors="replace"))
        usage = chunk.usage
        tokens = 0
        for choice in chunk.choices:
            before = self._counts.get(choice.index, 0)
            if usage is not None and usage.completion_tokens is not None:
                now = usage.completion_tokens
            else:
                now = before + (1 if _has_content(choice) else 0)
            tokens += max(0, now - before)
            self._counts[choice.index] = max(now, before)
            if choice.finish_reason is not None:
                self.finished += 1
                self.aborted |= choice.finish_reason == "abort"
            if self._keep and choice.index == 0:
                self.reply_text += choice.text or (choice.delta.content if choice.delta else None) or ""
        if usage is not None:
            self._count(usage, last=not chunk.choices)
        return tokens

    def _count(self, usage: _Usage, *, last: bool) -> None:
        if usage.prompt_tokens is not None:
            self.prompt = usage.prompt_tokens
        if usage.prompt_tokens_details is not None:
            self.cached = usage.prompt_tokens_details.cached_tokens
        if usage.completion_tokens is not None:
            # A chunk's running count is of its own sample, the closing one of all.
            self.output = usage.completion_tokens if last else sum(self._counts.values())


def _has_content(choice: _Choice) -> bool:
    delta = choice.delta
    if delta is None:
        return bool(choice.text)
    return bool(delta.content or delta.reasoning_content or bytes(delta.tool_calls) not in (b"null", b"[]"))


def _common(options: BodyOptions, output_tokens: int, n: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": options.model,
        "max_tokens": output_tokens,
        "temperature": options.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if not options.plain:
        body["ignore_eos"] = options.ignore_eos
        body["stream_options"]["continuous_usage_stats"] = True
    if n > 1:
        body["n"] = n
    return body


class Chat:
    """`/v1/chat/completions`. Pieces of one role in a row become one message: many templates ask for that."""

    path = "/v1/chat/completions"

    def __init__(self, options: BodyOptions) -> None:
        self._options = options

    def body(self, prompt: Sequence[Piece], output_tokens: int, n: int) -> dict[str, Any]:
        messages: list[dict[str, str]] = []
        for piece in prompt:
            if piece.text is None:
                raise OptionError("the chat API takes no token ids: use --api completions or generate")
            if messages and messages[-1]["role"] == piece.role:
                messages[-1]["content"] += "\n" + piece.text
            else:
                messages.append({"role": piece.role, "content": piece.text})
        return {**_common(self._options, output_tokens, n), "messages": messages, **self._options.extra}

    def reader(self, keep_reply: bool) -> Reader:
        return OpenAiReader(keep_reply)


class Completions:
    """`/v1/completions`, with text or token ids."""

    path = "/v1/completions"

    def __init__(self, options: BodyOptions) -> None:
        self._options = options

    def body(self, prompt: Sequence[Piece], output_tokens: int, n: int) -> dict[str, Any]:
        whole: object = joined_ids(prompt) if prompt[0].ids is not None else joined_text(prompt)
        return {**_common(self._options, output_tokens, n), "prompt": whole, **self._options.extra}

    def reader(self, keep_reply: bool) -> Reader:
        return OpenAiReader(keep_reply)
