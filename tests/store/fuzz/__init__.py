"""A tool: random schedules on real engines, with the store and without. Use: `python -m tests.store.fuzz --help`."""
