"""Attention backends (`cpu`, `cuda`; what both answer: `base`) and the consumers of a selection."""
