"""A package, so that tests and the programs that they start share engine.py and server.py."""
