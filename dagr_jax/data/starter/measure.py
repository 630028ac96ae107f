"""Full-reference measures of a delivered file, with FFmpeg's libvmaf.

PyAV's FFmpeg has no libvmaf. The wheel imageio-ffmpeg carries a program that has it; it is GPL, a
tool to make the corpus with, and no dependency of this package.
"""

import importlib.util
import json
import subprocess
import tempfile
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from dagr_jax.runtime.errors import DagrError

# Measure → model of libvmaf. 3d0h and 5d0h: viewed from 3 and 5 times the height of the picture.
_MODELS = {
    "vmaf_0": "vmaf_v0.6.1",
    "vmaf_3": "vmaf_v1.0.16_3d0h",
    "vmaf_5": "vmaf_v1.0.16_5d0h",
}
# Measure → name in the log of libvmaf.
_FEATURES = {
    "ssim": "float_ssim",
    "vif": "integer_vif_scale0",
    "vif_1": "integer_vif_scale1",
    "vif_2": "integer_vif_scale2",
    "vif_3": "integer_vif_scale3",
    "adm": "integer_adm2",
}
# At half the size, the picture is seen from twice the distance. This still orders what was
# delivered at a fraction of the size, for which all models give 0 at full size.
HALF = "vmaf_half"
# Smallest shorter side in pixels at which two files are compared.
_LEAST = 540
NAMES = (*_MODELS, *_FEATURES, HALF)


def tool() -> str:
    """Returns the path of a program ffmpeg with libvmaf.

    Raises:
        DagrError: The wheel imageio-ffmpeg is not installed.
    """
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise DagrError(
            "labels of the starter corpus need an ffmpeg with libvmaf; "
            "pip install 'imageio-ffmpeg>=0.8.1'"
        )
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def write_reference(path: Path, frames: np.ndarray, fps: int) -> None:
    """Writes the frames of a scene without loss, as 4:2:0 like all deliveries.

    Args:
        path: File to write, a .mkv.
        frames: (T, H, W, 3) uint8 RGB.
        fps: Frames per second.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps, options={"threads": "1"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def measure(delivered: Path, reference: Path, size: tuple[int, int]) -> dict[str, float]:
    """Measures a delivered file, enlarged to the size of the scene, against the scene.

    Args:
        delivered: The delivered file, with as many frames as the scene.
        reference: The file that `write_reference` wrote.
        size: (height, width) of the scene in pixels.

    Returns:
        {measure: mean over the frames} of all `NAMES`. VMAF is in [0, 100], the others in [0, 1].

    Raises:
        DagrError: There is no tool, or it fails.
    """
    # Small scenes are enlarged, as viewers do; the models of version 1 need a certain size, too.
    factor = -(-_LEAST // min(size))
    size = (size[0] * factor, size[1] * factor)
    models = "|".join(f"version={model}\\:name={name}" for name, model in _MODELS.items())
    full = _run(delivered, reference, size, models, "name=float_ssim")
    height, width = size
    halved = (max(height // 4 * 2, 2), max(width // 4 * 2, 2))
    model = f"version={_MODELS['vmaf_3']}\\:name={HALF}"
    half = _run(delivered, reference, halved, model, "")
    found = {name: full[name] for name in _MODELS}
    if missing := [feature for feature in _FEATURES.values() if feature not in full]:
        raise DagrError(
            delivered, f"libvmaf gave no {missing[0]}", "install a newer imageio-ffmpeg"
        )
    found |= {name: full[feature] for name, feature in _FEATURES.items()}
    return {**found, HALF: half[HALF]}


def _run(
    delivered: Path, reference: Path, size: tuple[int, int], models: str, features: str
) -> dict[str, float]:
    """Runs libvmaf with both files at a size; returns the mean of each value of its log."""
    scale = f"scale={size[1]}:{size[0]}:flags=bicubic,settb=1/25,setpts=N"
    chosen = f":feature='{features}'" if features else ""
    graph = (
        f"[0:v]{scale}[d];[1:v]{scale}[r];"
        f"[d][r]libvmaf=model='{models}'{chosen}:log_fmt=json:log_path=log.json:n_threads=1"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [tool(), "-v", "error", "-nostdin", "-threads", "1"]
        for path in (delivered, reference):
            command += ["-i", f"file:{path.resolve()}"]
        command += ["-lavfi", graph, "-f", "null", "-"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        log = Path(folder) / "log.json"
        if done.returncode or not log.is_file():
            said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise DagrError(delivered, f"libvmaf failed ({said})", "install a newer imageio-ffmpeg")
        pooled = json.loads(log.read_text())["pooled_metrics"]
    return {name: float(value["mean"]) for name, value in pooled.items()}
