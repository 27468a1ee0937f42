"""One request at a time: its body, its stream of events, its time stamps, and how it failed."""
