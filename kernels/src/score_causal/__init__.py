"""Index scores of whole sequences in training, a batch at a time, later keys masked: reference.py, cuda.py."""
