"""Features of a long video, in memory up to a bound and past it on disk; and which model they belong to."""

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

CACHES = ("cpu", "device", "disk")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class CacheOptions:
    """Where features are kept.

    Args:
        cache: "cpu" (memory), "device" (the model's) or "disk" (safetensors files in a temporary folder).
        dtype: the type that they are kept in; None: the model's own. Half precision halves the memory and changes
            logits by about a thousandth.
        max_memory: bytes, or text such as "4GB"; what is beyond goes to disk. None: no bound.

    Raises:
        ValueError: one of them is none of these.
    """

    cache: str = "cpu"
    dtype: torch.dtype | None = torch.float16
    max_memory: int | str | None = "4GB"

    def __post_init__(self):
        if self.cache not in CACHES:
            raise ValueError(f"cache is one of {', '.join(map(repr, CACHES))}, not {self.cache!r}")
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ValueError(f"dtype is a floating point type such as torch.float16, or None, not {self.dtype!r}")
        self.num_bytes  # noqa: B018  checks it

    @property
    def num_bytes(self) -> float:
        """`max_memory` in bytes; infinite where there is no bound."""
        if self.max_memory is None:
            return float("inf")
        text = str(self.max_memory).strip().upper()
        number = text.rstrip("KMGIB ")
        try:
            value = float(number) * UNITS[text[len(number) :].strip()]
        except (ValueError, KeyError):
            value = -1
        if not value >= 0:
            raise ValueError(f"max_memory is a number of bytes or text such as '4GB', not {self.max_memory!r}")
        return value


class FeatureStore:
    """Groups of tensors in a row, each group in memory or, past the bound, in a safetensors file of its own.

    What is on disk is mapped into memory when it is read, and lies in a temporary folder that is deleted with the
    store, or in the folder of a saved store.
    """

    def __init__(self, options: CacheOptions):
        self.options = options
        self.num_bytes_in_memory = 0
        self._groups: list[dict[str, torch.Tensor] | Path] = []
        self._folder: tempfile.TemporaryDirectory | None = None

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def num_on_disk(self) -> int:
        """The number of groups that lie on disk."""
        return sum(isinstance(group, Path) for group in self._groups)

    @property
    def folder(self) -> Path | None:
        """The temporary folder of what is on disk; None where there is none."""
        return None if self._folder is None else Path(self._folder.name)

    def append(self, tensors: dict[str, torch.Tensor]) -> None:
        """Keeps a group of tensors, in the store's dtype."""
        device = None if self.options.cache == "device" else "cpu"
        tensors = {
            name: tensor.detach().to(device, self.options.dtype or tensor.dtype, copy=True).contiguous()
            for name, tensor in tensors.items()
        }
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{name} holds numbers that {tensor.dtype} cannot hold: keep the features in another dtype, such "
                    "as that of the model (dtype=None)"
                )
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self.options.cache == "disk" or self.num_bytes_in_memory + size > self.options.num_bytes:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="cvls-")
            path = _file(Path(self._folder.name), len(self))
            _write(tensors, path)
            self._groups.append(path)
        else:
            self.num_bytes_in_memory += size
            self._groups.append(tensors)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        group = self._groups[index]
        return _read(group) if isinstance(group, Path) else group

    def save(self, folder: Path) -> None:
        """Writes all groups into a folder, one at a time."""
        for index in range(len(self)):
            _write(self[index], _file(folder, index))

    @classmethod
    def load(cls, folder: Path, number: int, options: CacheOptions, device: torch.device) -> "FeatureStore":
        """The `number` groups of a saved store, in the dtype that they were saved in. With the cache "disk", and past
        the bound on the memory, they stay where they are.

        Raises:
            FileNotFoundError, ValueError: a file is missing or damaged.
        """
        store = cls(replace(options, dtype=None))  # as they were saved
        for index in range(number):
            path = _file(folder, index)
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing: the saved features are not complete")
            if options.cache == "disk" or store.num_bytes_in_memory + path.stat().st_size > options.num_bytes:
                store._groups.append(path)
            else:
                target = device if options.cache == "device" else "cpu"
                store.append({name: tensor.to(target) for name, tensor in _read(path).items()})
        return store

    def close(self) -> None:
        """Gives memory and temporary files back."""
        self._groups, self.num_bytes_in_memory = [], 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of the names, types, shapes and values of all weights; the same for a model and what `torch.compile` makes
    of it."""
    digest = hashlib.sha256()
    for name, entry in sorted(model.state_dict().items()):
        name = name.removeprefix("_orig_mod.")
        # a quantized layer keeps its weight and its bias together
        for value in entry if isinstance(entry, tuple) else (entry,):
            if not isinstance(value, torch.Tensor):
                digest.update(f"{name} {value}\n".encode())
                continue
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            value = value.dequantize() if value.is_quantized else value
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _file(folder: Path, index: int) -> Path:
    return folder / f"features-{index:06d}.safetensors"


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"features cannot be written to {path}: {error}") from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


__all__ = ["CacheOptions", "FeatureStore", "fingerprint"]
