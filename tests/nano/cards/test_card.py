"""The model card: generated from the raw figures, the same each time, and the one in the repository."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sgl_indexcache.nano import CHECKPOINT
from sgl_indexcache.nano.cards import card, tables
from sgl_indexcache.nano.cards.card_plots import NAMES
from sgl_indexcache.nano.cards.card_text import card as card_text
from sgl_indexcache.nano.cards.card_text import readme, wrapped

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def figures() -> tables.Figures:
    return tables.read(RESULTS / "raw" / "nano", CHECKPOINT)


def test_the_cards_in_the_repository_are_those_of_the_figures(figures: tables.Figures) -> None:
    assert (RESULTS / "nano.md").read_text() == card_text(figures)
    assert (CHECKPOINT / "README.md").read_text() == readme(figures)


def test_the_same_figures_give_the_same_files(figures: tables.Figures, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    # A shorter log draws faster.
    short = replace(figures, log=figures.log[::20])
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written.append({p.name: p.read_bytes() for p in card.write(short, tmp_path / name, tmp_path / name)})
    assert written[0] == written[1]
    assert set(written[0]) == {"nano.md", "README.md", *NAMES}
    assert all(written[0][name].startswith(b"\x89PNG") for name in NAMES)


def test_goals_are_judged_by_the_figures(figures: tables.Figures) -> None:
    text = card_text(figures)
    assert text.count("(reached") == 2
    worse = json.loads(json.dumps(figures.evaluation))
    worse["sparse"]["needle"]["8192"]["accuracy"] = 0.85
    worse["sparse"]["loss"]["8192"]["loss"] *= 1.05
    assert card_text(replace(figures, evaluation=worse)).count("(NOT reached") == 2


def test_numbers_of_the_card(figures: tables.Figures) -> None:
    text = card_text(figures)
    for sentence in ("step 10,737 of 10,791", "The last 54 steps (0.5%) were not run", "526 s and 440 s", "140 of 140"):
        assert sentence in " ".join(text.split())
    assert all(source["licence"] in text for source in figures.manifest["sources"])


def test_a_finished_run_is_called_finished(figures: tables.Figures) -> None:
    done = figures.plan | {"step": sum(figures.plan["steps"])}
    assert "It took all 10,791 steps." in " ".join(card_text(replace(figures, plan=done)).split())


def test_a_lower_bound_is_below_the_share() -> None:
    assert tables.lower_bound(140, 140) == pytest.approx(0.973, abs=1e-3)
    assert 0.80 < tables.lower_bound(90, 100) < 0.9


def test_raw_files_name_no_absolute_path() -> None:
    for path in (RESULTS / "raw" / "nano").iterdir():
        assert '"/' not in path.read_text()


def test_wrapping_leaves_tables_and_code_alone() -> None:
    words = "word " * 60
    table = f"| {words} |"
    item, fill = f"- {words}", wrapped(words)
    assert max(map(len, fill.splitlines())) <= 118
    assert wrapped(table) == f"{table}\n"
    assert wrapped(item).splitlines()[1].startswith("  word")


def test_commands_are_todays() -> None:
    recorded = "python3 -m sgl_indexcache.nano.distilled --data data"
    assert tables.today(recorded) == "python3 -m sgl_indexcache.nano distill --data data"
    assert tables.today("python -m sgl_indexcache.nano distill") == "python -m sgl_indexcache.nano distill"
