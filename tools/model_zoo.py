r"""Write docs/model_zoo.md: the tables of all models that the metafiles list.

python tools/model_zoo.py
"""

import sys
from pathlib import Path

try:
    from mlp_backbones.analysis import complexity
    from mlp_backbones.apis.model_zoo import is_classifier
except ImportError as error:
    sys.exit(f'model_zoo.py: {error} (see docs/install.md)')
import torch
import yaml

from mlp_backbones.engine import launch
from mlp_backbones.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / 'docs' / 'model_zoo.md'
DETECTION_SIZE = (800, 1344)
MARK = '<!-- made by tools/model_zoo.py -->\n'


def collections() -> list[tuple[dict, list[dict]]]:
    """Each collection of the metafiles, with its models."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    found = []
    for path in index['Import']:
        content = yaml.safe_load((ROOT / path).read_text())
        for collection in content['Collections']:
            name = collection['Name']
            models = [m for m in content['Models'] if m['In Collection'] == name]
            found.append((collection, models))
    return found


def metrics(model: dict) -> dict[str, float]:
    return {k: v for result in model['Results'] for k, v in result['Metrics'].items()}


def link(address: str) -> str:
    """To a checkpoint, and how to get it."""
    how = 'Drive, by hand' if address.startswith('https://drive.google.com') else 'download'
    return f'[{how}]({address if "://" in address else f"../{address}"})'


def row(*cells: object) -> str:
    return f'| {" | ".join("-" if cell is None else str(cell) for cell in cells)} |'


def table(*columns: str) -> list[str]:
    return [row(*columns), '|' + '---|' * len(columns)]


def backbone_row(name: str, collection: dict, models: list[dict], arch: str) -> str:
    with torch.device('meta'):
        model = MODELS.get(name)(arch)
    params, macs = complexity.measure_backbone(model, DETECTION_SIZE)
    (weights,) = [m for m in models if is_classifier(m) and m['Metadata']['Architecture'] == arch]
    top1 = metrics(weights)['Top 1 Accuracy']
    cells = f'{params / 1e6:.1f} M', f'{macs / 1e9:.1f} G', top1, link(weights['Weights'])
    return row(f'`{name}`', f'`{arch}`', *cells, collection['License'])


def model_row(model: dict) -> str:
    path = model['Config']
    cfg = launch.load_config(str(ROOT / path))
    with torch.device('meta'):
        params = complexity.count_params(build(cfg))
    numbers = metrics(model)
    return row(
        f'[{model["Name"]}](../{path})',
        f'{params / 1e6:.1f} M',
        *(numbers.get(name) for name in ('box AP', 'mask AP', 'mIoU')),
        f'[source]({model["Converted From"]["Code"]})',
        link(model['Weights']),
    )


def build(cfg) -> torch.nn.Module:
    from mmengine.registry import MODELS as ROOT_MODELS
    from mmengine.registry import init_default_scope

    init_default_scope(cfg.default_scope)
    return ROOT_MODELS.build(cfg.model)


def tables() -> str:
    published = [(c, models) for c, models in collections() if 'Paper' in c]
    ours = [m for c, models in collections() if 'Paper' not in c for m in models]
    lines = ['## Backbones', '']
    lines += table(
        'backbone', 'arch', 'parameters', 'GMACs at 800 × 1344', 'ImageNet top-1, % (published)',
        'weights', 'licence'
    )  # fmt: skip
    for collection, models in published:
        archs = [m['Metadata']['Architecture'] for m in models if is_classifier(m)]
        name = collection['Name']
        lines += [backbone_row(name, collection, models, arch) for arch in archs]
    lines += ['', '## Detectors and segmentors', '']
    lines += table(
        'name and config', 'parameters', 'box AP (published)', 'mask AP (published)',
        'mIoU (published)', 'read at', 'checkpoint'
    )  # fmt: skip
    for _, models in published:
        lines += [model_row(m) for m in models if not is_classifier(m)]
    lines += [
        '',
        '## Small backbones of this project',
        '',
        'Measured: see [weights.md](weights.md).',
        '',
    ]
    lines += table('name', 'parameters', 'Tiny ImageNet top-1, % (measured)', 'weights')
    for m in ours:
        params = f'{m["Metadata"]["Parameters"] / 1e6:.2f} M'
        lines.append(row(m['Name'], params, metrics(m)['Top 1 Accuracy'], link(m['Weights'])))
    return '\n'.join(lines) + '\n'


def document(text: str) -> str:
    """``text`` with today's tables below its mark."""
    return text[: text.index(MARK) + len(MARK)] + '\n' + tables()


if __name__ == '__main__':
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
