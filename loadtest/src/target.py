"""The server under test: which API, which model, which material its prompts are made of."""

import json
import os
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from sgl_indexcache.loadtest.client.dialect import BodyOptions, Dialect
from sgl_indexcache.loadtest.client.generate import Generate
from sgl_indexcache.loadtest.client.openai import Chat, Completions
from sgl_indexcache.loadtest.errors import OptionError, TargetError
from sgl_indexcache.loadtest.workload.material import IdMaterial, Material, TextMaterial, Tokens, id_range

APIS = ("chat", "completions", "generate")
PROMPTS = ("auto", "ids", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go and what they look like.

    url          http(s)://host:port, without the API's path
    api          chat, completions or generate
    model        name in the body; None asks the server
    tokenizer    model folder or tokenizer.json, None for none
    prompt       ids, text, or auto: text for chat, else ids
    token_range  `low:high` of random token ids, None for a safe one
    plain        only fields of OpenAI's own API
    extra        keys that go over every body
    """

    url: str
    api: str = "chat"
    model: str | None = None
    tokenizer: Path | None = None
    prompt: str = "auto"
    token_range: str | None = None
    plain: bool = False
    ignore_eos: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    timeout: float = 600.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"{self.url[:80]!r} is no address: write it like http://127.0.0.1:30000")
        if self.api not in APIS:
            raise OptionError(f"--api {self.api!r} is unknown: use one of {', '.join(APIS)}")
        if self.prompt not in PROMPTS:
            raise OptionError(f"--prompt {self.prompt!r} is unknown: use one of {', '.join(PROMPTS)}")
        if self.api == "chat" and self.prompt == "ids":
            raise OptionError("the chat API takes no token ids: use --api completions or generate")
        if self.timeout <= 0:
            raise OptionError("--timeout must be above 0")

    def material(self) -> Material:
        """What pieces are filled with."""
        tokens = Tokens(self.tokenizer) if self.tokenizer is not None else None
        if self.prompt == "text" or (self.prompt == "auto" and self.api == "chat"):
            return TextMaterial(tokens)
        return IdMaterial(*id_range(self.token_range, tokens), tokens)

    def dialect(self, model: str) -> Dialect:
        """The API, with the run's common options."""
        options = BodyOptions(model, self.plain, self.ignore_eos, extra=self.extra)
        if self.api == "chat":
            return Chat(options)
        return Completions(options) if self.api == "completions" else Generate(options)

    def public_url(self) -> str:
        """The address without user name and password."""
        parts = urllib.parse.urlsplit(self.url)
        return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    async def model_name(self) -> str:
        """The model to name in requests: as given, else the server's first; `default` where none is listed.

        Raises:
            TargetError: nobody answers at the address.
        """
        if self.model is not None:
            return self.model
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self.headers) as session,
                session.get(self.url.rstrip("/") + "/v1/models") as answer,
            ):
                if answer.status != 200:
                    return "default"
                listed = await answer.json(content_type=None)
                return str(listed["data"][0]["id"])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = type(error).__name__
            raise TargetError(f"{self.public_url()} does not answer ({reason}): is the server running?") from None
        except (ValueError, LookupError, TypeError):
            return "default"

    async def flush_cache(self) -> None:
        """Empty SGLang's prefix cache.

        Raises:
            TargetError: the server refuses, or knows no /flush_cache.
        """
        timeout = aiohttp.ClientTimeout(total=60)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self.headers) as session,
                session.post(self.url.rstrip("/") + "/flush_cache?timeout=30") as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TargetError(f"{self.public_url()} does not answer ({type(error).__name__})") from None
        if status != 200:
            raise TargetError(f"the server did not flush its cache (HTTP {status}): leave out --flush-cache")


def parse_headers(lines: list[str], key_variable: str | None) -> dict[str, str]:
    """`Name: value` lines, and a bearer token from the environment variable `key_variable`."""
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise OptionError(f"--header {line[:40]!r}: write it like 'X-Name: value'")
        headers[name.strip()] = value.strip()
    if key_variable is not None:
        key = os.environ.get(key_variable)
        if not key:
            raise OptionError(f"the environment variable {key_variable} is empty: set it or drop --api-key-env")
        headers["Authorization"] = f"Bearer {key}"
    return headers


def parse_extra(text: str | None) -> dict[str, Any]:
    """The JSON object of `--extra-body`."""
    if text is None:
        return {}
    try:
        extra = json.loads(text)
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise OptionError("--extra-body is no JSON object: write it like '{\"top_p\": 0.9}'")
    return extra
