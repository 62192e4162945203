"""Predictions for images, videos and very large images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config

from .inference import init_model

if TYPE_CHECKING:
    from ..predictions.run import Predicted


def predict(
    checkpoint: str,
    inputs: str | Path | Sequence[str | Path],
    config: str | Path | Config | None = None,
    *,
    out: str | Path,
    score: float = 0.3,
    tiles: int | None = None,
    overlap: float = 0.2,
    img_dir: str | Path | None = None,
    device: str | None = None,
    cfg_options: dict | None = None,
    progress: bool = False,
) -> Predicted:
    """Predict images and videos with a detector or a segmentor, and write the results.

    ``out`` gets ``pictures/`` and ``videos/``, named after the inputs; of a detector
    ``predictions.json``, COCO results, and ``images.json``, the images and categories of its ids;
    of a segmentor ``label_maps/``, PNG files of one channel with the number of the class. A call
    with the same ``out`` goes on where an earlier one was stopped. Files that cannot be read are
    skipped, and named in what is returned.

    Args:
        checkpoint, config, device, cfg_options: as of :func:`init_model`.
        inputs: One or more images, videos, folders with either, and patterns, or one COCO file,
            whose ids the results then have.
        out: The folder of the results.
        score: What a detection must have at least, from 0 to 1, to be drawn and written.
        tiles: For very large images: look at tiles of this many pixels, too. Of a detector, the
            parts of one object are merged, and objects larger than a tile are found in the whole
            image; a segmentor sees tiles only.
        overlap: How much of a tile the next one covers again, from 0 to below 1.
        img_dir: Where the images of a COCO file are. Default: beside it, or in a folder of a
            usual name.
        progress: Whether to show how far it is, and how long it will take.

    Raises:
        FileNotFoundError: there is no such input, checkpoint or config, or a folder without
            images.
        ValueError: a number out of its range, inputs that cannot be told apart, an ``out`` with
            the results of something else, or a COCO file without a class of the model.
        ImportError: supervision, or for videos PyAV, is not installed.
        CheckpointError: as of :func:`init_model`.

    Example:
        >>> done = predict('work_dirs/demo/epoch_12.pth', 'images/', out='predictions')
        >>> print(done.text())
    """
    if not 0 <= score <= 1:
        raise ValueError(f'score={score} must be from 0 to 1')
    if tiles is not None and tiles < 32:
        raise ValueError(f'tiles={tiles} must be 32 pixels or more')
    if not 0 <= overlap < 1:
        raise ValueError(f'overlap={overlap} must be from 0 to below 1')
    require_extra('supervision', 'predictions')
    from ..predictions.inputs import find_inputs
    from ..predictions.run import Writer, run, settings_of

    if Path(out).is_file():
        raise ValueError(f'out={out} is a file; give a folder')
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    out = Path(out)
    found = find_inputs(given, out, img_dir)
    if any(x.is_video for x in found.files):
        require_extra('av', 'videos')
    model = init_model(str(checkpoint), config, device, cfg_options)
    writer = Writer(model, out, score, tiles, overlap)
    coco = str(Path(given[0]).absolute()) if found.files[0].id is not None else None
    settings = settings_of(
        str(checkpoint), model.cfg, coco, score=score, tiles=tiles, overlap=overlap
    )
    return run(writer, found, settings, progress)


def require_extra(module: str, what: str) -> None:
    """Raise ImportError if a package of the extra "predict" is not installed."""
    if find_spec(module) is None:
        raise ImportError(f'{what} need {module}, which is not installed: pip install {module}')
