"""Arrays inside JSON: exact, and small where many of their numbers are alike."""

import base64
import hashlib
import math
import zlib
from typing import Any

import numpy as np

from runtime.jsonfiles import Json

PACKED = "zlib"  # key of an object's content
DTYPES = ("<f8", "<i8")
MAX_BYTES = 2**26  # of an array, far above use: a hostile file cannot ask for more


def pack(values: np.ndarray) -> Json:
    """An array as a JSON object, which `unpack` reads; its name tells it from others.

    Args:
        values: Of any shape, real or whole numbers.
    """
    dtype = "<i8" if values.dtype.kind == "i" else "<f8"
    content = np.ascontiguousarray(values, dtype).tobytes()
    digest = hashlib.sha256(content).hexdigest()
    return {
        "name": f"{values.size} numbers of SHA-256 {digest[:8]}",
        "dtype": dtype,
        "shape": list(values.shape),
        PACKED: base64.b64encode(zlib.compress(content, 9)).decode(),
    }


def unpack(content: Any) -> np.ndarray:
    """The array of an object of `pack`.

    Raises:
        ValueError: If the object is damaged.
    """
    try:
        dtype, shape = content["dtype"], content["shape"]
        num_bytes = 8 * math.prod(shape)
        if dtype not in DTYPES or not 0 <= num_bytes <= MAX_BYTES:
            raise ValueError("a packed array is none")
        inflater = zlib.decompressobj()
        values = inflater.decompress(base64.b64decode(content[PACKED]), num_bytes + 1)
        return np.frombuffer(values, dtype).reshape(shape)
    except (KeyError, TypeError, ValueError, zlib.error):
        raise ValueError("a packed array is damaged") from None
