"""What the plugin did and what it saved."""
