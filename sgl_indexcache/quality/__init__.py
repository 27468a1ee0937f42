"""The quality of chosen patterns on a live engine: held-out loss by position, needle accuracy, recall.

Contract: asks engines through `live`, keeps every forward in the search's journal, compares selections as `overlap`
defines it; imports neither SGLang nor torch. `judge.py` measures, `table.py` writes the table, its JSON and its plot.
"""
