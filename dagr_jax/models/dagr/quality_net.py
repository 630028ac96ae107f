"""The quality network: fused frames → score (docs/reference.md, section 3).

At the size of the paper, it has 67,096,385 parameters with the full head, 28,261,953 with the
spatial head, and 9,231,105 with the temporal head (with one attention head).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.layers.attention import TemporalTransformer
from dagr_jax.layers.linear import Linear
from dagr_jax.layers.resnet import ResNet, torch_stage_sizes
from dagr_jax.layers.resnet import torch_layers as resnet_layers
from dagr_jax.layers.torch_names import Arrays, Layer, numbers, size
from dagr_jax.models.dagr.layout import check_preset, frame_layout
from dagr_jax.runtime.errors import DagrError

HEADS = ("full", "spatial", "temporal", "transformer")

# Channel statistics of ImageNet in [0, 1], used in the training of ImageNet backbones.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

# Head → PyTorch's name of its linear layer. The full head must come first, because the published
# full model of the release also contains the layer of the temporal head.
_PROJECTORS = {
    "full": "combined_projector",
    "spatial": "spatial_projector",
    "temporal": "temporal_analyzer.proj",
}
TORCH_KEYS = tuple(f"{name}." for name in _PROJECTORS.values())
_ENCODER = "temporal_analyzer.transformer_encoder.layers"
# The ResNet of the release is a Sequential of torchvision's children: 2 is the ReLU, 3 the pooling.
_BACKBONE = "spatial_analyzer.features"
_CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


class Regressor(nn.Module):
    """Linear, ReLU and Dropout for each hidden width, then Linear to 1: (B, D) → (B,), float32.

    Attributes:
        hidden: Widths of the hidden layers.
        dropout: Dropout rate.
    """

    hidden: Sequence[int]
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], *, train: bool) -> Float[Array, " b"]:
        for i, features in enumerate((*self.hidden, 1)):
            if i:
                x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
            x = Linear(
                features,
                kernel_init=nn.initializers.xavier_uniform(),
                bias_init=nn.initializers.zeros,
                name=f"linear{i}",
            )(x)
        return x[:, 0]


class Model(nn.Module):
    """The quality network with one of four heads.

    Attributes:
        head: 'full' combines the spatial and the temporal branch. 'spatial' averages the features
            of the ResNet over time. 'temporal' is the temporal-only network of the release, which
            sees only the mean colour of each frame. 'transformer' is the temporal branch of the
            full head alone: the features of the ResNet, the transformer, y_t. The release has no
            such network.
        stage_sizes: Number of blocks of each stage of the ResNet.
        width: Number of stem channels of the ResNet. Four stages give 32·width features.
        num_layers: Number of layers of the transformer.
        num_heads: Number of attention heads of the transformer. The temporal head of the release
            has one.
        mlp_dim: Hidden width of the MLPs of the transformer.
        projection_dim: Channels of the linear layer before the regressor (all heads but
            'temporal').
        temporal_dim: Channels of the transformer of the head 'temporal'.
        regressor: Widths of the hidden layers of the regressor.
        dropout: Dropout rate of the transformer and the regressor.
        preset: 'paper' or 'release' (see `layout.frame_layout`).
        normalize: Whether to subtract the ImageNet mean and divide by the ImageNet standard
            deviation first, for backbones that start from ImageNet weights.
        stem_init: Initialisation of the stem of the ResNet, 'kaiming' or 'gabor'.
        dtype: Compute type of ResNet and transformer. Parameters, norms, softmax, projection and
            regressor are float32 (a bfloat16 score would cause ties).
    """

    head: str = "full"
    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    num_layers: int = 2
    num_heads: int = 4
    mlp_dim: int = 128
    projection_dim: int = 2048
    temporal_dim: int = 1024
    regressor: Sequence[int] = (256, 128)
    dropout: float = 0.3
    preset: str = "paper"
    normalize: bool = False
    stem_init: str = "kaiming"
    dtype: Any = "float32"

    def setup(self) -> None:
        check_preset(self.preset)
        if self.head not in HEADS:
            raise DagrError(f"head {self.head!r} is unknown; use one of {', '.join(HEADS)}")
        if self.head == "temporal":
            self.projector = Linear(self.temporal_dim)
        else:
            self.resnet = ResNet(self.stage_sizes, self.width, self.dtype, self.stem_init)
            self.projector = Linear(self.projection_dim)
        if self.head != "spatial":
            self.temporal = TemporalTransformer(
                self.num_layers, self.num_heads, self.mlp_dim, self.dropout, self.dtype
            )
        self.regress = Regressor(self.regressor, self.dropout)

    def frame_features(
        self, fused: Float[Array | np.ndarray, "b t h w 3"], *, train: bool = False
    ) -> Float[Array, "b t d"]:
        """Computes the features of each frame.

        Args:
            fused: (B, T, H, W, 3) frames fused with saliency, in [0, 1].
            train: Whether BatchNorm uses batch statistics ('batch_stats' must then be mutable).

        Returns:
            (B, T, D) float32. D = 32·width with four stages: the ResNet features, averaged over the
            frame. With head 'temporal', D = 3: the mean colour of the frame.
        """
        fused = jnp.asarray(fused)
        if self.normalize:
            fused = (fused - IMAGENET_MEAN) / IMAGENET_STD
        if self.head == "temporal":
            return fused.mean(axis=(2, 3))
        b, t = fused.shape[:2]
        frames = frame_layout(fused, self.preset).reshape(b * t, *fused.shape[2:])
        maps = self.resnet(frames, train=train)  # (B*T, h, w, D)
        return maps.astype(jnp.result_type(float)).mean(axis=(1, 2)).reshape(b, t, -1)

    def __call__(
        self, fused: Float[Array | np.ndarray, "b t h w 3"], *, train: bool = False
    ) -> Float[Array, " b"]:
        """Scores videos.

        Args:
            fused: (B, T, H, W, 3) frames fused with saliency (`dagr.fuse`), in [0, 1].
            train: Whether dropout is on (rng 'dropout') and BatchNorm uses batch statistics
                ('batch_stats' must then be mutable).

        Returns:
            (B,) float32 scores, on the [0, 1] scale of the training targets, not clipped.
        """
        features = self.frame_features(fused, train=train)
        if self.head == "temporal":
            x = self.temporal(self.projector(features), train=train)
        elif self.head == "spatial":
            x = self.projector(features.mean(axis=1))
        elif self.head == "transformer":
            x = self.projector(self.temporal(features, train=train))
        else:
            both = [features.mean(axis=1), self.temporal(features, train=train)]
            x = self.projector(jnp.concatenate(both, axis=-1))  # (B, projection_dim)
        return self.regress(x, train=train)


def of_torch(arrays: Arrays) -> Model:
    """Returns the model, with preset 'release', that has the sizes of a PyTorch state_dict.

    The number of attention heads cannot be read from the arrays. It is that of the release: 4 in
    the full network and 1 in the temporal-only network.
    """
    head = next(
        head
        for head, name in _PROJECTORS.items()
        if any(key.startswith(f"{name}.") for key in arrays)
    )
    paper = Model()
    stages = torch_stage_sizes(arrays, re.escape(f"{_BACKBONE}."), _CHILDREN["layer1"])
    layers = 1 + max(numbers(arrays, re.escape(_ENCODER) + r"\.(\d+)\."), default=-1)
    projection = size(arrays, f"{_PROJECTORS[head]}.weight", 0, paper.projection_dim)
    return Model(
        head=head,
        stage_sizes=stages[:4] or paper.stage_sizes,
        width=size(arrays, f"{_BACKBONE}.0.weight", 0, paper.width),
        num_layers=layers or paper.num_layers,
        num_heads=1 if head == "temporal" else paper.num_heads,
        mlp_dim=size(arrays, f"{_ENCODER}.0.linear1.weight", 0, paper.mlp_dim),
        projection_dim=projection,
        temporal_dim=projection,
        regressor=tuple(
            size(arrays, f"regressor.regressor.{3 * i}.weight", 0, width)
            for i, width in enumerate(paper.regressor)
        ),
        preset="release",
    )


def torch_layers(model: Model) -> Iterator[Layer]:
    """Yields the PyTorch layers of a model (see `torch_names`).

    Raises:
        DagrError: The release has no network with this head.
    """
    if model.head not in _PROJECTORS:
        raise DagrError(
            f"a quality net with the head {model.head!r} has no counterpart in the PyTorch "
            f"release, whose heads are {', '.join(_PROJECTORS)}"
        )
    if model.head != "temporal":
        for name, path, kind in resnet_layers(model.stage_sizes):
            child, dot, rest = name.partition(".")
            yield f"{_BACKBONE}.{_CHILDREN[child]}{dot}{rest}", f"resnet/{path}", kind
    if model.head != "spatial":
        for i in range(model.num_layers):
            here, there = f"{_ENCODER}.{i}", f"temporal/layer{i}"
            yield f"{here}.self_attn.in_proj", f"{there}/self_attn/in_proj", "in_proj"
            yield f"{here}.self_attn.out_proj", f"{there}/self_attn/out_proj", "linear"
            for name in ("linear1", "linear2"):
                yield f"{here}.{name}", f"{there}/{name}", "linear"
            for name in ("norm1", "norm2"):
                yield f"{here}.{name}", f"{there}/{name}", "layernorm"
    yield _PROJECTORS[model.head], "projector", "linear"
    # Between two linear layers of the regressor, there are a ReLU and a dropout.
    for i in range(len(model.regressor) + 1):
        yield f"regressor.regressor.{3 * i}", f"regress/linear{i}", "linear"


def describe(model: Model) -> str:
    """Describes the network in words, for messages."""
    return f"the quality net with the head {model.head!r}"
