"""The imports of a source tree, held against the order of its rooms. Reads syntax alone; imports nothing.

A room is what stands below `sgl_indexcache.`: a folder or a file. A room imports the rooms on lower floors of its own
chain; the tools import all that serves besides. Imports inside functions and for types count as any other.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "sgl_indexcache"
SOURCES = {
    "sgl_indexcache": PACKAGE,
    "kernels/src": f"{PACKAGE}.kernels",
    "kernels/benchmarks": f"{PACKAGE}.kernels.benchmarks",
    "loadtest/src": f"{PACKAGE}.loadtest",
}
"""Folder of the repository to the package that it is."""

Floors = tuple[tuple[str, ...], ...]

SERVING: Floors = (
    ("errors",),
    ("pattern", "settings", "stand_ins", "kernels"),
    ("selection",),
    ("telemetry",),
    ("store",),
    ("indexer",),
    ("attention",),
    ("sglang_port", "plugin"),
)
"""What runs in a server, from the ground up. Rooms of one floor may import each other as long as there is no circle."""

TOOLS: Floors = (
    ("results", "flags"),
    ("live",),
    ("overlap",),
    ("search", "quality", "distill", "bench", "nano", "top", "demo"),
    ("cli",),
)
"""What runs beside a server."""

ONLY: Mapping[str, tuple[str, ...]] = {
    "kernels.benchmarks": ("errors", "kernels", "results"),
    # Its A/B runs start the two servers themselves.
    "loadtest": ("errors", "flags", "results", "live", "pattern"),
    "results": ("errors",),
    "flags": ("errors",),
}
"""Rooms that import these alone."""

SGLANG: Mapping[str, str] = {
    "sgl_indexcache.sglang_port": "the seams, and what they build",
    "sgl_indexcache.attention.cpu": "a backend is a subclass of SGLang's",
    "sgl_indexcache.attention.cuda": "a backend is a subclass of SGLang's",
    "sgl_indexcache.bench": "times SGLang's own engine, tree and attention beside ours, in processes of their own",
    "sgl_indexcache.kernels.benchmarks": "times SGLang's own kernels beside ours",
}
"""Packages and files that import sglang or its kernels, and why."""
SGLANGS = {"sglang", "sgl_kernel"}


@dataclass(frozen=True, slots=True)
class Import:
    """One import: the file's module, its line, and what is imported: a module of ours, or a foreign one."""

    module: str
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.imported}"


def modules_of(root: Path) -> dict[str, Path]:
    """Every module of the tree, by name; links are not followed."""
    modules = {}
    for folder, package in SOURCES.items():
        for path in (root / folder).rglob("*.py"):
            parts = path.relative_to(root / folder).with_suffix("").parts
            linked = any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(root))
            if "__pycache__" not in parts and not linked:
                modules[".".join([package, *parts]).removesuffix(".__init__")] = path
    return modules


def imports_of(module: str, path: Path, known: set[str]) -> Iterator[Import]:
    """The imports of one file, wherever they stand in it; `known` are the modules of the tree."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*parents, source]).rstrip(".")
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield Import(module, node.lineno, inner if inner in known else source)


def room_of(module: str) -> str:
    """The room in which a module of ours stands; the package's own face stands on the ground floor."""
    for room in ONLY:
        if is_in(module, f"{PACKAGE}.{room}"):
            return room
    return module.split(".")[1] if "." in module else "errors"


def is_in(module: str, package: str) -> bool:
    """Whether a module is a package, or below it."""
    return module == package or module.startswith(package + ".")


def floor_of(room: str) -> tuple[int, int] | None:
    """Chain (0 serving, 1 tools) and floor of a room; None where it has none."""
    for chain, floors in enumerate((SERVING, TOOLS)):
        for floor, rooms in enumerate(floors):
            if room in rooms:
                return chain, floor
    return None


def may_import(room: str, other: str) -> bool:
    """Whether the order of rooms lets `room` import `other`."""
    if room == other or other in ONLY.get(room, ()):
        return True
    upper, lower = floor_of(room), floor_of(other)
    if room in ONLY or upper is None:
        return False
    if lower is None:  # a room with a list of its own: loadtest and the benchmarks of kernels serve the tools
        return upper[0] == 1 and other in ONLY
    return lower <= upper and (lower[0] == upper[0] or lower[0] == 0)


def violations(root: Path) -> list[str]:
    """A sentence for every upward import, every sglang where it does not belong, and every circle."""
    modules = modules_of(root)
    known = set(modules)
    sentences = [f"room {room} has no floor" for room in sorted(_homeless(known))]
    files: dict[str, set[str]] = {module: set() for module in known}
    rooms: dict[str, set[str]] = {}
    for module, path in sorted(modules.items()):
        for one in imports_of(module, path, known):
            if one.imported.partition(".")[0] in SGLANGS and not any(is_in(module, place) for place in SGLANG):
                sentences.append(f"{one}, which belongs behind sglang_port")
            if not is_in(one.imported, PACKAGE):
                continue
            if one.imported in known and one.imported != module:
                files[module].add(one.imported)
            room, other = room_of(module), room_of(one.imported)
            if room != other:
                rooms.setdefault(room, set()).add(other)
                if not may_import(room, other):
                    sentences.append(f"{one}: {room} does not stand above {other}")
    sentences += [f"rooms in a circle: {' -> '.join(circle)}" for circle in circles(rooms)]
    sentences += [f"files in a circle: {' -> '.join(circle)}" for circle in circles(files)]
    return list(dict.fromkeys(sentences))


def _homeless(modules: set[str]) -> set[str]:
    rooms = {room_of(module) for module in modules}
    return {room for room in rooms if floor_of(room) is None and room not in ONLY}


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """One shortest circle through each node that is in one, without repeating a circle's nodes."""
    result: list[list[str]] = []
    for start in sorted(arrows):
        if any(start in circle for circle in result):
            continue
        paths, reached = [[start]], {start}
        for path in paths:  # grows while it is walked: breadth first
            for following in sorted(arrows.get(path[-1], ())):
                if following == start:
                    result.append([*path, start])
                    paths.clear()
                    break
                if following not in reached:
                    reached.add(following)
                    paths.append([*path, following])
    return result
