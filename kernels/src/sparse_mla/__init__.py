"""Absorbed multi-head latent attention over a selection: reference.py, cpu.py."""
