"""A pattern as a strip of letters with a ruler of layer numbers, for the terminal."""

from rich.text import Text

from sgl_indexcache.pattern.pattern import Pattern
from sgl_indexcache.pattern.rule import FULL

_GROUP = 10
_FULL_STYLE = "bold green"
_SHARED_STYLE = "dim"
_RULER_STYLE = "cyan"


def strip(pattern: Pattern, width: int = 80) -> Text:
    """Draw the pattern in groups of ten layers under a ruler.

    The letters themselves tell Full from Shared, so the strip reads the same without colour.

    pattern  what to draw
    width    columns at hand; rows are of about equal length and never wider, down to one group a row

    Returns text of two lines a row (ruler, letters), without a newline at the end.
    """
    groups = -(-len(pattern) // _GROUP)
    # A group costs its letters and the space after it; the last one of a row needs no space.
    most = max(1, (width + 1) // (_GROUP + 1))
    rows = -(-groups // most)
    per_row = -(-groups // rows) * _GROUP
    return Text("\n").join(
        _row(pattern, start, min(start + per_row, len(pattern))) for start in range(0, len(pattern), per_row)
    )


def legend() -> Text:
    """One line that explains the two letters."""
    return Text.assemble(
        (FULL, _FULL_STYLE),
        " Full: runs the indexer    ",
        ("S", _SHARED_STYLE),
        " Shared: reuses the last Full layer's selection",
    )


def _row(pattern: Pattern, start: int, stop: int) -> Text:
    ruler = Text(style=_RULER_STYLE)
    letters = Text()
    for first in range(start, stop, _GROUP):
        group = pattern.letters[first : min(first + _GROUP, stop)]
        if first > start:
            ruler.append(" ")
            letters.append(" ")
        last = first + _GROUP >= stop
        ruler.append(str(first) if last else str(first).ljust(_GROUP))
        for letter in group:
            letters.append(letter, style=_FULL_STYLE if letter == FULL else _SHARED_STYLE)
    return Text("\n").join((ruler, letters))
