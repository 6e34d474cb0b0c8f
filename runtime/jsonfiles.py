"""JSON: read with suspicion, and made of dataclasses and arrays."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.errors import InputError

MAX_JSON_BYTES = 2**24  # far above use; Python's objects are many times larger than their text

Json = dict[str, Any]


def _finite_number(text: str) -> float:
    number = float(text) if set(text) & set(".eENI") else int(text)
    if not math.isfinite(number):  # OverflowError, where an integer is beyond every float
        raise ValueError(f"{text} is no finite number")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> Json:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return content


def read_json(path: str) -> Json:
    """Read a JSON object.

    Raises:
        InputError: If the file is missing or is no JSON object; if it holds a number that no
            float can be, or a key twice.
    """
    hooks: Json = dict.fromkeys(("parse_constant", "parse_float", "parse_int"), _finite_number)
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
        if len(text) > MAX_JSON_BYTES:
            raise InputError(f"{path}: is larger than any file of its kind")
        content = json.loads(text.decode(), object_pairs_hook=_unique_keys, **hooks)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return content


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def to_json(value: Any) -> Any:
    """A value as JSON: arrays and tuples as lists, dataclasses by field, None left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {name: to_json(v) for name, v in fields.items() if v is not None}
    if isinstance(value, Mapping):
        return {str(name): to_json(v) for name, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [to_json(v) for v in value] if isinstance(value, (list, tuple)) else value
