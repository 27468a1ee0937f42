"""Stand-in for `torchvision.io`."""

from enum import Enum

from sgl_indexcache.stand_ins.missing import missing


class ImageReadMode(Enum):
    """The modes and values of the real one; transformers names them in default arguments."""

    UNCHANGED = 0
    GRAY = 1
    GRAY_ALPHA = 2
    RGB = 3
    RGB_ALPHA = 4


decode_image = missing(__name__, "decode_image")
decode_jpeg = missing(__name__, "decode_jpeg")
read_image = missing(__name__, "read_image")
read_video = missing(__name__, "read_video")
