"""What the pictures are drawn with: boxes, words and arrows, as SVG text that is the same each time."""

from xml.sax.saxutils import escape

INK = "#1f2933"
QUIET = "#52606d"
LINE = "#9aa5b1"
FULL = "#0f766e"
FULL_PALE = "#ccebe7"
SHARED = "#e4e7eb"
KEPT = "#b45309"
KEPT_PALE = "#fde8cf"
PAPER = "#ffffff"


class Picture:
    """A canvas of `width` x `height` pixels; every method adds one shape. x runs right, y down."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            f' role="img" font-family="system-ui, Helvetica, Arial, sans-serif"><title>{escape(title)}</title>'
        )
        self.shapes: list[str] = []
        self.box(0, 0, width, height, fill=PAPER, stroke="none", radius=8)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = PAPER,
        stroke: str = LINE,
        radius: float = 4,
        dashed: bool = False,
    ) -> None:
        """A rectangle with round corners."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}"'
            f' stroke="{stroke}"{dash}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 13,
        colour: str = INK,
        anchor: str = "start",
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """Words whose baseline is y; anchor is start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        family = ' font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"' if mono else ""
        self.shapes.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}{family}>'
            f"{escape(words)}</text>"
        )

    def label(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *lines: str,
        fill: str = PAPER,
        stroke: str = LINE,
        colour: str = INK,
        size: int = 13,
        bold: bool = False,
        dashed: bool = False,
    ) -> None:
        """A box with lines of words in its middle."""
        self.box(x, y, width, height, fill=fill, stroke=stroke, dashed=dashed)
        step = size + 4
        first = y + height / 2 - step * (len(lines) - 1) / 2 + size * 0.35
        for number, line in enumerate(lines):
            self.text(x + width / 2, first + number * step, line, size=size, colour=colour, anchor="middle", bold=bold)

    def arrow(
        self, *points: tuple[float, float], colour: str = QUIET, width: float = 1.5, dashed: bool = False
    ) -> None:
        """A line through the points, with a head at the last one; its last piece is level or upright."""
        (x0, y0), (x1, y1) = points[-2:]
        reach = 7.0
        if abs(x1 - x0) > abs(y1 - y0):
            back = x1 - reach if x1 > x0 else x1 + reach
            head, end = f"{back:g},{y1 - 4:g} {back:g},{y1 + 4:g}", (back, y1)
        else:
            back = y1 - reach if y1 > y0 else y1 + reach
            head, end = f"{x1 - 4:g},{back:g} {x1 + 4:g},{back:g}", (x1, back)
        line = " ".join(f"{x:g},{y:g}" for x, y in [*points[:-1], end])
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.shapes.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dash}/>'
            f'<polygon points="{head} {x1:g},{y1:g}" fill="{colour}"/>'
        )

    def __str__(self) -> str:
        return "\n".join([self.head, *self.shapes, "</svg>"]) + "\n"
