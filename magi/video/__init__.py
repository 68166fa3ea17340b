"""Video files and frame folders <-> uint8 arrays of shape (T, H, W, 3), RGB.

Knows containers, codecs, time stamps and pictures; knows nothing of clips, batches or pixels in [-1, 1].
"""

from magi.video.frames import Frames, fit, resize, tile
from magi.video.isolated import IsolatedReader, IsolatedVideo
from magi.video.reading import (
    VIDEO_SUFFIXES,
    DecodedVideo,
    ReadableVideo,
    Video,
    VideoInfo,
    decode_video,
    find_videos,
    probe,
    read_video,
)
from magi.video.seeking import SoughtVideo, open_video
from magi.video.timing import clip_indices, nominal_period, ticks
from magi.video.untrusted import BadVideo
from magi.video.writing import Quality, VideoWriter, write_gif, write_video

__all__ = [
    "VIDEO_SUFFIXES",
    "BadVideo",
    "DecodedVideo",
    "Frames",
    "IsolatedReader",
    "IsolatedVideo",
    "Quality",
    "ReadableVideo",
    "SoughtVideo",
    "Video",
    "VideoInfo",
    "VideoWriter",
    "clip_indices",
    "decode_video",
    "find_videos",
    "fit",
    "nominal_period",
    "open_video",
    "probe",
    "read_video",
    "resize",
    "ticks",
    "tile",
    "write_gif",
    "write_video",
]
