"""Which rule should choose the pages of a list: what can be kept of a page, how it is used, and what that brings.

signals   what a page may be ranked by
digests   a candidate's other ingredient: pages named by what earlier pages selected
rules     the candidates, by name
study     measures them end to end
"""
