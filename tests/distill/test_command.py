"""The command: a whole run, with one process and with two; bad input in one sentence, and nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sgl_indexcache.cli.app import app
from sgl_indexcache.errors import UserError

FLAGS = [
    *("--pattern", "FSSF", "--warmup-steps", "3", "--sparse-steps", "2", "--length", "48", "--log-every", "1"),
    *("--save-every", "2", "--warmup-rate", "0.003", "--sparse-rate", "0.001"),
]


def invoke(*arguments: object) -> str:
    """Run the command in this process; its output, or the UserError that it raised."""
    done = CliRunner().invoke(app, ["distill", *map(str, arguments)])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def read_log(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_s", "peak_gb", "left_s")} for line in lines]


@pytest.fixture(scope="module")
def alone(tiny: Path, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    output = invoke("--model", tiny, "--data", lines, "--out", out, "--sequences", 2, *FLAGS)
    assert "serve it: sgl-indexcache serve --model-path" in output
    return out


def test_a_whole_run(alone: Path, tiny: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny, alone))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    shared = {name for name in before if ".layers.1.self_attn.indexer" in name or ".layers.2.self_attn.indexer" in name}
    assert changed == set(before) - shared
    assert json.loads((alone / "config.json").read_text())["index_topk_pattern"] == "FSSF"
    log = read_log(alone.with_name("out.run"))
    assert [(line["stage"], line["step"]) for line in log] == [("warmup", n) for n in (1, 2, 3)] + [
        ("sparse", n) for n in (1, 2)
    ]


def test_two_processes_do_what_one_does_and_go_on(alone: Path, tiny: Path, lines: Path, tmp_path: Path) -> None:
    """FSDP2 over gloo. The first command ends with the warm-up; the second goes on from there to the sparse stage."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "sgl_indexcache.cli", "distill", "--model", str(tiny), "--data", str(lines), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for last in (["--sparse-steps", "0"], []):
        done = subprocess.run([*command, *FLAGS, *last], env=environment, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr[-3000:]
        if last:
            shutil.move(out, tmp_path / "warm")
    expected, found = read_log(alone.with_name("out.run")), read_log(tmp_path / "out.run")
    assert len(found) == len(expected), "the second command took no step of the warm-up again"
    for one, other in zip(found, expected, strict=True):
        assert one["kl"] == pytest.approx(other["kl"], rel=1e-4)
        assert one["norm"] == pytest.approx(other["norm"], rel=1e-3)
    before, warm, whole, wanted = (
        load_file(folder / "model.safetensors") for folder in (tiny, tmp_path / "warm", out, alone)
    )
    learnt = {name for name in warm if not torch.equal(warm[name], before[name])}
    assert learnt == {name for name in warm if ".indexer." in name and name.split(".")[2] in "03"}
    for name in wanted:
        torch.testing.assert_close(whole[name], wanted[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_dry_run_prints_the_plan_and_writes_nothing(tiny: Path, lines: Path, tmp_path: Path) -> None:
    output = invoke("--model", tiny, "--data", lines, "--out", tmp_path / "out", "--dry-run", "--processes", 8, *FLAGS)
    for said in ("warmup: memory", "sparse: memory", "optimiser's moments", "gathered from the other", "all together"):
        assert said in output
    assert not list(tmp_path.iterdir())


def bad_model(tiny: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--pattern", "FSF"], "3 letters but the model has 4 layers"),
        (["--length", "512"], "the model takes 256 tokens"),
        (["--length", "1"], "--length is 1: it must be at least 2"),
        (["--warmup-steps", "0", "--sparse-steps", "0"], "no step is asked for"),
        (["--warmup-rate", "0"], "--warmup-rate is 0"),
        (["--form", "median"], "use sum or mean"),
        (["--dtype", "int8"], "use bfloat16 or float32"),
        (["--data", "EMPTY"], "nothing to learn from"),
        (["--data", "NONE"], "does not exist"),
        (["--out", "FULL"], "exists: name a folder"),
        (["--model", "BARE"], "has no indexer weights"),
        (["--model", "DENSE"], "no lightning indexer"),
        (["--model", "QUANTISED"], "is quantised"),
        (["--model", "LLAMA"], "only deepseek_v32 and glm_moe_dsa"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(tiny: Path, lines: Path, tmp_path: Path, flags: list[str], said: str) -> None:
    inputs, made = tmp_path / "inputs", tmp_path / "made"
    made.mkdir()
    inputs.mkdir()
    (inputs / "empty.jsonl").write_text("\n")
    (inputs / "full").mkdir()
    (inputs / "full" / "file").write_text("mine")
    bare = bad_model(tiny, inputs / "bare")
    tensors = {n: t for n, t in load_file(bare / "model.safetensors").items() if ".indexer." not in n}
    save_file(tensors, bare / "model.safetensors")
    paths = {
        "EMPTY": inputs / "empty.jsonl",
        "NONE": inputs / "none.jsonl",
        "FULL": inputs / "full",
        "BARE": bare,
        "DENSE": bad_model(tiny, inputs / "dense", index_topk=None),
        "QUANTISED": bad_model(tiny, inputs / "quantised", quantization_config={"quant_method": "fp8"}),
        "LLAMA": bad_model(tiny, inputs / "llama", model_type="deepseek_v3"),
    }
    given: dict[str, object] = {"--model": tiny, "--data": lines, "--out": made / "out", "--pattern": "FSSF"}
    given |= {"--length": 48}
    given |= {name: paths.get(value, value) for name, value in zip(flags[::2], flags[1::2], strict=True)}
    with pytest.raises(UserError, match=said) as caught:
        invoke(*(part for pair in given.items() for part in pair))
    assert "\n" not in str(caught.value)
    assert not list(made.iterdir())
    assert sorted(path.name for path in (inputs / "full").iterdir()) == ["file"]


def test_a_bad_line_further_on_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"ids": [1, 2, 3]}\n{"ids": [1, 99999]}\n')
    made = tmp_path / "made"
    made.mkdir()
    with pytest.raises(UserError, match="line 2"):
        invoke("--model", tiny, "--data", path, "--out", made / "out", *FLAGS)
    assert not list(made.iterdir())
