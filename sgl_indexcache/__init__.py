"""IndexCache for SGLang: Full layers run the lightning indexer, Shared layers reuse its selection.

Importing the package is free of side effects and imports nothing heavy; SGLang calls
`sgl_indexcache.plugin.activate` through the entry point group `sglang.srt.plugins`.
"""

__version__ = "0.1.0"
