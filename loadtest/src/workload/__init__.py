"""What is to be sent: descriptions, presets, and the seeded generator of sessions."""
