"""One command line for all tools of the small models."""

from importlib import import_module

import pytest

from sgl_indexcache.nano.command_line import PACKAGE, TOOLS, main, repeated


def test_the_list_names_every_tool_and_every_tool_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in TOOLS)
    for name, tool in TOOLS.items():
        assert main([name, "--help"]) == 0
        assert f"{PACKAGE} {name}" in " ".join(capsys.readouterr().out.split())
        summary = import_module(f"{PACKAGE}.{tool.module}").command.__doc__
        assert summary
        assert tool.summary.endswith(".")


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpsu"]) == 2
    assert "No such command 'corpsu'" in capsys.readouterr().err
    assert main(["corpus"]) == 2


def test_a_part_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sgl_indexcache.nano.command_line.find_spec", lambda name: None)
    assert main(["page-rules", "--rules", "mean"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: `page-rules` is not in the wheel")
    assert main(["random-model", "--help"]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--a 1 2 3 --b x y", "--a 1 --a 2 --a 3 --b x y"),
        ("in --a 1 --a 2 3", "in --a 1 --a 2 --a 3"),
        ("--a 1 2 -- --a 1 2", "--a 1 --a 2 -- --a 1 2"),
        ("--a --b", "--a --b"),
        ("--a=1 2", "--a=1 2"),
    ],
)
def test_lists_take_several_values(words: str, expected: str) -> None:
    assert repeated(words.split(), ["--a"]) == expected.split()
