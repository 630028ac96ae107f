"""Scoring of a clip in plain PyTorch, with which `dagr bench cold` compares `dagr score`.

`python -m dagr_jax.bench.torch_score FOLDER CLIP` prints the score of a clip, computed with the
networks that `write` wrote to the folder.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from dagr_jax.bench import twin
from dagr_jax.bench.table4 import read_plainly, torch_scorer
from dagr_jax.models import dagr
from dagr_jax.models.dagr import quality_net, unet3d


def write(
    folder: Path, args: dict[str, Any], nets: tuple[Any, Any], clip: tuple[int, int, int, int]
) -> None:
    """Writes the networks and the settings for `main`.

    Args:
        folder: Output folder.
        args: Fields of `dagr.Model`.
        nets: Saliency and quality network in PyTorch.
        clip: (frames, sampled frames, height, width) of the clip.
    """
    for name, net in zip(("saliency", "vqa"), nets, strict=True):
        torch.save(net.state_dict(), folder / f"{name}.pth")
    (folder / "args.json").write_text(json.dumps({"model": args, "clip": clip}))


def main(folder: Path, clip: Path) -> float:
    """Scores a clip.

    Args:
        folder: Folder that `write` filled.
        clip: Video file.
    """
    told = json.loads((folder / "args.json").read_text())
    model = dagr.Model(**told["model"])
    nets = []
    for name, net in (("saliency", model.saliency), ("vqa", model.vqa)):
        assert isinstance(net, (unet3d.Model, quality_net.Model))
        module = twin.twin_of(net)
        module.load_state_dict(torch.load(folder / f"{name}.pth", weights_only=True))
        nets.append(module.eval())
    length, count, height, width = told["clip"]
    frames = read_plainly(clip, length, count, (height, width))
    saliency, quality = nets
    return torch_scorer(saliency, quality, model.alpha, "cpu", half=False)(frames)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))
