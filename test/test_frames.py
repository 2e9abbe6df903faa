"""What the readers of whole frames share: cameras that do not fit a picture."""

import numpy as np
import pytest

from mmcl_core.data.frames import camera_fits
from mmcl_core.errors import DataError


@pytest.mark.parametrize(("cx", "cy"), [(5, 30), (75, 30), (40, 5), (40, 58), (320, 240)])
def test_a_camera_whose_centre_is_at_the_edge_is_of_another_size(cx, cy):
    picture = np.zeros((60, 80, 3), np.uint8)
    camera_fits((100.0, 100.0, 41.0, 28.0), picture)
    camera_fits(None, picture)
    with pytest.raises(DataError, match="80 x 60"):
        camera_fits((100.0, 100.0, cx, cy), picture)
