"""The file of ``TEST.SAVE_RESULTS_PATH``: written as PySlowFast does, read without running code.

The file is a plain pickle of ``[scores, labels]``. ``pickle.load`` calls anything a file names, so
here it is read with stand-ins for the few functions that rebuild tensors and arrays; any other name
is refused. What a file can make this reader allocate is bounded by the file's size.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from openvclip.utils.errors import DataError, first_line
from openvclip.utils.files import open_regular, replacing_file
from openvclip.utils.torch_files import load_torch

STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NUMPY_KINDS = "biuf"  # what holds plain numbers
MOST_OPCODES = 10_000  # two tensors take about a hundred
# Operations that build anything but plain values and calls of functions that are named.
REFUSED = frozenset({"INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "NEWOBJ", "NEWOBJ_EX",
                     "NEXT_BUFFER", "READONLY_BUFFER"})
# A number in decimal digits takes time that grows with their square.
LONGEST_NUMBER = 32


def name_predictions(path: str | Path, ratio: float | None, several: bool) -> Path:
    """Return the file of one ratio's predictions: ``path``, or if ``several`` one per ratio."""
    path = Path(path)
    return path.with_name(f"{path.stem}_ratio{ratio:.2f}{path.suffix}") if several else path


def save_predictions(path: str | Path, scores: Tensor, labels: Tensor) -> None:
    """Write ``[scores (N, C), labels]`` as CPU tensors, for ``pickle.load`` as published.

    Args:
        path: the file; its folder is made.
        scores: ensembled logits (N, C).
        labels: int64 (N,), or 0/1 (N, C) where a video has several.
    """
    # A clone: a view would include all that it is a view of.
    content = [tensor.detach().cpu().contiguous().clone() for tensor in (scores, labels)]
    with replacing_file(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(content, file)


def load_predictions(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read what :func:`save_predictions` writes, and what published code or ``torch.save`` wrote.

    Tensors or NumPy arrays, in a pickle or in torch's zip format. No code of the file is run.

    Returns:
        Scores (N, C), floating-point, and labels (N,) or (N, C).

    Raises:
        DataError: the file is missing, damaged, names anything but tensors and arrays, or holds
            something other than scores and labels of the same videos.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there are no predictions {path}: it is missing, or not a file")
    try:
        content = _read_zip(path) if zipfile.is_zipfile(path) else _read_pickle(path)
        if not isinstance(content, list | tuple) or len(content) != 2:
            raise ValueError(f"it holds a {type(content).__name__}, not [scores, labels]")
        scores, labels = map(_as_tensor, content)
    except Exception as error:  # a damaged file leads to nearly any exception
        raise DataError(f"cannot read the predictions {path}: {first_line(error)}") from error
    if scores.ndim != 2 or labels.ndim not in (1, 2) or len(labels) != len(scores):
        raise DataError(
            f"{path} holds tensors of shapes {tuple(scores.shape)} and {tuple(labels.shape)}; "
            "scores (videos, classes) and labels (videos,) are expected"
        )
    if not scores.is_floating_point():
        raise DataError(f"{path} holds scores of type {scores.dtype}; they must be floating-point")
    return scores, labels


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, _Array):
        value = value.content
    if not isinstance(value, Tensor):
        raise ValueError(f"it holds a {type(value).__name__} where a tensor or array is expected")
    return value


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        promised = sum(info.file_size for info in archive.infolist())
    if promised > path.stat().st_size:
        raise ValueError(f"its {path.stat().st_size} bytes promise {promised} unpacked; "
                         "predictions are never compressed")
    return load_torch(path, mmap=False)


def _read_pickle(path: Path) -> Any:
    # Mapped: a read of more than there is, which a file may ask for, gives what there is.
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _check_operations(data)
        data.seek(0)
        return _Reader(data).load()


def _check_operations(file: Any) -> None:
    """Refuse a pickle whose operations are not those of two tensors, before running any."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if operation.name in REFUSED or count >= MOST_OPCODES:
            raise pickle.UnpicklingError(f"its pickle is none of predictions ({operation.name})")
        if "PUT" in operation.name and int(argument or 0) > MOST_OPCODES:
            raise pickle.UnpicklingError("its pickle is none of predictions (a memo too large)")
        if isinstance(argument, int) and argument.bit_length() > LONGEST_NUMBER * 4:
            raise pickle.UnpicklingError("its pickle is none of predictions (a number too long)")


class _Array:
    """Represents a NumPy array until its content comes."""

    def __init__(self, *_: Any) -> None:
        self.content = torch.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.content = _array(data, kind, shape, "F" if fortran else "C").content


class _Kind:
    """Represents a NumPy dtype."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = str(code)
        self.order: Literal["<", ">", "="] = "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def dtype(self) -> np.dtype:
        dtype = np.dtype(self.code).newbyteorder(self.order)
        if dtype.kind not in NUMPY_KINDS:
            raise ValueError(f"an array of type {dtype}, not of numbers")
        return dtype


def _array(data: bytes, kind: _Kind, shape: Any, order: Literal["C", "F"]) -> _Array:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    values = np.frombuffer(data, kind.dtype()).reshape(shape, order=order)
    result = _Array()
    result.content = torch.from_numpy(values.astype(values.dtype.newbyteorder("=")).copy())
    return result


def _encode(text: str, encoding: str = "latin1", *_: Any) -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "ascii")


def _rebuild_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    size, stride = tuple(size), tuple(stride)
    if not isinstance(storage, Tensor) or math.prod(size) > storage.numel():
        raise ValueError(f"a tensor of shape {size} has less data than that")
    return torch.as_strided(storage, size, stride, offset).clone()


def _load_storage(data: bytes) -> Tensor:
    """Read what torch writes of a tensor's memory inside a pickle: its format before zip files."""
    file = io.BytesIO(data)
    for _ in range(5):  # pickles, before any is read
        _check_operations(file)
    file.seek(0)
    for _ in range(3):  # a magic number, a version, the machine's properties
        _Reader(file).load()
    dtype, count = _Reader(file).load()
    _Reader(file).load()  # the storage's key
    file.read(8)  # the number of entries, again
    values = bytearray(file.read())
    if len(values) != count * dtype.itemsize:
        raise ValueError(f"{len(values)} bytes of a tensor that has {count} entries of {dtype}")
    return torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)


def _dict(*pairs: Any) -> dict:
    return dict(*pairs[:1])


# The only functions that may be called: each has a stand-in here.
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("collections", "OrderedDict"): _dict,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    """Unpickles plain values, and calls only what is in ``ALLOWED``."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(
            f"it names {module}.{name}"[:120] + ", which no predictions need; nothing was run"
        )

    def persistent_load(self, pid: Any) -> tuple[torch.dtype, int]:
        kind, dtype, _, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(count, int):
            raise pickle.UnpicklingError("not a tensor's memory")
        return dtype, count
