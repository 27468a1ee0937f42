"""Vocabulary of a selection, without work: rows of a forward, what a Full layer selects by, what is known already."""

from sgl_indexcache.selection.inputs import Form, IndexerTerms, Inputs, Queries, TensorQueries, Terms
from sgl_indexcache.selection.known import KnownRows
from sgl_indexcache.selection.rows import Rows, Span

__all__ = ["Form", "IndexerTerms", "Inputs", "KnownRows", "Queries", "Rows", "Span", "TensorQueries", "Terms"]
