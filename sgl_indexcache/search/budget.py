"""How many Full layers to keep: `1/4` of them or a plain number."""

import re

from sgl_indexcache.search.errors import SearchError


def full_layers(keep: str, layers: int) -> int:
    """The number of Full layers that `keep` means for a model of `layers` layers.

    `1/N` is rounded up, as in the paper (12 of 47 at 1/4).

    Raises:
        SearchError: neither form, or outside 1..layers.
    """
    if match := re.fullmatch(r"1/([1-9][0-9]{0,3})", keep.strip()):
        return -(-layers // int(match[1]))
    if not re.fullmatch(r"[0-9]{1,4}", keep.strip()):
        raise SearchError(f"keep {keep!r} is not understood: write 1/4, or a number of Full layers")
    full = int(keep)
    if not 1 <= full <= layers:
        raise SearchError(f"keep {full} is outside 1..{layers}, the model's number of layers")
    return full
