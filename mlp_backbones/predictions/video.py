"""Videos, read and written by PyAV: H.264, which every browser plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

QUALITY = {'crf': '20'}


def count_frames(path: Path) -> int:
    """How many frames a video says that it has; 1 if it does not say, or cannot be read."""
    import av

    try:
        with av.open(str(path)) as video:
            return max(1, video.streams.video[0].frames)
    except (av.error.FFmpegError, IndexError):
        return 1


def map_video(path: Path, target: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write a video with every frame (H, W, 3), BGR, changed; it has no sound.

    Raises:
        ValueError: the video, or a part of it, cannot be read.
    """
    import av

    written = 0
    try:
        with av.open(str(path)) as source:
            if not source.streams.video:
                raise ValueError(f'{path} has no pictures')
            stream = source.streams.video[0]
            with av.open(target, 'w', format='mp4') as sink:
                rate = stream.average_rate or stream.guessed_rate or 25
                output = sink.add_stream('libx264', rate=rate, options=QUALITY)
                output.pix_fmt = 'yuv420p'
                for frame in source.decode(stream):
                    pixels = np.rot90(frame.to_ndarray(format='bgr24'), frame.rotation // 90)
                    picture = _even(change(np.ascontiguousarray(pixels)))
                    if not written:
                        output.height, output.width = picture.shape[:2]
                    sink.mux(output.encode(av.VideoFrame.from_ndarray(picture, format='bgr24')))
                    written += 1
                if written:
                    sink.mux(output.encode())
            promised = stream.frames
    except av.error.FFmpegError as error:
        at = f' after {written} frames' if written else ''
        raise ValueError(f'{path} cannot be read{at}: {error.strerror}') from error
    if not written:
        raise ValueError(f'{path} has no frames')
    if written < promised:
        raise ValueError(f'{path} is cut off: {written} of its {promised} frames can be read')


def _even(picture: np.ndarray) -> np.ndarray:
    """H.264 has colours for every second pixel: repeat the last row or column."""
    odd = [(0, side % 2) for side in picture.shape[:2]]
    return np.pad(picture, [*odd, (0, 0)], mode='edge') if any(map(any, odd)) else picture
