"""Reading the tensors of a TorchScript archive, the format of OpenAI's files, and nothing else.

``torch.jit.load`` runs ``__setstate__`` methods from the archive, and TorchScript can write files.
Here the archive's pickle is read with only the handful of names that tensors need; its code is
never compiled.
"""

from __future__ import annotations

import ast
import io
import pickle
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from openvclip.utils.pickles import ArchiveError

STORAGES = {
    "HalfStorage": torch.float16, "FloatStorage": torch.float32, "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# What TorchScript wraps typed lists and dicts in; the first argument is the plain value.
CONTAINERS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist",
              "restore_type_tag")
MOST_MODULES = 100_000
MOST_CODE_BYTES = 8 << 20  # of OpenAI's largest below 1 MB
CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  __\w+__ = .*\n)*)", re.MULTILINE)
LISTS = re.compile(r"^  __(?:parameters|buffers)__ = (\[.*\])$", re.MULTILINE)


class _Object:
    """Represents an object of the archive; its attributes are the stored ones."""

    where = ("", "")


def _first(value: Any, *_: Any) -> Any:
    return value


class _Reader(pickle.Unpickler):
    """Unpickles plain values, tensors and :class:`_Object`."""

    def __init__(self, data: bytes, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(data))
        self.archive, self.root = archive, root
        self.storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return type(name, (_Object,), {"where": (module, name)})
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle" and name in CONTAINERS:
            return _first
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"not a storage: {str(pid)[:100]}")
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(
                0, dtype=dtype)
        return self.storages[key]


def _tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: Any):
    return storage.as_strided(size, stride, offset)


def read_archive(path: str | Path) -> dict[str, torch.Tensor] | None:
    """Return the parameters and buffers of a TorchScript archive, by name, or None for other files.

    Raises:
        pickle.UnpicklingError: it contains something other than modules, tensors and plain values.
        Exception: of many kinds, for damaged files.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        constants = [name for name in names if name.endswith("/constants.pkl")]
        if not constants:
            return None
        root = str(PurePosixPath(constants[0]).parent)
        top = _Reader(archive.read(f"{root}/data.pkl"), archive, root).load()
        return _collect(top, _declared(archive, root))


def _declared(archive: zipfile.ZipFile, root: str) -> dict[tuple[str, str], set[str]]:
    """Return each class's names of parameters and buffers from its source, which is never run."""
    declared = {}
    sizes = [member.file_size for member in archive.infolist()
             if member.filename.startswith(f"{root}/code/")]
    if sum(sizes) > MOST_CODE_BYTES:
        raise ArchiveError(f"its code has {sum(sizes):,} bytes, as much as no model's has")
    for name in archive.namelist():
        if name.startswith(f"{root}/code/") and name.endswith(".py"):
            module = name.removeprefix(f"{root}/code/").removesuffix(".py").replace("/", ".")
            for match in CLASS.finditer(archive.read(name).decode()):
                lists = LISTS.findall(match[2])
                if lists:
                    names = {x for text in lists for x in ast.literal_eval(text)}
                    declared[module, match[1]] = names
    return declared


def _collect(top: Any, declared: dict[tuple[str, str], set[str]]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    visits = 0
    path: set[int] = set()  # objects above the present one: an archive may hold a circle

    def visit(module: _Object, prefix: str) -> None:
        nonlocal visits
        visits += 1
        if id(module) in path or visits > MOST_MODULES:
            raise ValueError("its modules contain themselves, or contain one another too often")
        path.add(id(module))
        known = declared.get(module.where)
        for name, value in vars(module).items():
            if isinstance(value, _Object):
                visit(value, f"{prefix}{name}.")
            elif isinstance(value, torch.Tensor) and (known is None or name in known):
                tensors[prefix + name] = value
        path.discard(id(module))

    if isinstance(top, _Object):
        visit(top, "")
    return tensors
