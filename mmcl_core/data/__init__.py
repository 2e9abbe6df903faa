"""Prepared sets of RGB-D crops on disk, batches of them, and the data sets they are made from."""

#: Modules of this package that read a kind of source, see :mod:`mmcl_core.data.sources`.
DATA_SETS = (
    "coco",
    "falling_things",
    "folder",
    "nyud",
    "scenenet",
    "sunrgbd",
    "washington",
    "ycb_video",
)
