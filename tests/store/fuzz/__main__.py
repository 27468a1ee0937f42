"""Random schedules on the real CPU engine, with the store and without: the same bits, and nothing left over.

Use: `python -m tests.store.fuzz --schedules 1000 --out store-fuzz.json`. Exit status 1 when anything differs.
"""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from sgl_indexcache.results import write_json

from . import decisions
from .run import CopyPlan, differences, run

SCHEMA = "sgl_indexcache.tests.store_fuzz/1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--page", type=int, default=16)
    parser.add_argument("--pool", type=int, default=1024)
    parser.add_argument("--snapshot-mib", type=int, default=1)
    parser.add_argument("--no-overlap", action="store_true")
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--retract", type=int, default=0)
    parser.add_argument("--whole-prefills", action="store_true", help="the CUDA backend's store")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks")
    parser.add_argument("--control", action="store_true", help="run twice without the store: are those the same?")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    plan = CopyPlan(
        schedules=options.schedules,
        first=options.first,
        page=options.page,
        pool=options.pool,
        snapshot_mib=options.snapshot_mib,
        overlap=not options.no_overlap,
        mixed=options.mixed,
        retract=options.retract,
        whole_prefills=options.whole_prefills,
        tp=options.tp,
    )
    took, answers = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("on", "off", "off again")[: 3 if options.control else 2]:
            begin = time.monotonic()
            answers[name] = run(plan, Path(folder), store=name == "on")
            took[name] = round(time.monotonic() - begin, 1)
        decided, disagreements = decisions.compare(Path(folder), plan.tp) if plan.tp > 1 else (0, [])
    differing = differences(answers["on"], answers["off"], plan.first)
    steps = [step for schedule in answers["on"]["schedules"] for step in schedule]
    report = {
        "plan": asdict(plan),
        "seconds": took,
        "steps": len(steps),
        "requests": sum(len(step) for step in steps),
        "differing": differing,
        "control": differences(answers["off again"], answers["off"], plan.first) if options.control else None,
        "unsound": answers["on"]["unsound"],
        "decisions": decided,
        "disagreements": disagreements,
        "work_on": answers["on"]["state"]["work"],
        "work_off": answers["off"]["state"]["work"],
        "store": answers["on"]["state"]["store"],
    }
    write_json(options.out, SCHEMA, report)
    print(
        f"{len(differing)} of {plan.schedules} schedules differ, {len(report['unsound'])} unsound, "
        f"{len(disagreements)} ranks disagree; {options.out}"
    )
    return 1 if differing or report["unsound"] or disagreements else 0


if __name__ == "__main__":
    raise SystemExit(main())
