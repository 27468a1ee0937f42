"""Attention backends (`cpu`, `hopper`) and the consumers of a selection."""
