"""What the authors' code makes of images: the reference for pyramids that timm does not have.

    python tests/make_goldens.py poolformer path/to/sail-sg/poolformer
    python tests/make_goldens.py convmlp path/to/SHI-Labs/Convolutional-MLPs

Runs their code with random weights. Of small models it writes tests/goldens/NAME.safetensors: the
weights by their names and the four maps of a detector for two images. Of each published model it
loads the weights into ours, and prints the largest difference of the maps, relative to their
largest number, for images of 224 x 224, 256 x 320 and 480 x 320.
"""

import argparse
import importlib
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

from mlp_backbones import models
from mlp_backbones.checkpoints import load_weights

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))

FOLDER = Path(__file__).parent / 'goldens'
SIZES = ((64, 64), (96, 160))  # of the images whose maps are kept
ARCH = dict(channels=(8, 12, 16, 24), depths=(2, 1, 2, 1))


def image(height: int, width: int) -> torch.Tensor:
    """The same on every machine."""
    values = torch.arange(3 * height * width, dtype=torch.float64).mul(0.37).sin()
    return values.reshape(1, 3, height, width).float()


def make_poolformer(arch: dict) -> torch.nn.Module:
    stand_in('timm.models.layers.helpers', to_2tuple=lambda n: (n, n))
    return importlib.import_module('models.poolformer').PoolFormer(
        arch['depths'], arch['channels'], (4, 4, 4, 4), (True,) * 4, fork_feat=True
    )


def make_convmlp(arch: dict) -> torch.nn.Module:
    registry = types.SimpleNamespace(register_module=lambda: lambda cls: cls)
    stand_in('mmcv.runner', load_checkpoint=None)
    stand_in('mmdet.models.builder', BACKBONES=registry)
    stand_in('mmdet.utils', get_root_logger=None)
    first, *dims = arch['channels']
    num_conv_blocks, *blocks = arch['depths']
    ratios = [arch.get('mlp_ratio', 2)] * 3
    return importlib.import_module('src.detection').DetConvMLP(
        blocks, dims, ratios, first, num_conv_blocks
    )


def stand_in(name: str, **attributes) -> None:
    """A module that is there no more, or not needed."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


FAMILIES = {'poolformer': ('PoolFormer', make_poolformer), 'convmlp': ('ConvMLP', make_convmlp)}


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Random numbers for all, also for what starts as zeros and ones, which would hide errors."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith('num_batches_tracked'):
                value.fill_(7)
            elif name.endswith('running_var') or value.dim() == 1 and name.endswith('weight'):
                value.uniform_(0.5, 1.5)
            elif 'layer_scale' in name:
                value.uniform_(-1, 1)
            elif value.dim() == 1:
                value.normal_(std=0.2)
            else:
                value.normal_(std=value[0].numel() ** -0.5)
    return model.eval()


@torch.no_grad()
def write(name: str, model: torch.nn.Module) -> None:
    tensors = {f'weights.{key}': value for key, value in model.state_dict().items()}
    for size in SIZES:
        for i, out in enumerate(model(image(*size))):
            tensors[f'{size[0]}x{size[1]}.{i}'] = out.contiguous()
    FOLDER.mkdir(exist_ok=True)
    save_file(tensors, FOLDER / f'{name}.safetensors')


@torch.no_grad()
def compare(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    load_weights(ours.eval(), theirs.state_dict())
    differences = [0.0]
    for size in ((224, 224), (256, 320), (480, 320)):
        for a, b in zip(ours(image(*size)), theirs(image(*size)), strict=True):
            differences.append(float((a - b).abs().max() / b.abs().max()))
    return max(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('family', choices=FAMILIES)
    parser.add_argument('path', help='a checkout of the original repository')
    args = parser.parse_args()
    from benchmark import import_timm

    import_timm()
    sys.path.insert(0, args.path)
    name, make = FAMILIES[args.family]
    cls = getattr(models, name)
    write(args.family, randomise(make(ARCH)))
    for preset, arch in cls.presets.items():
        difference = compare(cls(preset), randomise(make(arch)))
        print(f'{name} {preset}: {difference:.1e}', flush=True)


if __name__ == '__main__':
    main()
