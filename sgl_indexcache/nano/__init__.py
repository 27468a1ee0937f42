"""Small DSA models that real engines load: one that this project trained, and random ones for tests.

    spec, layout, shape       what a checkpoint holds: its config and tensors, the trained model's widths
    tokenizer                 a token is a byte
    random_model              writes checkpoints with random weights
    phrases, dialogue         how facts are planted and asked for, as the trained model learnt it
    model, divergence         the forward in plain torch, and what its indexers learn from
    checkpoint/               the trained weights; in the repository, not in the wheel

    training/                 how they came about: corpus, recipe, optimiser, export
    studies/                  what is measured on them: patterns, distillation, shortlists, page rules
    cards/                    writes the pages with these figures

Serving needs none of this. The parts of the second list may import the first list and the parts above them; nothing
else imports them, and the wheel leaves them out. `python -m sgl_indexcache.nano` lists the commands.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder of the trained model."""
