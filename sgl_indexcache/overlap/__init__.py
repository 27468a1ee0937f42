"""How alike selections are: between layers, between neighbouring queries, between decode steps.

Contract: reads selections that a live engine returns (`live`); numpy only. `measure.py` holds the figures' definitions,
`text.py` cuts the text, `run.py` measures on an engine and writes the report, `plot.py` draws it.
"""
