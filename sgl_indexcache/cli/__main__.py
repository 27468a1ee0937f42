"""`python -m sgl_indexcache.cli`: the same as the console script."""

from sgl_indexcache.cli.app import main

main()
