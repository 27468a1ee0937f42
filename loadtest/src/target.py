"""The server under test: which API, which model, which material its prompts are made of."""

import urllib.parse

import aiohttp

from sgl_indexcache.loadtest.client.dialect import BodyOptions, Dialect
from sgl_indexcache.loadtest.client.generate import Generate
from sgl_indexcache.loadtest.client.openai import Chat, Completions
from sgl_indexcache.loadtest.errors import TargetError
from sgl_indexcache.loadtest.options import RunOptions
from sgl_indexcache.loadtest.workload.material import IdMaterial, Material, TextMaterial, Tokens, id_range


class Target:
    """Where a run's requests go and what they look like."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options

    def material(self) -> Material:
        """What pieces are filled with."""
        options = self.options
        tokens = Tokens(options.tokenizer) if options.tokenizer is not None else None
        if options.prompt == "text" or (options.prompt == "auto" and options.api == "chat"):
            return TextMaterial(tokens)
        return IdMaterial(*id_range(options.token_range, tokens), tokens)

    def dialect(self, model: str) -> Dialect:
        """The API, with the run's common options."""
        options = self.options
        common = BodyOptions(model, options.plain, options.ignore_eos, extra=options.extra)
        if options.api == "chat":
            return Chat(common)
        return Completions(common) if options.api == "completions" else Generate(common)

    def public_url(self) -> str:
        """The address without user name and password."""
        parts = urllib.parse.urlsplit(self.options.url)
        return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    async def model_name(self) -> str:
        """The model to name in requests: as given, else the server's first; `default` where none is listed.

        Raises:
            TargetError: nobody answers at the address.
        """
        if self.options.model is not None:
            return self.options.model
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self.options.headers) as session,
                session.get(self.options.url.rstrip("/") + "/v1/models") as answer,
            ):
                if answer.status != 200:
                    return "default"
                models = await answer.json(content_type=None)
                return str(models["data"][0]["id"])
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
                aiohttp.ClientSession(timeout=timeout, headers=self.options.headers) as session,
                session.post(self.options.url.rstrip("/") + "/flush_cache?timeout=30") as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TargetError(f"{self.public_url()} does not answer ({type(error).__name__})") from None
        if status != 200:
            raise TargetError(f"the server did not flush its cache (HTTP {status}): leave out --flush-cache")
