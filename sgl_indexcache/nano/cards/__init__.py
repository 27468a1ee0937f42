"""The pages on the trained model, written from raw figures; the same figures give the same files.

    card, card_text, card_plots   docs/results/nano.md and the checkpoint's README.md
    distilled_card                docs/results/distill.md
    tables                        figures read, and as Markdown tables

Needs matplotlib, not torch.
"""
