"""How the trained model came about: its text, its recipe, the training run, the checkpoint that it writes.

    sources, corpus                what text, fetched and packed; shards reads it back
    tasks                          sequences to learn from: windows of text, planted facts, copies
    recipe, optimizer, initial     DSA's stages scaled down; Muon and AdamW; the first weights
    train, state, device           the run, its saved state, the model on a GPU
    measures                       loss, needles and recall of attention, at a run's end and in the studies
    export                         a state as a checkpoint

The run itself needs torch, numpy, safetensors, PyYAML and typer only, so that it runs on a bare GPU machine.
"""
