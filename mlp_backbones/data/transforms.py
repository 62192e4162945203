"""What the label maps of a folder need beyond mmseg's own transforms."""

from __future__ import annotations

from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class SetLabelMap(BaseTransform):
    """Tells mmseg's LoadAnnotations, which comes later, to give some labels other numbers.

    mmseg has this for its own data sets, whose classes are known to their classes.

    Adds the key ``label_map``.

    Args:
        changes: [label of the file, number of its class] for each of those that differ; 255 for
            one that losses and metrics ignore.
    """

    def __init__(self, changes: list[list[int]]):
        self.label_map = {old: new for old, new in changes}

    def transform(self, results: dict) -> dict:
        results['label_map'] = self.label_map
        return results
