"""One configuration of the engine: what is asked of it, and its answers in the reference's terms."""

import base64
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model

from ..engine import CPU_ENGINE, cpu_environment, run_job
from .reference import Reference

PROMPT, NEW, CHUNK = 700, 24, 256
TIMEOUT_S = 400


@dataclass(frozen=True)
class Configuration:
    """An engine and a model.

    spec       the checkpoint, with the pattern that stands in its config
    page_size  KV slots a page
    overlap    whether the scheduler overlaps with the forward
    pattern    F/S letters given to the plugin by environment instead of by the config
    """

    spec: RandomModelSpec
    page_size: int
    overlap: bool
    pattern: str | None = None

    @property
    def letters(self) -> str:
        """The pattern in force."""
        return self.pattern or self.spec.pattern or "F" * self.spec.layers


@dataclass(frozen=True)
class Answer:
    """What the engine returned for one request; T = prompt + output tokens - 1.

    tokens                    prompt and output
    prompt                    number of prompt tokens
    cached                    of them, found in the radix tree
    selections                int32 `[T, L, k]`
    rows, targets, log_probs  row r, token at r + 1 and its log-probability, for prompt and output
    """

    tokens: list[int]
    prompt: int
    cached: int
    selections: torch.Tensor
    rows: list[int]
    targets: list[int]
    log_probs: list[float]

    @property
    def decoded_rows(self) -> list[int]:
        """Rows whose next token the engine chose."""
        return list(range(self.prompt - 1, len(self.tokens) - 1))

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt :]


def steps() -> list[list[dict[str, Any]]]:
    """The requests, in batches: cold, prefix hit, repeat, and six at once.

    `logprob_start` also caps what may be taken from the cache (SGLang needs logits from there on): 0 makes
    a request cold, -1 asks for the output's log-probabilities only.
    """
    draw = Random(0)
    base, tail, other = ([draw.randrange(256) for _ in range(n)] for n in (PROMPT, PROMPT // 3, 300))
    kept = PROMPT * 2 // 3
    # On a cached prefix, of lengths on both sides of a page's and a selection's end; and cold with a prefix
    # in common, which nothing has cached before this batch.
    batch = [
        *((base[:n] + [n % 251] * 7, -1) for n in (57, 258, 505)),
        *((other[:n] + [n % 251] * 5, 0) for n in (120, 192, 300)),
    ]

    def request(name: str, tokens: list[int], start: int) -> dict[str, Any]:
        return {"name": name, "tokens": tokens, "new_tokens": NEW, "logprob_start": start}

    return [
        [request("cold", base, 0)],
        [request("hit", base[:kept] + tail, kept)],
        [request("repeat", base, -1)],
        [request(f"batch{number}", tokens, start) for number, (tokens, start) in enumerate(batch)],
    ]


BATCH = tuple(f"batch{number}" for number in range(6))


@dataclass
class Session:
    """The answers of one configuration, and its reference; `folder` is the checkpoint."""

    configuration: Configuration
    folder: Path
    answers: dict[str, Answer]
    reference: Reference
    known: dict[tuple[int, ...], Any] = field(default_factory=dict)

    def expected(self, name: str) -> Any:
        """The reference's `Expected` for a request's sequence; one forward for each different sequence."""
        fed = self.answers[name].tokens[:-1]
        if tuple(fed) not in self.known:
            self.known[tuple(fed)] = self.reference.run(fed)
        return self.known[tuple(fed)]


def run(configuration: Configuration, folder: Path) -> Session:
    """Start the engine, ask everything, end it, and load the reference. Files go into `folder`.

    Raises:
        AssertionError: the engine's process failed; the text ends with what it printed.
    """
    spec = configuration.spec
    model = write_random_model(folder / "model", spec)
    engine = {
        **CPU_ENGINE,
        "model_path": str(model),
        "dtype": "float32",
        "page_size": configuration.page_size,
        "chunked_prefill_size": CHUNK,
        "disable_overlap_schedule": not configuration.overlap,
        "max_total_tokens": 16384,
        "max_running_requests": 8,
        "enable_return_indexer_topk": True,
    }
    batches = steps()
    pattern = {} if configuration.pattern is None else {"SGL_INDEXCACHE_PATTERN": configuration.pattern}
    job = {"engine": engine, "steps": batches}
    results = run_job("tests.oracle.record", job, folder, "engine", cpu_environment(**pattern), TIMEOUT_S)
    requests = {request["name"]: request for step in batches for request in step}
    return Session(
        configuration,
        model,
        {name: _answer(requests[name], results[name], spec) for name in requests},
        Reference(model, configuration.pattern),
    )


def _answer(request: dict[str, Any], result: dict[str, Any], spec: RandomModelSpec) -> Answer:
    prompt = request["tokens"]
    tokens = prompt + result["output"]
    assert len(result["output"]) == request["new_tokens"]
    flat = torch.frombuffer(bytearray(base64.b64decode(result["selections"])), dtype=torch.int32)
    rows, targets, log_probs = [], [], []
    first = len(prompt) - len(result["prompt_log_probs"])
    scored = [
        *enumerate(result["prompt_log_probs"], first),
        *enumerate(result["output_log_probs"], len(prompt)),
    ]
    for position, (value, token) in scored:
        assert token == tokens[position], "log-probabilities of other tokens than those of the request"
        if value is None:  # the first one asked for has no row before it that was computed
            continue
        rows.append(position - 1)
        targets.append(token)
        log_probs.append(value)
    return Answer(
        tokens,
        len(prompt),
        result["cached"],
        flat.reshape(len(tokens) - 1, spec.layers, spec.index_topk),
        rows,
        targets,
        log_probs,
    )
