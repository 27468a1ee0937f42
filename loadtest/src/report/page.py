"""A self-contained HTML page: tables, and plots drawn by the plotly.js that is written into it."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgl_indexcache.loadtest.errors import ReportError

# Nothing may be fetched: the page must look the same without a network.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#1b1f24}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #d8dee4}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.86rem;display:block;overflow-x:auto}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #eaeef2;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.ok{color:#1a7f37}.bad{color:#cf222e}.dim{color:#57606a}.plot{height:380px}
"""
_DRAW = """
window.onerror=function(m){document.body.dataset.error=m};
let drawn=0;
Promise.all(FIGURES.map(function(f,i){
 return Plotly.newPlot('plot'+i,f.data,f.layout,{responsive:true,displaylogo:false}).then(function(){drawn++});
})).then(function(){document.body.dataset.plots=drawn},function(e){document.body.dataset.error=String(e)});
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with a text, a table and plots. Cells and texts are plain text; they are escaped."""

    heading: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figures: Sequence[dict[str, Any]] = ()


def figure(
    title: str, traces: list[dict[str, Any]], x: str, y: str, log_x: bool = False, log_y: bool = False
) -> dict[str, Any]:
    """A plotly figure of line or marker traces with named axes."""

    def axis(name: str, log: bool) -> dict[str, Any]:
        return {"title": {"text": name}, "type": "log" if log else "linear", "gridcolor": "#eaeef2"}

    layout = {
        "title": {"text": title, "font": {"size": 15}},
        "xaxis": axis(x, log_x),
        "yaxis": axis(y, log_y),
        "margin": {"l": 70, "r": 20, "t": 45, "b": 50},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "legend": {"orientation": "h", "y": -0.2},
    }
    return {"data": traces, "layout": layout}


def render(title: str, status: str, good: bool, sections: Sequence[Section]) -> str:
    """The page. `status` stands under the title, green when `good`.

    Raises:
        ReportError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ReportError("plots need a package: pip install plotly, then `loadtest report`") from None
    figures: list[dict[str, Any]] = []
    body = [f"<h1>{html.escape(title)}</h1>", f'<p class="{"ok" if good else "bad"}">{html.escape(status)}</p>']
    for section in sections:
        body.append(f"<h2>{html.escape(section.heading)}</h2>")
        if section.text:
            body.append(f'<p class="dim">{html.escape(section.text)}</p>')
        if section.rows:
            body.append(_table(section))
        for drawing in section.figures:
            body.append(f'<div class="plot" id="plot{len(figures)}"></div>')
            figures.append(drawing)
    # Inside a script element only `<` can end it; data from servers and traces may hold one.
    data = json.dumps(figures, allow_nan=False).replace("<", "\\u003c")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(body)}"
        f"<script>{get_plotlyjs()}</script><script>const FIGURES={data};{_DRAW}</script></body></html>\n"
    )


def _table(section: Section) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in section.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
