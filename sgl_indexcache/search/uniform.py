"""`--scorer uniform`: SGLang's rule of one Full layer in N, for comparison."""

from sgl_indexcache.pattern import Pattern


def uniform(layers: int, keep: int) -> Pattern:
    """The uniform pattern with the most Full layers among those with at most `keep`; the fewest if none has.

    SGLang's rule makes layers 0 and 1 Full, so that 1/4 of 16 layers has 5 of them and not 4.
    """
    patterns = [Pattern.uniform(layers, freq) for freq in range(1, max(layers, 2))]
    fitting = [pattern for pattern in patterns if len(pattern.full_layers) <= keep]
    return fitting[0] if fitting else patterns[-1]
