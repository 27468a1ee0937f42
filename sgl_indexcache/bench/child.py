"""The process of one system: start an engine, measure, write the result after every figure.

python -m sgl_indexcache.bench.child SPEC.json
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.bench.measure import measure
from sgl_indexcache.bench.profile import profile
from sgl_indexcache.bench.workload import Workload
from sgl_indexcache.results import envelope, write_text


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    out = Path(spec["out"])
    workload = Workload.of(spec["workload"])
    result: dict[str, Any] = {**spec["header"], "complete": False, "figures": []}
    begin = time.perf_counter()
    import sglang

    engine = sglang.Engine(**spec["engine"])
    result |= envelope(result["schema"], on_device=True)
    result["start_s"] = round(time.perf_counter() - begin, 1)
    print(f"started in {result['start_s']} s", flush=True)

    def record(figure: dict[str, Any]) -> None:
        figure["samples"] = [round(sample, 4) for sample in figure["samples"]]
        result["figures"].append(figure)
        write_text(out, json.dumps(result, indent=1) + "\n")
        middle = sorted(figure["samples"])[len(figure["samples"]) // 2]
        print(
            f"{figure['kind']} length {figure['length']} new {figure['new']} batch {figure['batch']}: {middle:.2f} ms",
            flush=True,
        )

    result["probe"] = measure(engine, workload, record)
    if spec["profile"]:
        result["profile"] = profile(engine, workload)
    state = engine.get_server_info()["internal_states"][0].get("indexcache")
    result |= {"state": state, "complete": True}
    write_text(out, json.dumps(result, indent=1, allow_nan=False) + "\n")
    engine.shutdown()


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(str(error))
