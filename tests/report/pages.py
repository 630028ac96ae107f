"""What is in a page: its data, its pictures, its maps."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image

EVIL = "<img src=x onerror=alert(1)>.mp4"


def data_of(path):
    """Returns the data block of a page."""
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    return json.loads(block[1])


def picture(url):
    """Returns the pixels of a data URL."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def tile(maps, number):
    """One map of a sheet, in [0, 1]."""
    height, width = maps["height"], maps["width"]
    top, left = number // maps["columns"] * height, number % maps["columns"] * width
    return picture(maps["sheet"])[top : top + height, left : left + width] / 255
