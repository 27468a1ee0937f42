"""Which groups a request belongs to: its class, and the buckets of new tokens and of context length."""

from bisect import bisect_left

from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.units import show_count

NEW_EDGES = (256, 1024, 4096, 16384)
CONTEXT_EDGES = (1024, 4096, 16384, 65536, 262144)


def bucket(tokens: int, edges: tuple[int, ...]) -> str:
    """The bucket's name: `0-256`, `256-1K`, ..., `16K+`; bounds belong to the lower bucket."""
    place = bisect_left(edges, tokens)
    if place == 0:
        return f"0-{show_count(edges[0])}"
    if place == len(edges):
        return f"{show_count(edges[-1])}+"
    return f"{show_count(edges[place - 1])}-{show_count(edges[place])}"


def groups_of(record: Record) -> list[str]:
    """Names of the record's groups: `all`, its class, and for warm ones `warm new ...`, `warm context ...`."""
    names = ["all", record.planned]
    names += [f"{record.planned} context {bucket(record.context, CONTEXT_EDGES)}"]
    if record.planned == "warm":
        names.append(f"warm new {bucket(record.new, NEW_EDGES)}")
    return names


def order(name: str) -> tuple[int, int, str, int]:
    """Sort key of group names: all, cold, warm, repeat; buckets by size."""
    head, _, rest = name.partition(" ")
    classes = ("all", "cold", "warm", "repeat")
    kind, _, size = rest.partition(" ")
    edges = NEW_EDGES if kind == "new" else CONTEXT_EDGES
    names = [bucket(edge, edges) for edge in (*edges, edges[-1] + 1)]
    place = names.index(size) if size in names else -1
    return (0 if not rest else 1, classes.index(head) if head in classes else len(classes), kind, place)
