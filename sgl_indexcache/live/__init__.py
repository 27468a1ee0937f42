"""Starting a server for a tool, and asking it: what every tool that measures a live engine stands on.

Contract: talks to servers over HTTP and to disk; imports neither SGLang nor torch (transformers for a tokenizer, when
a text is read). The server is `sgl-indexcache serve` in a process of its own. Where a class goes:

    server.py        a server as a child process      kept_server.py  one that ends with us, however we end
    engine.py        one server's HTTP client: switch its pattern, score, generate, selections
    fleet.py         engines started here or named by URL, checked alike; they get their pattern back
    side_by_side.py  jobs shared among engines that are idle
    model.py         what config.json says            progress.py     the bar of a long measurement
    sequences.py     token sequences from JSON lines, tokenised once
    needles.py       prompts with known answers
"""
