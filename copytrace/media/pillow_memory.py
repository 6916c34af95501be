"""The pixels of Pillow's RGB images, copied once, where `numpy.asarray` makes pieces of them, joins and copies these.

Pillow lends an image's memory by the Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html),
whose structure does not change, so that neither needs to know of the other's library.
"""

from __future__ import annotations

import ctypes

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

_CHANNELS = 4  # bytes of a pixel in Pillow's memory: red, green, blue, and one that is not used
_READ_ONLY = 0x100  # PyBUF_READ


class _ArrowArray(ctypes.Structure):
    """The structure of the same name."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    *((name, ctypes.c_void_p) for name in ("dictionary", "release", "private_data")),
]

_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_view_of = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)


def pixels_of_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image of mode RGB as uint8 [H, W, 3]; load them if that has not been done."""
    image.load()
    try:
        _, capsule = image.__arrow_c_array__()
    except ValueError:  # it is so large that Pillow holds it in several pieces
        return np.asarray(image)
    array = _ArrowArray.from_address(_pointer_of(capsule, b"arrow_array"))
    values = array.children[0].contents if array.n_children == 1 else array
    width, height = image.size
    if values.length != width * height * _CHANNELS or values.offset or values.n_buffers != 2:
        return np.asarray(image)
    view = _view_of(values.buffers[1], values.length, _READ_ONLY)
    lent = np.frombuffer(view, np.uint8).reshape(height, width, _CHANNELS)
    return np.asarray(cv2.cvtColor(lent, cv2.COLOR_RGBA2RGB), np.uint8)  # a copy: `capsule` keeps the memory until here
