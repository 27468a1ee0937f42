"""Reads a settings file into plain data and remembers the line of every key.

PyYAML's own construction step is left out: its node tree carries the lines, and from the tree only
mappings, lists and plain scalars are built. Duplicate keys, aliases and tags are refused, not interpreted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from sgl_indexcache.settings.errors import SettingsError

_MAX_BYTES = 1 << 20
_TAG = "tag:yaml.org,2002:"
# Dates, `=` and `<<` mean nothing in settings: they are the text as written.
_TEXT_KINDS = frozenset({"str", "timestamp", "value", "merge"})

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """Content of a settings file.

    path   the file
    data   its top-level mapping; empty for an empty file
    lines  for every key path in `data`, the line of the key, from 1
    """

    path: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)


def read_document(path: Path) -> Document:
    """Read a settings file.

    Raises:
        SettingsError: no such file, not a readable text file, or not a plain YAML mapping; the text names
            the file and, where there is one, the line.
    """
    text = _read_text(path)
    document = Document(path, {})
    try:
        root = _Composer(text).get_single_node()
        if root is None or _is_null(root):
            return document
        if not isinstance(root, yaml.MappingNode):
            _refuse(path, root.start_mark.line, "the settings must be `key: value` lines at the top level")
        document.data.update(_Builder(document).mapping(root, ()))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context)
        what = "replace the tab by spaces" if r"'\t'" in problem else f"not valid YAML: {problem}"
        _refuse(path, mark.line if mark else 0, what)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        _refuse(path, line, "remove the control character, YAML does not allow it")
    except RecursionError:
        raise SettingsError(f"{path}: nested too deeply, the settings have two levels") from None
    return document


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file, create it or correct the path") from None
    except IsADirectoryError:
        raise SettingsError(f"{path}: this is a folder, name the settings file in it") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > _MAX_BYTES:
        raise SettingsError(f"{path}: larger than {_MAX_BYTES >> 20} MiB, this is not a settings file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        _refuse(path, line, "not UTF-8 text, save the file as UTF-8")


def _refuse(path: Path, line: int, what: str) -> NoReturn:
    raise SettingsError(f"{path} line {line + 1}: {what}") from None


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == _TAG + "null")


class _Composer(yaml.SafeLoader):
    """Text to node tree; aliases are refused, since a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported", mark)
        return super().compose_node(parent, index)


class _Builder:
    """Node tree to plain data."""

    def __init__(self, document: Document) -> None:
        self._document = document
        scalars = yaml.constructor.SafeConstructor()
        self._readers: dict[str, Callable[[yaml.ScalarNode], Any]] = {
            "null": scalars.construct_yaml_null,
            "bool": scalars.construct_yaml_bool,
            "int": scalars.construct_yaml_int,
            "float": scalars.construct_yaml_float,
        }

    def mapping(self, node: yaml.MappingNode, parent: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, "a key must be a plain name")
            # The text as written: `on` and `1` are keys like any other, and unknown under that name.
            path = (*parent, key_node.value)
            if key_node.value in result:
                first = self._document.lines[path]
                self._refuse(key_node, f"the key {'.'.join(path)} stands on line {first} already, keep one")
            self._document.lines[path] = key_node.start_mark.line + 1
            result[key_node.value] = self._value(value_node, path)
        return result

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, path) for item in node.value]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind in _TEXT_KINDS:
            return str(node.value)
        read = self._readers.get(kind)
        if read is None:
            self._refuse(node, f"the tag {node.tag} is not supported, write a plain value")
        try:
            return read(node)
        except (ValueError, KeyError, IndexError, OverflowError):
            self._refuse(node, f"{node.value[:40]!r} is not a valid {kind}")

    def _refuse(self, node: yaml.Node, what: str) -> NoReturn:
        _refuse(self._document.path, node.start_mark.line, what)
