"""Attention backends and the consumers of a selection.

base.py             what a scheduler may ask of either backend
cpu.py              the backend in torch; gather.py attends to selections
cuda.py             the backend over SGLang's own; flashinfer.py attends, choice.py says who does
cuda_selection.py   how a Full layer selects on CUDA: known, listed, ours, SGLang's; snapshots.py reads the store
row_lengths.py      how many keys each row sees, on the host
"""
