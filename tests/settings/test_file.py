"""The settings file: what is read, and the words of every refusal."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgl_indexcache.settings import Settings, SettingsError, UniformPattern, load


def load_text(folder: Path, text: str | bytes) -> Settings:
    path = folder / "settings.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path, {})


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(SettingsError) as caught:
        load_text(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder / "settings.yaml"), "FILE")


@pytest.mark.parametrize(
    "text",
    ["", "\n", "# nothing\n", "---\n", "null\n", "{}", "kernels:\n", "kernels: {}\nscoring:\n", "\ufeff"],
)
def test_empty_means_defaults(tmp_path: Path, text: str) -> None:
    assert load_text(tmp_path, text) == Settings()


def test_no_file_means_defaults() -> None:
    assert load(None, {}) == Settings()


def test_all_fields(tmp_path: Path) -> None:
    text = """
        enabled: no   # YAML 1.1 words for false are fine
        pattern: {freq: 4, offset: 3}
        scoring: {mode: exact}
        kernels:
          scratch_mib: 1_024
    """
    found = load_text(tmp_path, text)
    assert not found.enabled
    assert found.pattern == UniformPattern(freq=4, offset=3)
    assert found.kernels.scratch_mib == 1024


@pytest.mark.parametrize("spec", ["1/4", "FSSF", "glm5-1/4"])
def test_pattern_text(tmp_path: Path, spec: str) -> None:
    assert load_text(tmp_path, f"pattern: {spec}\n").pattern == spec


def test_an_explicit_file_goes_over_the_variable(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("enabled: false\n")
    (tmp_path / "b.yaml").write_text("enabled: true\n")
    environ = {"SGL_INDEXCACHE_CONFIG": str(tmp_path / "a.yaml")}
    assert not load(None, environ).enabled
    assert load(tmp_path / "b.yaml", environ).enabled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("enabled: true\nkernels:\n\tscratch_mib: 1\n", "FILE line 3: replace the tab by spaces"),
        ("enabled: true\n\t# comment\n", "FILE line 2: replace the tab by spaces"),
        ("enabled:\ttrue\t# comment\n", "FILE line 1: replace the tab by spaces"),
        (
            "kernels:\n  scratch_mib: 1\n  scratch_mib: 2\n",
            "FILE line 3: the key kernels.scratch_mib stands on line 2 already, keep one",
        ),
        (
            "enabled: true\n\nenabled: true\n",
            "FILE line 3: the key enabled stands on line 1 already, keep one",
        ),
        ("- enabled\n", "FILE line 1: the settings must be `key: value` lines at the top level"),
        ("enabled\n", "FILE line 1: the settings must be `key: value` lines at the top level"),
        ("a: &x [1]\nb: *x\n", "FILE line 2: not valid YAML: aliases (*name) are not supported"),
        (
            "enabled: !!python/name:os.system ''\n",
            "FILE line 1: the tag tag:yaml.org,2002:python/name:os.system",
        ),
        ("? [a]\n: 1\n", "FILE line 1: a key must be a plain name"),
        ("enabled: true\n---\nenabled: false\n", "FILE line 2: not valid YAML: but found another document"),
        ("enabled: !!int x\n", "FILE line 1: 'x' is not a valid int"),
        ("enabled: !!bool x\n", "FILE line 1: 'x' is not a valid bool"),
        (b"enabled: true\nx: \x00", "FILE line 2: remove the control character, YAML does not allow it"),
        (b"enabled: true\n# \xe9\n", "FILE line 2: not UTF-8 text, save the file as UTF-8"),
        (b"#" * (1 << 20) + b"#", "FILE: larger than 1 MiB, this is not a settings file"),
        ("kernels: " + "[" * 5000, "FILE: nested too deeply, the settings have two levels"),
        ("enable: true\n", "FILE line 1: the key enable is unknown, did you mean enabled?"),
        (
            "kernels:\n  scratch: 1\n",
            "FILE line 2: the key kernels.scratch is unknown, did you mean kernels.scratch_mib?",
        ),
        (
            "scratch_mib: 1\n",
            "FILE line 1: the key scratch_mib is unknown, did you mean kernels.scratch_mib?",
        ),
        (
            "pattern:\n  freq: 4\n  ofset: 1\n",
            "FILE line 3: the key pattern.ofset is unknown, did you mean pattern.offset?",
        ),
        (
            "zzz: 1\n",
            "FILE line 1: the key zzz is unknown, "
            "the keys of the top level are enabled, pattern, scoring, store, kernels",
        ),
        ("on: 1\n", "FILE line 1: the key on is unknown"),
        ('"a\\nb": 1\n', "FILE line 1: the key 'a\\nb' is unknown"),
        ("kernels: 5\n", "FILE line 1: kernels is a section: write its keys indented below it"),
        ("kernels: []\n", "FILE line 1: kernels is a section: write its keys indented below it"),
        (
            "kernels:\n  decode: flashinfre\n",
            "FILE line 2: kernels.decode should be 'auto', 'sglang', 'flashinfer', 'flashmla' or 'fa3', "
            "but it is 'flashinfre'",
        ),
        (
            "kernels:\n  scratch_mib: 0\n",
            "FILE line 2: kernels.scratch_mib should be greater than or equal to 1, but it is 0",
        ),
        (
            "kernels:\n  scratch_mib: 1000001\n",
            "FILE line 2: kernels.scratch_mib should be less than or equal to 1000000, but it is 1000001",
        ),
        (
            "kernels: {scratch_mib: true}",
            "FILE line 1: kernels.scratch_mib should be a valid integer, but it is True",
        ),
        (
            "kernels: {scratch_mib: 1.5}",
            "FILE line 1: kernels.scratch_mib should be a valid integer, but it is 1.5",
        ),
        ("enabled: 1\n", "FILE line 1: enabled should be a valid boolean, but it is 1"),
        ("scoring: {mode: fast}", "FILE line 1: scoring.mode should be 'exact' or 'two_level', but it is 'fast'"),
        ("pattern: FSX\n", "FILE line 1: pattern: the pattern has 'X' at position 2"),
        ("pattern: ''\n", "FILE line 1: pattern: the pattern is empty"),
        ("pattern: glm5-1/5\n", "FILE line 1: pattern: there is no preset named 'glm5-1/5': did you mean"),
        ("pattern: 4\n", "FILE line 1: pattern: must be letters F and S, a preset's name, 1/N, or a mapping"),
        ("pattern: 2001-99-99\n", "FILE line 1: pattern: there is no preset named '2001-99-99'"),
        ("pattern: {freq: 0}\n", "FILE line 1: pattern.freq should be greater than 0, but it is 0"),
        ("pattern: {offset: 3}\n", "FILE line 1: the key pattern.freq is missing, add it"),
    ],
)
def test_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


@pytest.mark.parametrize("text", ["a: b: c\n", "x: [1\n", "x: 'open\n", "@\n", "x: y\n z: 1\n"])
def test_syntax_errors_name_a_line(tmp_path: Path, text: str) -> None:
    assert re.match(r"FILE line [1-3]: not valid YAML: \w", refusal(tmp_path, text))


def test_all_wrong_keys_are_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "enable: 1\nkernels:\n  scratch_mib: 0\n")
    assert "line 1: the key enable is unknown" in message
    assert "line 3: kernels.scratch_mib should be" in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(SettingsError) as caught:
        load(missing, {})
    assert str(caught.value) == f"{missing}: no such settings file, create it or correct the path"
    with pytest.raises(SettingsError) as caught:
        load(None, {"SGL_INDEXCACHE_CONFIG": str(tmp_path)})
    assert str(caught.value) == f"{tmp_path}: this is a folder, name the settings file in it"
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / ("x" * 300), {})


yaml_like = st.text(st.sampled_from("abF1/:-?!&*#|>%@`\"'[]{},= \n\t\u00e9\x00"), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(yaml_like | st.binary(max_size=30))
def test_any_text_is_read_or_refused(tmp_path: Path, text: str | bytes) -> None:
    message = ""
    try:
        load_text(tmp_path, text)
    except SettingsError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
