"""What every tensor-parallel rank's store decides, one line a call, to be compared between ranks.

`install` is called at the top of a program whose engine processes are spawned, and takes effect in the schedulers.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

CALLS = ("begin", "keep", "end", "drop", "forget")


def install(folder: Path) -> None:
    """From now on the store of rank N writes its decisions to `folder/N.log`: a call and a digest of its outcome."""
    from sgl_indexcache.sglang_port import index_store

    build = index_store.build

    def built(model_runner: Any, *arguments: Any) -> Any:
        store = build(model_runner, *arguments)
        if store is not None:
            _follow(store, folder / f"{model_runner.ps.tp_rank}.log")
        return store

    index_store.build = built


def _follow(store: Any, path: Path) -> None:
    log = path.open("w", buffering=1)

    def followed(name: str) -> Any:
        call = getattr(store, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            result = call(*arguments, **named)
            rows = store._plan if hasattr(store, "_plan") else store._tables.table.tolist()
            tails = [(slot, tail.offset, list(tail.tokens), tail.key) for slot, tail in store._kept.items()]
            state = (result, store.snapshot(), store._free, list(store._lru), sorted(store._writers), tails, rows)
            log.write(f"{name} {sha256(repr(state).encode()).hexdigest()}\n")
            return result

        return noted

    for name in CALLS:
        setattr(store, name, followed(name))


def compare(folder: Path, ranks: int) -> tuple[int, list[str]]:
    """Decisions in common, and a sentence for each rank that decides otherwise than rank 0.

    An engine is shut down without waiting for its last rank, so the end of a log may be missing.
    """
    logs = [(folder / f"{rank}.log").read_text().splitlines() for rank in range(ranks)]
    count = min(map(len, logs))
    wrong = []
    for rank, log in enumerate(logs[1:], 1):
        first = next((line for line in range(count) if log[line] != logs[0][line]), None)
        if first is not None:
            wrong.append(f"rank {rank}: decision {first} is {log[first]}, not {logs[0][first]}")
    if max(map(len, logs)) - count > len(CALLS):
        wrong.append(f"the ranks made {[len(log) for log in logs]} decisions")
    return count, wrong
