"""Draw the pictures of the docs: `python docs/pictures/draw.py` writes the SVG files beside this one.

The same script gives the same files; tests/docs/test_pictures.py compares them with those in the repository.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from house import rooms, seams
from layers import reuse, strip
from scoring import index_store, two_level
from svg import Picture

PICTURES: dict[str, Callable[[], Picture]] = {
    "strip": strip,
    "reuse": reuse,
    "two-level": two_level,
    "index-store": index_store,
    "seams": seams,
    "rooms": rooms,
}


def main(folder: Path) -> None:
    """Write every picture to a folder."""
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(str(draw()))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
