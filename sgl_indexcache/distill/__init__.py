"""Training-aware IndexCache: retained indexers learn from the attention of all layers they serve.

Where a class goes:

    functional.py   maths of a layer          indexing.py     the indexer and selections
    parameters.py   named as in checkpoints   experts.py      mixture-of-experts block      rope.py          positions
    config.py       what config.json says     model.py        forward, losses               attend.py        in slices
    checkpoint.py   read and write            data.py         JSON lines to packed tokens   plan.py          what to do
    parallel.py     processes and shards      state.py        stop and go on                train.py         the loop
    memory.py       the plan of --dry-run     progress.py     what is said and logged       plot.py          its curves
    run.py          a command from its inputs to the written checkpoint

Needs torch, numpy and safetensors; transformers only for text, to load the model's tokenizer. The nano model's
training uses the same maths.
"""
