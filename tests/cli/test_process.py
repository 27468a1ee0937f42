"""The command line as a process: exit codes, stderr, no traceback, quick help."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import pytest

from sgl_indexcache import __version__, cli
from sgl_indexcache.cli import app as app_module
from sgl_indexcache.errors import UserError


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "sgl_indexcache.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sgl-indexcache {__version__}\n", "")


def test_a_user_error_is_one_line_and_code_2() -> None:
    done = run("pattern", "show", "SF")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: the pattern begins with S: layer 0 has no earlier layer to share with, so begin with F\n"
    )


def test_long_errors_stay_on_one_line(tmp_path: Path) -> None:
    done = run("pattern", "show", str(tmp_path / ("a/" * 60)))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_wrong_usage_is_code_2_without_a_traceback() -> None:
    done = run("pattern", "shwo")
    assert done.returncode == 2
    assert "Did you mean 'show'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("--help",), ("pattern", "--help"), ("pattern", "show", "--help")])
def test_help(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 0
    assert "Usage: sgl-indexcache" in done.stdout


def test_root_help_explains_and_gives_examples() -> None:
    text = run("--help").stdout
    for word in ("Full", "Shared", "lightning indexer", "sgl-indexcache pattern show glm5-1/4"):
        assert word in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sgl_indexcache.cli import main; sys.argv = ['x', 'pattern', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'sglang', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def main_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(app_module, "app", fail)
    cli.main()


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        main_with(monkeypatch, KeyboardInterrupt())
    assert caught.value.code == 130


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        main_with(monkeypatch, ZeroDivisionError())


def test_foreign_text_in_an_error_is_made_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main_with(monkeypatch, UserError("bad\nname \x1b[31m [red]x[/red] :smile:"))
    assert capsys.readouterr().err == "error: bad name  [31m [red]x[/red] :smile:\n"


def test_console_script_is_main() -> None:
    try:
        version("sgl-indexcache")
    except PackageNotFoundError:
        pytest.skip("the package is not installed, only on the path")
    (script,) = entry_points(group="console_scripts", name="sgl-indexcache")
    assert script.load() is cli.main
