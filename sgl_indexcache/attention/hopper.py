"""The CUDA backend: SGLang's own DSA backend under our name.

Metadata, CUDA graphs, prefill, decode and the carry of selections from Full to Shared layers are SGLang's,
unchanged, so that an all-Full pattern gives the same bits as `--attention-backend dsa`. The name of its own
is what lets a scheduler refuse to serve when the plugin is not in force.
"""

from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend


class IndexCacheHopperBackend(DeepseekSparseAttnBackend):  # type: ignore[misc, unused-ignore]
    """`DeepseekSparseAttnBackend` (layers/attention/dsa_backend.py), registered as `indexcache`."""
