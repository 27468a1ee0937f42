"""What is measured on the trained model; each module is a command that writes one file of figures.

evaluate                 the card's figures, of a training state
probes                   the files on which patterns are searched and judged
searched                 the pattern search on the training code
distillation             patterns as they are, and after the retained indexers were distilled
trained                  the checkpoint in float32, one sequence at a time, for the two below
shortlist_quality        two-level scoring in this process (two_level): recall, loss and facts by size of the lists
page_rules/              other rules for choosing the pages of a list
served                   two-level scoring through the real server
"""
