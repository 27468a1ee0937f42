"""SGLang's own /generate."""

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
from sgl_indexcache.loadtest.workload.plan import Piece


class _Finish(msgspec.Struct):
    type: str = ""
    message: str | None = None


class _Meta(msgspec.Struct):
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int = 0
    finish_reason: _Finish | None = None


class _Event(msgspec.Struct):
    index: int = 0
    meta_info: _Meta | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


class _EventWithReply(_Event):
    text: str = ""
    output_ids: list[int] | None = None


_DECODER = msgspec.json.Decoder(_Event)
_REPLY_DECODER = msgspec.json.Decoder(_EventWithReply)


class GenerateReader(Reader):
    """Every event says how many tokens its sample has; text and ids are those since the sample's begin."""

    __slots__ = ("_counts", "_keep")

    def __init__(self, keep_reply: bool) -> None:
        super().__init__()
        self._keep = keep_reply
        self._counts: dict[int, int] = {}

    def feed(self, data: bytes) -> int:
        try:
            event = (_REPLY_DECODER if self._keep else _DECODER).decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadEventError(str(error)) from None
        if bytes(event.error) != b"null":
            raise ServerReportedError(bytes(event.error).decode(errors="replace"))
        meta = event.meta_info
        if meta is None:
            raise BadEventError("meta_info is missing")
        before = self._counts.get(event.index, 0)
        self._counts[event.index] = max(before, meta.completion_tokens)
        self.prompt = meta.prompt_tokens if meta.prompt_tokens is not None else self.prompt
        self.cached = meta.cached_tokens if meta.cached_tokens is not None else self.cached
        self.output = sum(self._counts.values())
        if meta.finish_reason is not None:
            self.finished += 1
            self.aborted |= meta.finish_reason.type == "abort"
        if isinstance(event, _EventWithReply) and event.index == 0:
            self.reply_text, self.reply_ids = event.text, event.output_ids
        return max(0, meta.completion_tokens - before)


class Generate:
    """`/generate`, with text or token ids."""

    path = "/generate"

    def __init__(self, options: BodyOptions) -> None:
        self._options = options

    def body(self, prompt: Sequence[Piece], output_tokens: int, n: int) -> dict[str, Any]:
        sampling: dict[str, Any] = {
            "temperature": self._options.temperature,
            "max_new_tokens": output_tokens,
            "ignore_eos": self._options.ignore_eos,
        }
        if n > 1:
            sampling["n"] = n
        extra = dict(self._options.extra)
        sampling |= extra.pop("sampling_params", {})
        key, whole = ("text", joined_text(prompt)) if prompt[0].ids is None else ("input_ids", joined_ids(prompt))
        return {key: whole, "sampling_params": sampling, "stream": True, **extra}

    def reader(self, keep_reply: bool) -> Reader:
        return GenerateReader(keep_reply)
