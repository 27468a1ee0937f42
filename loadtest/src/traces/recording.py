"""Our own report.json as a trace: the same sessions, made again from workload and seed, at the recorded times."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sgl_indexcache.loadtest.traces.reading import Where, as_object, kind, parse, seconds, whole
from sgl_indexcache.loadtest.workload.generator import Generator, SaltMode
from sgl_indexcache.loadtest.workload.material import Material
from sgl_indexcache.loadtest.workload.plan import Session
from sgl_indexcache.loadtest.workload.spec import Workload

SCHEMA_PREFIX = "sgl_indexcache.loadtest/"


class Recording:
    """What is needed to send a run again.

    starts  session index to its first request's intended time, seconds from the first of all, in order of time
    """

    def __init__(self, workload: Workload, seed: int, starts: dict[int, float]) -> None:
        self.workload, self.seed, self.starts = workload, seed, starts


def read(path: Path) -> Recording:
    """The recording in a report.

    Raises:
        TraceError: no report of ours, a report of a replay, or a request in it is refused.
    """
    top = Where(path, "")
    data = as_object(parse(path.read_bytes(), top), top)
    if not str(data.get("schema", "")).startswith(SCHEMA_PREFIX):
        raise top.refuse("it is no report of `loadtest run`")
    run = as_object(data.get("run"), top)
    if run.get("workload") is None:
        raise top.refuse("it is the report of a replay: replay that trace again instead")
    try:
        workload = Workload.model_validate(run["workload"])
    except ValueError as error:
        raise top.refuse(f"its workload is refused ({str(error).splitlines()[0]})") from None
    seed = whole(run, "seed", 0, 2**63, top)
    requests = data.get("requests")
    if not isinstance(requests, list):
        raise top.refuse(f"requests must be a list, it is {kind(requests)}")
    starts = _starts(requests, path)
    if not starts:
        raise top.refuse("it holds no request")
    return Recording(workload, seed, starts)


def _starts(requests: list[Any], path: Path) -> dict[int, float]:
    starts: dict[int, float] = {}
    for number, item in enumerate(requests, 1):
        where = Where(path, f"request {number}")
        record = as_object(item, where)
        index = whole(record, "index", 0, 2**62, where)
        at = seconds(record, "intended", 1.0, where)
        starts[index] = min(at, starts.get(index, at))
    begin = min(starts.values(), default=0.0)
    return {index: at - begin for index, at in sorted(starts.items(), key=lambda pair: pair[1])}


def sessions(recording: Recording, material: Material, salt_mode: SaltMode, salt: str) -> Iterator[Session]:
    """The recorded sessions, each at its recorded start; think times and sub-agents are those of the plan."""
    generator = Generator(recording.workload, material, recording.seed, salt_mode, salt)
    for place, (index, start) in enumerate(recording.starts.items()):
        yield replace(generator.session(index, fresh=place == 0), start_s=start)
