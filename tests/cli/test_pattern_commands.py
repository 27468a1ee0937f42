"""`sgl-indexcache pattern ...`, in this process."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sgl_indexcache.cli.app import app
from sgl_indexcache.pattern import Pattern, PatternError

DOCUMENT_KEYS = [
    "schema",
    "pattern",
    "layers",
    "full_layers",
    "shared_layers",
    "producers",
    "ratio",
    "source",
]


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = {
        "architectures": ["DeepseekV32ForCausalLM"],
        "index_topk": 64,
        "num_hidden_layers": 8,
        "index_topk_freq": 4,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["pattern", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def run_json(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


def test_json_shape_is_frozen() -> None:
    document = run_json("show", "FSSF")
    assert list(document) == DOCUMENT_KEYS
    assert document == {
        "schema": "sgl_indexcache.pattern/1",
        "pattern": "FSSF",
        "layers": 4,
        "full_layers": [0, 3],
        "shared_layers": [1, 2],
        "producers": [0, 0, 0, 3],
        "ratio": 0.5,
        "source": "letters",
    }


def test_show_draws(model: Path) -> None:
    output = run("show", "glm5-1/4")
    assert "78 layers: 22 Full, 56 Shared, 28.2% run the indexer (preset glm5-1/4)" in output
    assert "FFFSSSFFSS SFSSSSSSSS FSSSFSSSSS SFSFSSSS\n" in output
    assert str(Pattern.preset("glm5-1/4")) in output.splitlines()
    assert max(map(len, output.splitlines())) <= 80
    assert "\x1b" not in output
    assert "8 layers: 3 Full, 5 Shared" in run("show", str(model))


def test_show_sources(model: Path) -> None:
    assert run_json("show", str(model))["source"] == "model config"
    assert run_json("show", str(model / "config.json"))["pattern"] == "FFSSSFSS"
    assert run_json("show", "1/2", "--model", str(model))["pattern"] == "FFSFSFSF"
    assert run_json("show", "30b-1/8")["source"] == "preset 30b-1/8"


def test_letters_go_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "FS").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_json("show", "FS")["pattern"] == "FS"


def test_producers_table() -> None:
    rows = [line.split() for line in run("show", "FSSFFS", "--producers").splitlines()]
    assert rows[-3:] == [["0", "0-2", "3"], ["3", "3", "1"], ["4", "4-5", "2"]]


def test_check(model: Path) -> None:
    output = run("check", "FSSSFSSS", "--model", str(model))
    assert output.startswith("accepted: 8 layers: 2 Full, 6 Shared")
    assert """--json-model-override-args '{"index_topk_pattern": "FSSSFSSS"}'""" in output
    assert run_json("check", "1/8", "--model", str(model))["pattern"] == "FFSSSSSS"


def test_uniform(model: Path) -> None:
    assert run_json("uniform", "--layers", "9", "--freq", "4")["pattern"] == "FFSSSFSSS"
    document = run_json("uniform", "--model", str(model), "--freq", "4", "--offset", "3")
    assert (document["pattern"], document["source"]) == ("FFFSSSFS", "uniform freq=4 offset=3")


def test_presets() -> None:
    output = run("presets")
    for name in ("30b-1/2", "30b-1/4", "30b-1/8", "glm5-1/2", "glm5-1/4"):
        assert name in output
    document = run_json("presets")
    assert document["schema"] == "sgl_indexcache.presets/1"
    assert [len(entry["pattern"]) for entry in document["presets"]] == [47, 47, 47, 78, 78]
    assert all(set(DOCUMENT_KEYS) < set(entry) for entry in document["presets"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["show", "models/none"],
            "there is no preset named 'models/none': .* a model folder of this name does not",
        ),
        (
            ["show", "1/4"],
            r"uniform freq=4 \(the number of layers\) depends on the model: name a model folder too$",
        ),
        (["show", "FSX"], "has 'X' at position 2"),
        (["show", "x" * 300], "has 'x' at position 0"),
        (["check", "FSS", "--model", "MODEL"], "has 3 letters but the model has 8 layers"),
        (["check", "glm5-1/4", "--model", "MODEL"], "is for 78 layers .* but the model has 8"),
        (["check", "FS", "--model", "MODEL/none"], "does not exist: name a model folder"),
        (["uniform", "--freq", "4"], "give either --layers or --model"),
        (["uniform", "--freq", "4", "--layers", "8", "--model", "MODEL"], "give either --layers or --model"),
    ],
)
def test_refused(words: list[str], message: str, model: Path) -> None:
    with pytest.raises(PatternError, match=message):
        run(*[word.replace("MODEL", str(model)) for word in words])
