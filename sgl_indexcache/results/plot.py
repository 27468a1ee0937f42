"""An empty plot without a display, and the colours that plots share."""

from typing import TYPE_CHECKING

from sgl_indexcache.results.errors import ResultError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT, FAINT = "#333333", "#c0392b", "#9db4c8"


def figure(width: float, height: float, dpi: int = 150) -> "Figure":
    """An empty figure of this size in inches, drawn without a display."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained", dpi=dpi)
    FigureCanvasAgg(drawing)
    return drawing


def require_matplotlib() -> None:
    """Raise ResultError when plots cannot be drawn; called before hours of measuring."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ResultError(
            "plots need matplotlib: pip install matplotlib, or use --no-plot now and sgl-indexcache plot elsewhere"
        ) from None
