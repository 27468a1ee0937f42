"""Seam: server arguments. Refuses what is not supported, and writes the pattern into SGLang's config override.

`index_topk_pattern` goes through --json-model-override-args, SGLang's own way to change a model's config, so
that its carry, its pipeline-parallel and its pool logic see one and the same pattern.
"""

import json
import os
from typing import Any

from sgl_indexcache.pattern import Pattern, PatternError
from sgl_indexcache.pattern import resolve as resolve_pattern
from sgl_indexcache.settings import SettingsError
from sgl_indexcache.sglang_port import index_store, refusals, runtime, two_level
from sgl_indexcache.sglang_port.base import BACKEND_NAME, BOTH, Hook, Seam
from sgl_indexcache.sglang_port.proof import device_of_process, verify
from sgl_indexcache.telemetry import address

# GNU OpenMP's waiting, as the schedulers will inherit it; see _sleep_soon.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_SPINS = "1000"
_PATTERN_KEYS = ("index_topk_pattern", "index_topk_freq", "index_skip_topk_offset")


def _post_init(original: Any, args: Any) -> None:
    """Around ServerArgs.__post_init__, which runs in the main process only."""
    names = {args.attention_backend, args.prefill_attention_backend, args.decode_attention_backend} - {None}
    if runtime.current.requested and not names:
        args.attention_backend = BACKEND_NAME
        names = {BACKEND_NAME}
    if BACKEND_NAME not in names:
        if runtime.current.requested:
            raise SettingsError(
                f"the settings ask for IndexCache, but the attention backend is {', '.join(sorted(names))}; "
                f"use --attention-backend {BACKEND_NAME} or set enabled: false"
            )
        original(args)
        return
    verify(device_of_process())
    refusals.check(args, device_of_process())
    pattern, config = _apply_pattern(args)
    index_store.apply(args, runtime.current.settings.store, device_of_process())
    original(args)
    refusals.check(args, device_of_process())
    index_store.check(args, runtime.current.settings.store, device_of_process(), pattern, config)
    two_level.check(args, runtime.current.settings.scoring, device_of_process(), config)
    if runtime.current.settings.telemetry.events:
        address.check(runtime.current.settings.telemetry.address, runtime.current.settings.telemetry.keys)
    if device_of_process() == "cpu":
        _sleep_soon()


def _sleep_soon() -> None:
    """Have OpenMP's idle threads sleep after some microseconds, where the user has said nothing about it.

    They spin for 12 ms otherwise, on a core that one of ours works on (indexer/cpu/workers.py): 4 to 9 % of a long
    prefill (docs/log.md). Only where few cores are shared: waking many threads for every operation
    costs, too.
    """
    from sgl_indexcache.indexer.cpu.exact import MOST_WORKERS

    if len(os.sched_getaffinity(0)) <= MOST_WORKERS and not any(name in os.environ for name in _WAITING):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def _apply_pattern(args: Any) -> tuple[Pattern, Any]:
    """Resolve the settings' pattern against the model and write it into the model's config override.

    Returns the pattern and the model's config.
    """
    override = json.loads(args.json_model_override_args or "{}")
    config = _model_config(args, override)
    pattern = resolve_pattern(runtime.current.settings.pattern, config)
    own = [key for key in _PATTERN_KEYS if key in override]
    if own and runtime.current.settings.pattern is not None and Pattern.of_config(config) != pattern:
        raise PatternError(
            f"--json-model-override-args sets {own[0]}, which contradicts the settings' pattern; keep one"
        )
    override["index_topk_pattern"] = str(pattern)
    args.json_model_override_args = json.dumps(override)
    return pattern, config


def _model_config(args: Any, override: dict[str, Any]) -> Any:
    """The model's Hugging Face config with the user's overrides, as SGLang will read it."""
    from sglang.srt.utils.hf_transformers_utils import get_config

    try:
        return get_config(
            args.model_path,
            trust_remote_code=args.trust_remote_code,
            revision=args.revision,
            model_override_args=override,
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise SettingsError(f"no model configuration could be read from {args.model_path}: {first}") from error


SEAM = Seam(
    name="server-args",
    purpose="refuse unsupported flags and apply the pattern before weights load",
    devices=BOTH,
    hooks=(Hook("sglang.srt.server_args.ServerArgs.__post_init__", "around", _post_init, parameters=("self",)),),
)
