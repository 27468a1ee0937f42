"""The strip in the terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.pattern.draw import legend, strip


def plain(pattern: Pattern, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(strip(pattern, width))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_78_layers_in_80_columns_without_colour() -> None:
    assert plain(Pattern.preset("glm5-1/4"), 80) == [
        "0          10         20         30",
        "FFSFSSSFSS FSFSSSSSSS FSSSSSSFSS SFSFSSSSFF",
        "40         50         60         70",
        "FFFSSSFFSS SFSSSSSSSS FSSSFSSSSS SFSFSSSS",
    ]


def test_one_row_where_it_fits() -> None:
    assert plain(Pattern("FSSSFSSSFSSSF"), 80) == ["0          10", "FSSSFSSSFS SSF"]


@given(st.text("FS", max_size=300).map(lambda rest: "F" + rest), st.integers(10, 200))
def test_every_layer_stands_under_its_number(text: str, width: int) -> None:
    lines = strip(Pattern(text), width).plain.split("\n")
    rulers, rows = lines[0::2], lines[1::2]
    assert "".join(rows).replace(" ", "") == text
    assert all(len(line) <= width for line in lines)
    for ruler, row in zip(rulers, rows, strict=True):
        for number in ruler.split():
            assert row[ruler.index(number) :].startswith(text[int(number) : int(number) + 10])


@pytest.mark.parametrize("layer", range(6))
def test_styles_tell_full_from_shared(layer: int) -> None:
    text = strip(Pattern("FSSFFS"))
    at = text.plain.index("\n") + 1 + layer
    style = next(str(span.style) for span in text.spans if span.start <= at < span.end)
    assert style == ("bold green" if "FSSFFS"[layer] == "F" else "dim")


def test_the_legend_fits() -> None:
    assert len(legend().plain) <= 80
