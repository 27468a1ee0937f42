"""What a Full layer does: project, store the index key, score, select.

cpu/            exact selection in torch, projections, threads; two-level scoring's kernels there
cuda/           exact selection by our kernel, two-level scoring's kernels, lists of decode steps, warm-up
two_level.py    two-level scoring of a forward, the same on both devices
layout.py       which rows of it have lists, and how they are cut
shortlist.py    how many pages a row lists
guard.py        which rows are sampled; samples.py scores and judges them
kernels.py      what two-level scoring needs of a device
forms.py        SGLang's three forms of a selection
"""
