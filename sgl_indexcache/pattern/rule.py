"""SGLang's frequency rule: which layers are Shared when a model states numbers instead of letters."""

from sgl_indexcache.pattern.errors import PatternError

FULL = "F"
SHARED = "S"

# What SGLang's rule amounts to when a model gives a frequency and no offset: layers 0 and 1 are Full.
_OFFSET_WHEN_UNSTATED = 2


def uniform_letters(layers: int, freq: int, offset: int | None = None) -> str:
    """Spell out SGLang's frequency rule as letters.

    Layers below `offset` are Full, and from layer `offset - 1` on one layer in `freq` is Full. Layer `i` is
    Shared iff `max(i - offset + 1, 0) % freq != 0`; `offset=None` means 2 (the rule of the IndexCache
    authors' patch and of SGLang when `index_skip_topk_offset` is absent).

    layers  number of layers, at least 1
    freq    distance between Full layers, at least 1; 1 makes every layer Full
    offset  number of leading Full layers, at least 1 (0 would leave layer 0 without a selection)

    Returns `layers` letters out of F and S, the first of them F.

    Raises:
        PatternError: a number is not a positive integer.
    """
    _positive("the number of layers", layers)
    _positive("freq", freq)
    first = _OFFSET_WHEN_UNSTATED if offset is None else offset
    _positive("offset", first)
    return "".join(SHARED if max(layer - first + 1, 0) % freq else FULL for layer in range(layers))


def _positive(name: str, value: object) -> None:
    # bool is an int to Python, but `freq: true` is a slip of the pen.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PatternError(f"{name} must be an integer of at least 1, but it is {value!r}")
