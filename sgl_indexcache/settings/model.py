"""The settings themselves: what can be set, the defaults, the bounds and their descriptions."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sgl_indexcache.pattern import PatternError, check_spec


class _Section(BaseModel):
    # Strict: `scratch_mib: true` would otherwise be read as 1.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class UniformPattern(_Section):
    """A uniform pattern in SGLang's numbers (`index_topk_freq`, `index_skip_topk_offset`)."""

    freq: int = Field(gt=0, description="One layer in freq is Full; 1 makes every layer Full.")
    offset: int | None = Field(
        default=None,
        gt=0,
        description="Number of leading Full layers; null is SGLang's rule without an offset, the same as 2.",
    )


class Scoring(_Section):
    """How a Full layer scores the keys."""

    mode: Literal["exact", "two_level"] = Field(
        default="exact",
        description=(
            "exact: every key of the context is scored. two_level: pages of 64 tokens are shortlisted by their mean "
            "key, and only their keys are scored; an approximation, whose recall is measured while serving."
        ),
    )
    shortlist: Annotated[int, Field(ge=64, le=1_000_000_000)] | Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.25,
        description=(
            "Size of a query's shortlist in two_level: a number of keys (an integer, at least the model's index_topk), "
            "or a fraction of the pages before the query (a number with a decimal point, up to 1.0), but never fewer "
            "keys than four times index_topk, and on CUDA never more than 131,072."
        ),
    )
    window_pages: int = Field(
        default=1, ge=1, le=1024, description="Pages just before a query's own that every shortlist holds."
    )
    recall_floor: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description=(
            "While the latest sampled queries of a context find less than this part of their exact selections, the "
            "layer scores that context exactly. 0 never does."
        ),
    )
    sample_rows: int = Field(
        default=256,
        ge=1,
        le=1_000_000_000,
        description="One query in this many is also scored exactly, to measure recall.",
    )
    min_saved_scores: int = Field(
        default=1 << 25,
        ge=0,
        le=1 << 62,
        description=(
            "CUDA: scores that its shortlists must save a request in a layer of a forward; with fewer its rows are "
            "scored exactly, since arranging shortlists takes as long as that many scores."
        ),
    )
    decode_rows: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description=(
            "CUDA: decode steps of at least so many requests use shortlists, of a size in keys; null: none does, every "
            "step is scored exactly. On the CPU every step uses them."
        ),
    )


class Kernels(_Section):
    """Which kernels serve, and what they may allocate. All but scratch_mib matter on CUDA only."""

    indexer: Literal["auto", "sglang", "ours"] = Field(
        default="auto",
        description=(
            "Who scores and selects in a Full layer: SGLang's kernels, ours, or the faster one for the shape by "
            "measurement."
        ),
    )
    prefill: Literal["auto", "sglang", "flashinfer", "flashmla", "fa3"] = Field(
        default="auto",
        description=(
            "Who attends to the selections in prefill; auto takes the fastest by measurement, sglang what "
            "--dsa-prefill-backend says."
        ),
    )
    decode: Literal["auto", "sglang", "flashinfer", "flashmla", "fa3"] = Field(
        default="auto",
        description=(
            "Who attends to the selections in decode; auto takes the fastest by measurement, sglang what "
            "--dsa-decode-backend says."
        ),
    )

    scratch_mib: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description="Upper bound in MiB for any score matrix or gathered scratch, whatever the batch.",
    )


class Store(_Section):
    """The index store: selections of the last rows of a cached prefix, reused when they would be computed again."""

    enabled: bool = Field(default=False, description="Keep tail snapshots in the radix tree and reuse them.")
    snapshot_mib: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description=(
            "Memory in MiB for tail snapshots, taken once at start-up; the least recently used are given up. On CUDA "
            "it is pinned host memory, which torch takes in powers of two."
        ),
    )
    margin: float | None = Field(
        default=None,
        ge=0,
        description=(
            "How far, relative to a row's largest score, the last selected score must lie above the best left out for "
            "a selection to serve a forward of another shape. null: 256 machine epsilons of the model's dtype, which "
            "lets float32 models reuse nearly all and bfloat16 models only the very same prefill. 0: reuse all but "
            "ties; selections may then differ where a forward of another shape would have rounded otherwise. On CUDA "
            "it must be null: only the very same prefill is reused there."
        ),
    )
    sort_waiting: bool = Field(
        default=False,
        description="Run requests that share a cached prefix together: SGLang's --schedule-policy lpm.",
    )
    self_check: bool = Field(
        default=False,
        description="Check every invariant of the store whenever /server_info is read; for tests, it takes time.",
    )


class Telemetry(_Section):
    """What a server tells about the plugin, beside SGLang's own metrics."""

    metrics: bool = Field(
        default=True,
        description="Put the plugin's metrics into SGLang's /metrics, where --enable-metrics serves it.",
    )
    events: bool = Field(
        default=True,
        description="Publish prefixes stored, reused and evicted, changed patterns and fallbacks as events over ZMQ.",
    )
    address: str = Field(
        default="ipc",
        description=(
            "Where events are published. ipc: Unix sockets in a folder of this user alone. ipc:///FOLDER: in that "
            "folder, which must have mode 0700. tcp://HOST:PORT: on this and the next port, two for every "
            "data-parallel rank; only with keys."
        ),
    )
    keys: str | None = Field(
        default=None,
        description=(
            "Folder with CURVE keys for TCP: server.key_secret, and the public keys of those who may connect in "
            "clients/*.key, as zmq.auth.create_certificates writes them."
        ),
    )
    queue: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Events that may wait to be published; those that find the queue full are dropped and counted.",
    )
    replay: int = Field(
        default=1024, ge=0, le=100_000, description="Newest events that are kept for readers that come or return late."
    )


def _check_pattern(value: Any) -> Any:
    if isinstance(value, str):
        try:
            check_spec(value)
        except PatternError as error:
            raise ValueError(str(error)) from None
    elif value is not None and not isinstance(value, (Mapping, UniformPattern)):
        raise ValueError("must be letters F and S, a preset's name, 1/N, or a mapping with freq and offset")
    return value


class Settings(_Section):
    """Everything that can be set. Immutable; unknown keys are refused.

    Raises:
        pydantic.ValidationError: from the constructor; `settings.load` turns it into a SettingsError.
    """

    enabled: bool = Field(
        default=True, description="false leaves SGLang exactly as it is, although the plugin is installed."
    )
    pattern: Annotated[str | UniformPattern | None, BeforeValidator(_check_pattern)] = Field(
        default=None,
        description=(
            "Which layers are Full (F) and Shared (S): letters, a preset's name, 1/N for one Full layer in N,"
            " or freq and offset. null keeps what the model's config.json says."
        ),
    )
    scoring: Scoring = Field(default_factory=Scoring, description="How a Full layer scores the keys.")
    store: Store = Field(default_factory=Store, description="What is kept of the indexer's work on a cached prefix.")
    kernels: Kernels = Field(default_factory=Kernels, description="Which kernels serve, and their bounds.")
    telemetry: Telemetry = Field(default_factory=Telemetry, description="What a server tells about the plugin.")


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the settings file, with a description on every field."""
    return Settings.model_json_schema()


def dump_yaml(settings: Settings) -> str:
    """The settings as a YAML file's text, every field spelled out; `load` reads the same settings from it."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, width=10_000)
