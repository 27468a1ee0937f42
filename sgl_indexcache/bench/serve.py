"""End-to-end benchmark: every system in a process of its own, results kept per system."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.bench.systems import System
from sgl_indexcache.bench.workload import Workload
from sgl_indexcache.live.model import ModelFacts

SCHEMA = "sgl_indexcache.bench.system/1"


def engine_arguments(
    model: Path, workload: Workload, device: str, kv: str, dtype: str, prefill_graph: bool, flags: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of sglang.Engine that all systems share; `flags` go over them."""
    common: dict[str, Any] = {
        "model_path": str(model),
        "load_format": "auto" if list(model.glob("*.safetensors")) else "dummy",
        "skip_tokenizer_init": True,
        "random_seed": 1,
        "log_level": "warning",
        "grammar_backend": "none",
        "context_length": workload.context,
    }
    if device == "cpu":
        max_batch = max((*workload.batches, 1))
        common |= {
            "device": "cpu",
            "dtype": "float32",
            "page_size": 64,
            "mem_fraction_static": 0.3,
            "max_total_tokens": workload.context * 2 + max_batch * 128,
            "max_running_requests": max(max_batch, 4),
            "chunked_prefill_size": 2048,
        }
    else:
        common |= {
            "dtype": dtype,
            "kv_cache_dtype": kv,
            "mem_fraction_static": 0.85,
            "chunked_prefill_size": 8192,
            "cuda_graph_max_bs_decode": max((*workload.batches, 1)),
            "max_running_requests": 64,
            "disable_prefill_cuda_graph": not prefill_graph,
        }
    return {**common, **flags}


def file_of(folder: Path, system: str) -> Path:
    """Where a system's result stands in the folder of a benchmark."""
    return folder / f"system-{system}.json"


def measured(folder: Path, system: str) -> dict[str, Any] | None:
    """A complete result of the system, or None."""
    path = file_of(folder, system)
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    if result.get("schema") != SCHEMA:
        raise BenchError(f"{path} is not of schema {SCHEMA}: give another folder with --out")
    return result if result["complete"] else None


def run_system(
    system: System,
    model: ModelFacts,
    workload: Workload,
    engine: dict[str, Any],
    device: str,
    folder: Path,
    timeout: float,
    *,
    profile: bool = False,
) -> dict[str, Any]:
    """Measure one system, unless the folder has it already for this very workload; see profile.py for `profile`.

    Raises:
        BenchError: the folder holds another workload's result, or the system's process failed.
    """
    header = {
        "schema": SCHEMA,
        "system": system.name,
        "pattern": str(system.pattern),
        "model": model.described(),
        "workload": workload.described(),
        "engine": {name: value for name, value in engine.items() if name != "model_path"},
        "settings": {name: value for name, value in sorted(os.environ.items()) if name.startswith("SGL_INDEXCACHE_")},
    }
    if (known := measured(folder, system.name)) is not None:
        if any(known[name] != header[name] for name in ("model", "workload", "engine", "pattern")):
            raise BenchError(
                f"{file_of(folder, system.name)} holds another model, workload or engine: "
                "give another folder with --out, or delete it"
            )
        return known
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "header": header,
        "engine": {**engine, **system.engine()},
        "workload": workload.described(),
        "profile": profile,
        "out": str(file_of(folder, system.name).resolve()),
    }
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "spec.json"
        path.write_text(json.dumps(spec))
        code = _child(
            [sys.executable, "-P", "-W", "ignore", "-m", "sgl_indexcache.bench.child", str(path)],
            system.environment(os.environ, device),
            timeout,
        )
    result = measured(folder, system.name)
    if code != 0 or result is None:
        raise BenchError(f"the process of system {system.name} ended with code {code}; its output stands above")
    return result


def _child(command: list[str], environment: dict[str, str], timeout: float) -> int:
    """Run a process in a group of its own and leave nothing of it behind."""
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise BenchError(
            f"the system was not measured within {timeout:.0f} s: raise --timeout or measure less"
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
