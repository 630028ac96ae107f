"""How the stored pictures of a file are shown: turned, mirrored, cropped, as RGB."""

import dataclasses

import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

from dagr_jax.video.matroska import Crop

# FFmpeg's names of the matrices from YUV to RGB (AVColorSpace).
COLOR_SPACES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
    15: "ipt-c2",
    16: "ycgco-re",
    17: "ycgco-ro",
}
# Matrices that FFmpeg's converter (swscale) has, with 2: not said. It refuses all others.
_CONVERTED = frozenset({0, 1, 2, 4, 5, 6, 7, 9})


@dataclasses.dataclass(frozen=True)
class Display:
    """How all frames of a file are shown. It is that of the first frame.

    Later frames do not change it: in some files only key frames say how to turn a picture, and a
    video of turned and upright pictures is never meant.

    Attributes:
        swap: Whether rows and columns are exchanged, before the picture is mirrored.
        flip_x: Whether left and right are exchanged.
        flip_y: Whether top and bottom are exchanged.
        crop: Edges of the stored pictures that are not shown.
    """

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False
    crop: Crop = Crop()

    @classmethod
    def of(cls, frame: VideoFrame, crop: Crop) -> "Display":
        """Returns how a frame is shown, and the frames after it.

        Args:
            frame: First frame of a file.
            crop: Crop of the file; it is ignored if it leaves nothing of the frame.
        """
        if crop.top + crop.bottom >= frame.height or crop.left + crop.right >= frame.width:
            crop = Crop()
        return cls(*_orientation(frame), crop)

    @property
    def rotation(self) -> int:
        """Clockwise rotation of the stored pictures in degrees, ignoring mirroring."""
        if self.swap:
            return 270 if self.flip_y else 90
        return 180 if self.flip_y else 0

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """Returns (height, width) of a frame as it is shown."""
        height = frame.height - self.crop.top - self.crop.bottom
        width = frame.width - self.crop.left - self.crop.right
        return (width, height) if self.swap else (height, width)

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """Converts a frame, (height, width, 3) uint8 RGB as it is shown."""
        if unconverted(frame):
            frame.colorspace = 2  # not said
        # swscale's default path, without ACCURATE_RND, as in OpenCV and decord, and thus in the
        # release.
        converted = frame.reformat(format="rgb24", dst_color_range=ColorRange.JPEG, threads=1)
        rgb = converted.to_ndarray()
        top, bottom, left, right = self.crop
        if top + bottom >= len(rgb) or left + right >= rgb.shape[1]:  # a later, smaller frame
            top = bottom = left = right = 0
        rgb = rgb[top : len(rgb) - bottom, left : rgb.shape[1] - right]
        if self.swap:
            rgb = rgb.transpose(1, 0, 2)
        rgb = rgb[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]
        return np.ascontiguousarray(rgb)


# (swap, flip x, flip y) by quarter turns counter-clockwise, the sense of PyAV's `rotation`.
_TURNED = (
    (False, False, False),
    (True, False, True),
    (False, True, True),
    (True, True, False),
)


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Reads the display matrix of a frame: (swap axes, then flip x, then flip y).

    FFmpeg's matrix (libavutil/display.h) maps a stored (x, y) to (a x + c y, b x + d y). Other
    angles, which no camera writes, are rounded to the nearest quarter turn.
    """
    try:
        # Not frame.side_data: it creates a reference cycle between frame and container, and
        # hundreds of frames would stay in memory until the cyclic garbage collector runs.
        data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # PyAV stops at a kind of data that it has no name for, such as Exif
        return _TURNED[round(frame.rotation / 90) % 4]
    if not isinstance(data, SideData):
        return _TURNED[0]
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(data), "=i4")[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def unconverted(frame: VideoFrame) -> bool:
    """Returns whether a frame has a matrix that the converter lacks. It is shown as if untagged."""
    return int(frame.colorspace) not in _CONVERTED
