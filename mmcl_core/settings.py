"""Frozen dataclasses from nested mappings, as YAML gives them: types checked, unknown keys refused with a hint."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from mmcl_core.errors import ConfigError
from mmcl_core.presets import where_presets_are

__all__ = ["OURS", "build", "hint", "is_number", "load_yaml", "read_file", "read_override", "yaml_problem"]

T = TypeVar("T")

#: In the metadata of a field: the program fills it, no file may.
OURS = "ours"


def hint(key: str, known: Mapping[str, Any], prefix: str = "") -> str:
    """The end of a message about an unknown key: the sections that have it, the known one it is like, or all.

    Args:
        key: the unknown one.
        known: what there is, sections as mappings.
        prefix: of the keys in what is suggested, such as ``train.``.
    """
    sections = [name for name, inner in known.items() if isinstance(inner, Mapping) and key in inner]
    if sections:
        return f"; did you mean {' or '.join(repr(f'{prefix}{name}.{key}') for name in sections)}?"
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix + near[0]!r}?" if near else f"; known are {', '.join(known)}"


_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool")}


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice, of which YAML itself drops the first, and says where a value is no good."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """A value; one that is none of its kind, such as the 31st of June, is an error with a place.

        It is always made with all that is in it, as then one that holds itself is found.
        """
        try:
            return super().construct_object(node, deep=True)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error

    def compose_mapping_node(self, anchor: Any) -> Any:
        """A mapping as it is written: keys that ``<<`` merges into it come later, and may be its own."""
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        # 0.10 is the key .1 once more
        names = [self.construct_object(key) if key.tag in _NUMBERS else (key.tag, key.value) for key in keys]
        for place, key in enumerate(keys):
            if names[place] in names[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} comes twice", key.start_mark
                )
        return node


def load_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: it is none, or a mapping holds a key twice; :func:`yaml_problem` says it in one line.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None


def yaml_problem(error: yaml.YAMLError | ValueError, text: str = "") -> str:
    """What is wrong with a YAML text, and where, in one line; PyYAML uses several.

    Args:
        error: of :func:`load_yaml`.
        text: which was loaded.
    """
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"line {line}, column {column}: the character U+{int(error.character):04X} is not allowed"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return " ".join(str(error).split())
    context = f", {error.context}" if error.context else ""
    if error.context and error.context_mark and error.context_mark.line != mark.line:
        context += f" that begins in line {error.context_mark.line + 1}"
    what = (error.problem or "something is missing").removeprefix("but ")
    context += "; check the indentation" if "<block" in what else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}{context}"


def read_file(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a YAML file, laid over those of the file that its key ``base`` names.

    Args:
        path: the file.
        above: the files that led to it.

    Raises:
        ConfigError: a file that is missing, is no YAML mapping, or is its own base.
    """
    if path.resolve() in above:
        raise ConfigError(f"{path} is its own base")
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        loaded = load_yaml(text)
    except OSError as error:
        where = where_presets_are(error)
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}{where}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {yaml_problem(error, text)}") from error
    if loaded is not None and not isinstance(loaded, Mapping):
        raise ConfigError(f"{path} holds a {type(loaded).__name__}; a mapping of settings is expected")
    values = dict(loaded or {})
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base is {base!r}; the name of a file is expected")
    return _over(read_file(path.parent / os.path.expanduser(base), (*above, path.resolve())), values)


def _over(below: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in values.items():
        inner = merged.get(key)
        merged[key] = _over(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def build(kind: type[T], values: Any, where: str, prefix: str = "", default: T | None = None) -> T:
    """A dataclass, and those inside it, from nested mappings.

    Args:
        kind: the dataclass.
        values: by key; what is missing keeps its default.
        where: named in error messages.
        prefix: of the keys in error messages, such as ``train.``.
        default: what the values change; ``None``: the defaults of the class.

    Raises:
        ConfigError: an unknown key, or a value of another type than that of its field.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {prefix.rstrip('.') or 'the file'} must be a mapping, not {values!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind) if not f.metadata.get(OURS)}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            inner = {name: getattr(hints[name], "__dataclass_fields__", None) for name in known}
            raise ConfigError(f"{where}: unknown setting {prefix + str(key)!r}{hint(str(key), inner, prefix)}")
        wanted = hints[key]
        if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
            factory: Any = known[key].default_factory
            arguments[key] = build(wanted, value, where, f"{prefix}{key}.", factory())
        else:
            arguments[key] = _convert(wanted, value, where, prefix + key)
    return kind(**arguments) if default is None else dataclasses.replace(default, **arguments)  # type: ignore[type-var]


def _convert(wanted: Any, value: Any, where: str, name: str) -> Any:
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        # YAML 1.1 reads a bare on/off as a truth value; the settings that offer these words mean the words.
        if isinstance(value, bool) and {"on", "off"} & set(inner):
            value = "on" if value else "off"
        if value not in inner or isinstance(value, bool):
            choices = ", ".join(str(one) or "''" for one in inner)
            raise ConfigError(f"{where}: {name} is {value!r}; choose from {choices}")
        return inner[inner.index(value)]  # 2 for 2.0
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        if inner[-1] is not Ellipsis and len(items) != len(inner):
            raise ConfigError(f"{where}: {name} takes {len(inner)} values, got {value!r}")
        return tuple(_convert(inner[0], item, where, name) for item in items)
    if origin in (Union, types.UnionType):
        return None if value is None else _convert(inner[0], value, where, name)
    if wanted is float and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-5 as text
        except ValueError:
            pass
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ConfigError(f"{where}: {name} is a number of {len(str(abs(value)))} digits, which is too large")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is str and value is None:
        return ""
    if wanted is str and isinstance(value, str) and value.startswith("~/"):  # a path below the home folder
        return os.path.expanduser(value)
    if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where}: {name} must be {wanted.__name__}, got {value!r}")
    return value


def is_number(value: Any) -> bool:
    """Whether a value that YAML or JSON has read is a number; true and false, which Python counts as such, are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_override(text: str) -> tuple[str, Any]:
    """Name and value of a text ``section.key=value``, the value read as YAML.

    Raises:
        ConfigError: a text of another form.
    """
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ConfigError(f"override {text!r} is not of the form section.key=value")
    try:
        return name.strip(), load_yaml(value) if value else ""
    except (yaml.YAMLError, ValueError) as error:
        cut = "; put the whole in quotes where it holds spaces" if value[:1] in "[{'\"" else ""
        raise ConfigError(
            f"override {text!r}: the value is not valid YAML: {yaml_problem(error, value)}{cut}"
        ) from error
