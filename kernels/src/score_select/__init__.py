"""A Full layer's selection: scores of page-packed keys, then the k best of each row: reference.py, cuda.py."""
