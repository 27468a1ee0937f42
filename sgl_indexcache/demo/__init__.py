"""`make demo`: a conversation with the real server, with the pattern on and with every layer Full."""
