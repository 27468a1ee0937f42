"""The pattern: which layers run the indexer and whose selection the others use."""

from dataclasses import dataclass

from sgl_indexcache.pattern.config import layer_count, letters_of_config
from sgl_indexcache.pattern.errors import PatternError
from sgl_indexcache.pattern.presets import find
from sgl_indexcache.pattern.rule import FULL, SHARED, uniform_letters


@dataclass(frozen=True, slots=True)
class Pattern:
    """One letter a layer: F runs the indexer, S uses the selection of the nearest F before it.

    The same meaning as SGLang's `index_topk_pattern` (arXiv 2603.12201, section on inference). Every
    instance is valid: at least one letter, only F and S, the first of them F.

    letters  the pattern itself; `str(pattern)` gives it back

    Raises:
        PatternError: from the constructor, when the letters are not a valid pattern.
    """

    letters: str

    def __post_init__(self) -> None:
        _check_letters(self.letters)

    @classmethod
    def parse(cls, text: str, layers: int | None = None) -> "Pattern":
        """Read a pattern from its letters.

        text    letters F and S, nothing else
        layers  number of layers that the pattern must have; None accepts any

        Raises:
            PatternError: empty, another letter, a Shared first layer, or a wrong length.
        """
        pattern = cls(text)
        if layers is not None and len(text) != layers:
            raise PatternError(
                f"the pattern has {len(text)} letters but the model has {layers} layers: "
                "give exactly one letter for each layer"
            )
        return pattern

    @classmethod
    def uniform(cls, layers: int, freq: int, offset: int | None = None) -> "Pattern":
        """One Full layer in `freq`, by SGLang's rule; see `rule.uniform_letters` for it and its errors."""
        return cls(uniform_letters(layers, freq, offset))

    @classmethod
    def of_config(cls, config: object, layers: int | None = None) -> "Pattern":
        """The pattern that a model's own configuration asks for.

        config  a Hugging Face config object, or a mapping with the content of a config.json
        layers  layer count to use instead of the config's `num_hidden_layers`

        Raises:
            PatternError: no indexer in this model, unusable fields, or a pattern that is shorter or longer
                than the model (SGLang would silently take the missing letters for Full).
        """
        letters = letters_of_config(config, layers)
        return cls.parse(letters, layer_count(config) if layers is None else layers)

    @classmethod
    def preset(cls, name: str) -> "Pattern":
        """A published pattern by its name, such as `glm5-1/4`.

        Raises:
            PatternError: there is no preset of this name.
        """
        return cls(find(name).letters)

    @property
    def full_layers(self) -> tuple[int, ...]:
        """Layers that run the indexer, ascending."""
        return tuple(layer for layer, letter in enumerate(self.letters) if letter == FULL)

    @property
    def shared_layers(self) -> tuple[int, ...]:
        """Layers that use another layer's selection, ascending."""
        return tuple(layer for layer, letter in enumerate(self.letters) if letter == SHARED)

    @property
    def ratio(self) -> float:
        """Full layers over all layers, in (0, 1]."""
        return self.letters.count(FULL) / len(self.letters)

    @property
    def is_all_full(self) -> bool:
        """True when no layer is Shared: the model as it is without IndexCache."""
        return SHARED not in self.letters

    def producer(self, layer: int) -> int:
        """The Full layer whose selection `layer` uses: the nearest at or before it.

        Raises:
            IndexError: the layer is outside 0..len-1.
        """
        self._check_layer(layer)
        return self.letters.rindex(FULL, 0, layer + 1)

    def served_by(self, full_layer: int) -> tuple[int, ...]:
        """The layers that use the selection of `full_layer`: itself and the Shared layers right after it.

        Raises:
            IndexError: the layer is outside 0..len-1.
            ValueError: the layer is Shared and produces nothing.
        """
        self._check_layer(full_layer)
        if self.letters[full_layer] != FULL:
            raise ValueError(f"layer {full_layer} is Shared: it produces no selection")
        following = self.letters.find(FULL, full_layer + 1)
        return tuple(range(full_layer, len(self.letters) if following < 0 else following))

    def __len__(self) -> int:
        return len(self.letters)

    def __str__(self) -> str:
        return self.letters

    def _check_layer(self, layer: int) -> None:
        # Not left to str: a negative index would silently answer for a layer at the end.
        if not 0 <= layer < len(self.letters):
            raise IndexError(f"layer {layer} is outside 0..{len(self.letters) - 1}")


def _check_letters(letters: str) -> None:
    if not letters:
        raise PatternError("the pattern is empty: give one letter, F or S, for each layer")
    for position, letter in enumerate(letters):
        if letter in (FULL, SHARED):
            continue
        if letter.upper() in (FULL, SHARED):
            raise PatternError(
                f"the pattern has the lower-case letter {letter!r} at position {position}: write {letter.upper()!r}"
            )
        raise PatternError(f"the pattern has {letter!r} at position {position}: only F (Full) and S (Shared) are known")
    if letters[0] != FULL:
        raise PatternError("the pattern begins with S: layer 0 has no earlier layer to share with, so begin with F")
