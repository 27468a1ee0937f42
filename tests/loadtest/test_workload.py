"""Workloads: presets, overrides, distributions, and that a seed decides everything."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_indexcache.loadtest.errors import OptionError, WorkloadError
from sgl_indexcache.loadtest.workload.distribution import Distribution
from sgl_indexcache.loadtest.workload.generator import Generator
from sgl_indexcache.loadtest.workload.material import IdMaterial, TextMaterial, Tokens, id_range
from sgl_indexcache.loadtest.workload.plan import Piece, Session, classify, length
from sgl_indexcache.loadtest.workload.spec import Workload, load_workload, presets

MATERIAL = IdMaterial(32, 256)


def flat(session: Session) -> list[tuple[object, ...]]:
    def pieces(some: tuple[Piece, ...]) -> list[object]:
        return [(p.role, p.tokens, p.text, None if p.ids is None else p.ids.tolist()) for p in some]

    return [
        (turn.output_tokens, turn.n, turn.repeats, turn.think_s, pieces(turn.new), [flat(c) for c in turn.children])
        for turn in session.turns
    ] + [tuple(pieces(session.prefix))]


def test_presets_are_the_named_ones() -> None:
    assert set(presets()) == {"coding-agent", "deep-research", "chat", "rag-fanout", "demo"}
    assert all(workload.about for workload in presets().values())


@pytest.mark.parametrize("name", ["coding-agent", "deep-research", "chat", "rag-fanout", "demo"])
def test_a_session_depends_on_seed_salt_and_number_alone(name: str) -> None:
    workload = load_workload(name, ["scale=0.05"])
    forward = Generator(workload, MATERIAL, 3, "run", "s")
    one, two = flat(forward.session(4)), flat(forward.session(5))
    other = Generator(workload, MATERIAL, 3, "run", "s")
    assert flat(other.session(5)) == two, "whatever was made before"
    assert flat(other.session(4)) == one
    assert one != two
    assert flat(Generator(workload, MATERIAL, 4, "run", "s").session(4)) != one


def test_coding_agent_has_the_shape_of_agentic_traffic() -> None:
    generator = Generator(load_workload("coding-agent"), MATERIAL, 0)
    contexts, new, hits = [], [], []
    for session in (generator.session(index) for index in range(150)):
        history = length(session.prefix)
        for number, turn in enumerate(session.turns):
            added = length(turn.new)
            contexts.append(history + added)
            if number:
                new.append(added)
                hits.append(1 - added / contexts[-1])
            history += added + (turn.reply.tokens if turn.reply else 0)
    assert 35_000 < np.percentile(contexts, 50) < 75_000
    assert 130_000 < np.percentile(contexts, 90) < 400_000
    assert 1_000 < np.mean(new) < 1_700
    assert 0.85 < np.mean(hits) < 0.99


def test_salts_decide_who_shares(tmp_path: Path) -> None:
    workload = load_workload("demo")

    def prefixes(mode: str, salt: str) -> list[list[int]]:
        generator = Generator(workload, MATERIAL, 0, mode, salt)
        return [
            [token for piece in generator.session(index).prefix for token in piece.ids.tolist()] for index in (0, 1)
        ]

    none, run, session = (prefixes(mode, "a") for mode in ("none", "run", "session"))
    assert none[0] == none[1] == prefixes("none", "b")[0]
    assert run[0] == run[1] != prefixes("run", "b")[0]
    assert session[0][:16] != session[1][:16], "the difference is at the front, so nothing is shared"


def test_the_planned_class_counts_what_the_run_has_sent() -> None:
    generator = Generator(load_workload("demo"), MATERIAL, 0, "run", "s")
    assert [session.sent_before for session, _ in zip(generator.sessions(7), range(3), strict=False)] == [0, 616, 616]
    assert Generator(load_workload("demo"), MATERIAL, 0, "session", "s").session(1).sent_before == 0
    assert [classify(100, before) for before in (0, 1, 49, 50, 99, 100, 120)] == [
        "cold", "cold", "cold", "warm", "warm", "repeat", "repeat",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["turns=-1"], "turns.constant: .*greater than or equal to 0"),
        (["turn=3"], "turn: Extra inputs"),
        (["turns"], "has no value"),
        (["repeat_chance=2"], "repeat_chance: .*less than or equal to 1"),
        (["new_tokens={lognormal: {median: 5, p90: 2, max: 9}}"], "median <= p90 <= max"),
        (["new_tokens={uniform: [5, 2]}"], "low <= high"),
        (["new_tokens={uniform: [1, 2], constant: 3}"], "or one of constant"),
        (["new_tokens={choice: {1: 0}}"], "weight above 0"),
        (["think_s=.inf"], "finite"),
        (["subagents.chance.x=1"], "chance holds no keys"),
        (["turns=[1"], "the value is not YAML"),
    ],
)
def test_refused_keys_are_named(overrides: list[str], reason: str) -> None:
    with pytest.raises(WorkloadError, match=reason):
        load_workload("demo", overrides)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("turns: 2\nnew_tokens: {uniform: [1, 5]}\n")
    assert load_workload(str(path), ["turns=3"]).turns == Distribution(constant=3)
    for text, reason in (("- 1", "keys and values"), ("a: [", "not YAML"), ("!!python/object:x {}", "not YAML")):
        path.write_text(text)
        with pytest.raises(WorkloadError, match=reason):
            load_workload(str(path))
    with pytest.raises(WorkloadError, match="the presets are coding-agent"):
        load_workload("coding")


def test_impossible_sessions_are_refused() -> None:
    with pytest.raises(WorkloadError, match="lower scale"):
        Generator(Workload(context_tokens=20_000_000), MATERIAL).session(0)
    with pytest.raises(WorkloadError, match="at most 10000"):
        Generator(Workload(turns=20_000), MATERIAL).session(0)


def test_the_digest_is_of_what_is_sent() -> None:
    one = load_workload("demo")
    assert one.digest() == load_workload("demo", ["about=other"]).digest()
    assert one.digest() != load_workload("demo", ["turns=5"]).digest()


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.floats(1, 1e5), st.floats(1.2, 50))
def test_lognormal_keeps_median_tail_and_bound(seed: int, median: float, spread: float) -> None:
    shape = {"median": median, "p90": median * spread, "max": median * spread * 3}
    distribution = Distribution.model_validate({"lognormal": shape})
    rng = np.random.default_rng(seed)
    draws = np.array([distribution.draw(rng) for _ in range(400)])
    assert draws.max() <= shape["max"]
    assert 0.35 < np.mean(draws <= median * 1.0000001) < 0.65
    assert np.mean(draws <= shape["p90"] * 1.0000001) > 0.82


def test_text_has_the_length_that_the_tokenizer_counts(tmp_path: Path) -> None:
    from sgl_indexcache.nano.tokenizer import write_tokenizer

    write_tokenizer(tmp_path, 4096)
    tokens = Tokens(tmp_path)
    material = TextMaterial(tokens)
    for size in (0, 1, 17, 1000):
        piece = material.make("user", size, np.random.default_rng(0))
        assert len(tokens.encode(piece.text or "")) == piece.tokens == size
    assert TextMaterial().exact is False
    assert len(TextMaterial().make("user", 10, np.random.default_rng(0)).text or "") == 40
    assert id_range(None, tokens) == (0, 256)
    with pytest.raises(OptionError, match="holds no tokenizer"):
        Tokens(tmp_path / "none")
    for text in ("5", "a:b", "9:3"):
        with pytest.raises(OptionError):
            IdMaterial(*id_range(text, None))
