"""Selection of the k best keys of every query, with deterministic ties.

select          ascending positions: reference.py, cpu.py, cuda.py
select_sorted   best first, of a part of each row, on any device: sorting.py
"""
