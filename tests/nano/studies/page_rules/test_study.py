"""The study chooses what the model and the serving path choose, and its rules are what their names say."""

import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgl_indexcache.distill.functional import Rotary
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.model import Layer, NanoModel, Projections
from sgl_indexcache.nano.studies.page_rules import rules, signals, study
from sgl_indexcache.nano.studies.page_rules.rules import FORCED, RULES, Rule
from sgl_indexcache.nano.studies.page_rules.signals import Candidates
from sgl_indexcache.nano.studies.page_rules.study import Study
from sgl_indexcache.nano.studies.shortlist_quality import TwoLevelModel, shortlist_of
from sgl_indexcache.nano.studies.two_level import Sequence

LENGTH = 640
PAGES = 6
"""The fewest that a shortlist may have: four rows of pages choose."""
LAYERS = 3


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    source = Path(study.__file__).read_bytes()
    return torch.tensor(list(source[:LENGTH])).long()[None]


class Biases:
    """The first layers' biases of a forward that is stopped there, as bool [T, T]."""

    def __init__(self, model: NanoModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layers: list[torch.Tensor] = []
        plain = model._bias

        def keep(layer: Layer, parts: Projections, rotary: Rotary) -> torch.Tensor:
            bias = plain(layer, parts, rotary)
            self.layers.append(bias[0, 0] == 0)
            return bias

        monkeypatch.setattr(model, "_bias", keep)
        every = model.model.layers
        monkeypatch.setattr(model, "pattern", type(model.pattern)("F" * LAYERS))
        model.model.layers = every[:LAYERS]
        with torch.no_grad():
            model.hidden(tokens, True)
        model.model.layers = every
        monkeypatch.undo()


@pytest.fixture(scope="module")
def model() -> Study:
    return Study()


def chosen(model: Study, rule: Rule, pages: int, tokens: torch.Tensor, mp: pytest.MonkeyPatch) -> list[torch.Tensor]:
    model.use(rule, pages)
    model.measure = True
    return Biases(model, tokens, mp).layers


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one & other).sum() / other.sum())


def test_exact_scoring_and_a_list_of_everything_are_the_models_own(
    model: Study, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = NanoModel(model.shape)
    own.load_state_dict(model.state_dict())
    expected = Biases(own, tokens, monkeypatch).layers
    for rule in ("exact", "mean", "units16", "hint-eighth-outlier-eighth-first4"):
        for layer, bias in enumerate(chosen(model, RULES[rule], LENGTH // PAGE, tokens, monkeypatch)):
            assert agreement(bias, expected[layer]) > 0.999
            assert bias.sum() == expected[layer].sum()
        assert not any(recall.numel() for rows in model.recalls for recall in rows)


def test_mean_is_the_serving_path(model: Study, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = TwoLevelModel()
    shortlist = replace(shortlist_of(0.5, LENGTH), size=PAGES * PAGE)
    serving.two_level = Sequence(shortlist, LENGTH, 0.0, 64)
    expected = Biases(serving, tokens, monkeypatch).layers
    mean = chosen(model, RULES["mean"], PAGES, tokens, monkeypatch)
    exact = chosen(model, RULES["exact"], 0, tokens, monkeypatch)
    late = slice((PAGES + 1) * PAGE, None)
    for layer in range(LAYERS):
        assert agreement(mean[layer], expected[layer]) > 0.999
        assert agreement(mean[layer][late], exact[layer][late]) < 0.99


def test_digests_force_pages_in(model: Study, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    mean = chosen(model, RULES["mean"], PAGES, tokens, monkeypatch)[0]
    digests = chosen(model, RULES["digests"], PAGES, tokens, monkeypatch)[0]
    early = slice(0, (PAGES + 1) * PAGE)
    assert torch.equal(mean[early], digests[early])
    assert not torch.equal(mean, digests)


def test_recall_is_of_the_exact_selection_and_no_rule_beats_the_best(
    model: Study, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = chosen(model, RULES["exact"], 0, tokens, monkeypatch)[0]
    recalls = {}
    late = slice((PAGES + 1) * PAGE, None)
    for rule in ("best", "mean", "true-max"):
        bias = chosen(model, RULES[rule], PAGES, tokens, monkeypatch)[0]
        recalls[rule] = torch.cat(model.recalls[0])
        assert recalls[rule].numel() == LENGTH - late.start
        both = (bias & exact)[late].sum(1) / 256
        torch.testing.assert_close(recalls[rule], both)
        assert int(bias.sum(1).max()) == 256
    assert bool((recalls["best"] >= recalls["mean"] - 1e-6).all())
    assert bool((recalls["best"] >= recalls["true-max"] - 1e-6).all())


def candidates(rows: int = 8, units: int = 5, hint: bool = True) -> Candidates:
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(rows, 4, 128, generator=generator)
    gates = torch.randn(rows, 4, generator=generator)
    keys = torch.randn(units, PAGE, 128, generator=generator) + 2 * torch.randn(units, 1, 128, generator=generator)
    allowed = (torch.arange(units) < units - 1).expand(rows, -1)
    counts = torch.randint(0, 64, (rows, units), generator=generator).float()
    scores = score(q, keys.flatten(0, 1), gates).view(rows, units, PAGE)
    return Candidates(q, gates, keys, allowed, counts if hint else None, 2, scores, counts)


@pytest.mark.parametrize("name", [name for name in RULES if name != "exact"])
def test_every_rule_is_worth_something(name: str) -> None:
    rule, inputs = RULES[name], candidates(rows=max(8, RULES[name].rows))
    worth = rule.worth(inputs)
    assert worth.shape == inputs.allowed.shape
    assert bool((worth.isfinite() == inputs.allowed).all())
    groups = worth.view(-1, rule.rows, worth.shape[1])
    assert bool((groups == groups[:, :1]).all())
    assert rule.record <= 4 * rules.KEY_BYTES
    if rule.rows > 1 and rule.together == "first":
        torch.testing.assert_close(worth[:: rule.rows], replace(rule, rows=1).worth(inputs)[:: rule.rows])


def test_bounds_hold_and_an_outlier_counts() -> None:
    inputs = candidates()
    assert bool((signals.bounds(inputs) >= 0.9 * inputs.scores.amax(2))[:, :-1].all())
    keys = inputs.keys.clone()
    keys[2, 17] = 30 * inputs.q[0].mean(0)
    inputs = inputs._replace(keys=keys, gates=inputs.gates.abs())
    assert int(RULES["outlier"].worth(inputs)[0].argmax()) == 2
    assert int(RULES["clusters"].worth(inputs)[0].argmax()) == 2


def test_hints_and_quotas() -> None:
    inputs = candidates()._replace(list_units=8)
    assert inputs.hint is not None
    forced = RULES["hint-eighth"].worth(inputs) == FORCED
    assert bool((forced.sum(1) == 1).all())
    assert bool((forced.int().argmax(1) == inputs.hint[:, :-1].argmax(1)).all())
    for name in ("hint-eighth", "hint-half"):
        assert bool((RULES[name].worth(candidates(hint=False)) == RULES["mean"].worth(inputs)).all())
    without = RULES["hint-1"].worth(candidates(hint=False))
    assert bool((without.argsort(1) == RULES["mean"].worth(inputs).argsort(1)).all())
    assert int(replace(RULES["hint-1"], hint=1e3).worth(inputs)[0].argmax()) == int(inputs.hint[0, :-1].argmax())
    alone = signals.outlier(inputs)[:, :-1]
    forced = RULES["outlier-quarter"].worth(inputs)[:, :-1] == FORCED
    assert bool((alone.masked_fill(~forced, 1e9).amin(1) >= alone.masked_fill(forced, -1e9).amax(1)).all())


def test_pages_by_share() -> None:
    assert RULES["mean"].pages(0.25, 8192, 16) * PAGE == shortlist_of(0.25, 8192).size
    even = RULES["hint-eighth-even"]
    assert even.cost(even.pages(0.25, 8192, 16), 8192, 16) == pytest.approx(0.25, abs=0.01)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(study.__file__).read_bytes() * 2
    (tmp_path / "heldout.bin.xz").write_bytes(lzma.compress(text))
    out = tmp_path / "out.json"
    command = ["page-rules", "--data", str(tmp_path), "--out", str(out), "--length", "512", "--pages", "6"]
    command += ["--sequences", "1", "--needles", "1", "--rules"]
    assert main([*command, "hint-0.5"]) == 0
    figures = json.loads(out.read_text())["rules"]
    assert set(figures) == {"exact", "hint-0.5"}
    hint = figures["hint-0.5"]
    assert hint["pages"] == 6
    assert 0.5 < hint["recall"] < 1
    assert hint["recall_by_layer"][0] is None
    assert len(hint["recall_by_layer"]) == 16
    assert [hint["needles"][kind]["asked"] for kind in ("0", "7")] == [1, 1]
    assert main([*command, "mean", "meaner"]) == 2
    assert "no rule is called 'meaner'" in capsys.readouterr().err
