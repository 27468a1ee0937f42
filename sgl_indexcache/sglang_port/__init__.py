"""Every hook into SGLang 0.5.17, one file a seam; besides it only the two backends in attention/ import sglang."""
