"""What is left of a run: JSON, CSV and HTML files, comparisons, conditions for CI."""
