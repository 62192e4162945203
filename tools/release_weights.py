r"""Put the weights of a finished pre-training into weights/, in half precision.

    python tools/release_weights.py work_dirs/shift_gmlp_nano_tiny_imagenet

Writes weights/<name of the config>.safetensors, backbone and classifier, with the metrics of the
log, and its entry in weights/metafile.yml. See docs/weights.md.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

try:
    from mlp_backbones.checkpoints.own_weights import digest
except ImportError as error:
    sys.exit(f'release_weights.py: {error} (see docs/install.md)')
import torch
import yaml
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import find_latest_checkpoint

from mlp_backbones.checkpoints import read_checkpoint, refuse_not_finite, write_weights
from mlp_backbones.engine import launch

ROOT = Path(__file__).resolve().parents[1]
METAFILE = ROOT / 'weights' / 'metafile.yml'
IMAGES = ROOT / 'tests' / 'images'  # validation images, <label>_<name>.JPEG
LICENCE = (
    'Trained on images of ImageNet, which are for non-commercial research and education. '
    'This project claims no rights in the weights.'
)
COLLECTION = dict(Name='Classifiers of Tiny ImageNet', README='docs/weights.md', License=LICENCE)


def read_log(work_dir: Path) -> list[dict]:
    """What mmengine logged, of all runs that went on from one another."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def hours(rows: list[dict], iterations: int) -> float:
    """By the median iteration, which does not count what else ran for a while."""
    return median(row['time'] for row in rows if 'loss' in row) * iterations / 3600


# What says where a training ran, and not what it did.
PLACES = ('work_dir', 'launcher', 'resume', 'data_root')


def settings(value, key: str = '') -> dict:
    """The leaves of a config, by the names that ``--cfg-options`` has for them."""
    if not isinstance(value, dict | list | tuple) or not value:
        return {key: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = [settings(item, f'{key}.{name}' if key else str(name)) for name, item in items]
    return {name: leaf for part in parts for name, leaf in part.items()}


def command(path: str, used: Config) -> str:
    """The command that repeats a training: with the settings that ``used``, the config in its
    work dir, has and that of ``path`` has not.
    """
    mine = settings(launch.load_config(path).to_dict())
    changed = [
        f'{name}={value}'
        for name, value in settings(used.to_dict()).items()
        if name.rpartition('.')[2] not in PLACES and mine.get(name) != value
    ]
    options = ['--cfg-options', *changed] if changed else []
    return ' '.join(['python tools/train.py', path, *options])


def build(cfg: Config, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """mmpretrain's classifier with these weights."""
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.load_state_dict({name: x.float() for name, x in weights.items()})
    model.eval()
    return model


def count_hits(cfg: Config, model: torch.nn.Module) -> int:
    """How many of the test images the classifier gets right."""
    pipeline = Compose(cfg.test_pipeline)
    hits = 0
    for path in sorted(IMAGES.glob('*.JPEG')):
        sample = pipeline(dict(img_path=str(path), gt_label=0))
        with torch.no_grad():
            prediction = model.test_step(pseudo_collate([sample]))[0]
        hits += int(prediction.pred_label) == int(path.name.split('_')[0])
    return hits


def release(work_dir: Path) -> dict:
    """Write the weights; return their entry.

    Raises:
        OSError: if the work dir has no checkpoint or config.
        ValueError: if its training has not ended, or the weights are not finite.
    """
    configs = list(work_dir.glob('*.py'))
    latest = find_latest_checkpoint(str(work_dir))
    if len(configs) != 1 or latest is None:
        raise FileNotFoundError(f'{work_dir} has no checkpoint, or not one config')
    name = configs[0].stem
    path = f'configs/pretrain/{name}.py'
    cfg = launch.load_config(path)
    content = read_checkpoint(latest)
    epochs = content['meta']['epoch']
    if epochs != cfg.train_cfg.max_epochs:
        raise ValueError(f'{latest} is of {epochs} epochs, not {cfg.train_cfg.max_epochs}')
    state = content['state_dict']
    refuse_not_finite(state, latest)
    weights = {k: x.half() if x.is_floating_point() else x for k, x in state.items()}
    refuse_not_finite(weights, f'{latest} in half precision')

    rows = read_log(work_dir)
    metrics = next(row for row in reversed(rows) if 'accuracy/top1' in row)
    results = {f'Top {k} Accuracy': round(metrics[f'accuracy/top{k}'], 2) for k in (1, 5)}
    model = build(cfg, weights)
    metadata = {
        'Parameters': sum(p.numel() for p in model.backbone.parameters()),
        'Epochs': epochs,
        'Training Data': 'Tiny ImageNet',
        'Training Time (hours, one core)': round(hours(rows, content['meta']['iter']), 2),
        'Training Command': command(path, Config.fromfile(configs[0])),
        'Hits of tests/images': count_hits(cfg, model),
    }
    target = METAFILE.with_name(f'{name}.safetensors')
    write_weights(target, weights, dict(name=name, licence=LICENCE, results=results) | metadata)
    return {
        'Name': name,
        'In Collection': COLLECTION['Name'],
        'Config': path,
        'Metadata': metadata | {'SHA-256': digest(target)},
        'Results': [dict(Task='Image Classification', Dataset='Tiny ImageNet', Metrics=results)],
        'Weights': f'weights/{target.name}',
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dir', type=Path, help='of tools/train.py')
    try:
        entry = release(parser.parse_args().work_dir)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'release_weights.py: {error}')
    content = yaml.safe_load(METAFILE.read_text()) if METAFILE.is_file() else {}
    others = [m for m in content.get('Models', []) if m['Name'] != entry['Name']]
    models = sorted([*others, entry], key=lambda m: m['Name'])
    text = yaml.safe_dump(dict(Collections=[COLLECTION], Models=models), sort_keys=False)
    METAFILE.write_text(text)
    print(yaml.safe_dump(entry, sort_keys=False))


if __name__ == '__main__':
    main()
