"""What a Full layer does: project, store the index key, score, select."""
