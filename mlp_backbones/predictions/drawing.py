"""Pictures of predictions, drawn by supervision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import supervision as sv


def palette_of(meta: dict, count: int) -> sv.ColorPalette:
    """The colours of the data set, or supervision's where it has none for each class."""
    colours = meta.get('palette')
    if not isinstance(colours, (list, tuple)) or len(colours) < count:
        return sv.ColorPalette.DEFAULT
    return sv.ColorPalette([sv.Color(*map(int, colour)) for colour in colours])


def draw_detections(
    image: np.ndarray,
    detections: sv.Detections,
    classes: Sequence[str],
    palette: sv.ColorPalette,
) -> np.ndarray:
    """A copy of an image (H, W, 3), BGR, with masks, boxes, names of classes and scores."""
    size = image.shape[1::-1]
    thickness = sv.calculate_optimal_line_thickness(size)
    labels = [classes[i] for i in detections.class_id]
    if detections.confidence is not None:
        labels = [f'{x} {s:.2f}' for x, s in zip(labels, detections.confidence, strict=True)]
    picture = image.copy()
    if detections.mask is not None:
        picture = sv.MaskAnnotator(palette, opacity=0.4).annotate(picture, detections)
    picture = sv.BoxAnnotator(palette, thickness=thickness).annotate(picture, detections)
    return _texts(palette, size).annotate(picture, detections, labels)


def draw_label_map(
    image: np.ndarray, labels: np.ndarray, classes: Sequence[str], palette: sv.ColorPalette
) -> np.ndarray:
    """A copy of an image (H, W, 3), BGR, with its label map (H, W) and the names of classes.

    Labels that are no class, such as 255, are left as they are.
    """
    present = [i for i in np.unique(labels) if i < len(classes)]
    if not present:
        return image.copy()
    masks = np.stack([labels == i for i in present])
    regions = sv.Detections(sv.mask_to_xyxy(masks), masks, class_id=np.array(present, int))
    picture = sv.MaskAnnotator(palette, opacity=0.5).annotate(image.copy(), regions)
    texts = _texts(palette, image.shape[1::-1], sv.Position.CENTER_OF_MASS)
    return texts.annotate(picture, regions, [classes[i] for i in present])


def _texts(
    palette: sv.ColorPalette,
    size: tuple[int, int],
    position: sv.Position = sv.Position.TOP_LEFT,
) -> sv.LabelAnnotator:
    """Black letters on light colours, white ones on dark, none of them outside the image."""
    is_light = [0.3 * c.r + 0.59 * c.g + 0.11 * c.b > 110 for c in palette.colors]
    return sv.LabelAnnotator(
        palette,
        text_color=sv.ColorPalette([sv.Color.BLACK if x else sv.Color.WHITE for x in is_light]),
        text_scale=max(0.35, sv.calculate_optimal_text_scale(size) * 0.6),
        text_padding=2,
        text_position=position,
        smart_position=True,
    )
