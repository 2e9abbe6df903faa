"""Video in the place of pictures, as hardware encoders publish it: said as it is, not taken for damage."""

from types import SimpleNamespace

import pytest

from mmcl_core.errors import InputError
from mmcl_ros.images import decode_depth, decode_rgb


@pytest.mark.parametrize("decode", [decode_rgb, decode_depth])
@pytest.mark.parametrize("coding", ["h264", "H265", "bgr8; hevc", "av1"])
def test_video_is_told_apart_from_damaged_pictures(decode, coding):
    message = SimpleNamespace(format=coding, data=b"\0\0\0\1\x65")
    with pytest.raises(InputError, match=f"format '{coding}' is video") as told:
        decode(message)
    assert "corrupt" not in str(told.value)
