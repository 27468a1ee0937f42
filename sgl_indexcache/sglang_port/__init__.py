"""All of SGLang 0.5.17's internals that the plugin holds on to: a file a seam in seams/, what seams build beside it.

Besides this package only the two backends in attention/ import sglang.
"""
