r"""Draw what a model makes of an image, and its token-mixing weights, on the image's grid.

    python tools/visualize.py work_dirs/.../epoch_12.pth image.jpg --out pictures
    python tools/visualize.py CONFIG [CHECKPOINT] [IMAGE] --layer NAME

Writes features.png, the feature maps at the four levels, if there is an image; and weights.png,
the weights of one layer on its own grid and on the grid of the image, if the model has such.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
try:
    from mlp_backbones.apis.inference import default_device, init_model
    from mlp_backbones.engine import launch
except ImportError as error:
    sys.exit(f'visualize.py: {error} (see docs/install.md)')
import mmcv
import numpy as np
import torch
from matplotlib import pyplot as plt
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mlp_backbones.analysis.mixing import filters, mixing_layers, native_region
from mlp_backbones.checkpoints import safe_loading
from mlp_backbones.data.masks import SUFFIXES
from mlp_backbones.predictions.inputs import read_image
from mlp_backbones.spelling import did_you_mean, did_you_mean_file

WITHOUT_IMAGE = (512, 768)  # height and width of the grey image that stands in for one
RASTER = 5  # rows and columns of places whose weights are drawn


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage='visualize.py [CONFIG] [CHECKPOINT] [IMAGE] [options]',
    )
    parser.add_argument(
        'words',
        nargs='+',
        metavar='CONFIG CHECKPOINT IMAGE',
        help='a config, a checkpoint, or both, and an image',
    )
    parser.add_argument('--out', default='.', help='folder of the pictures (default: .)')
    parser.add_argument('--layer', help='whose weights; a wrong name gets a list of all')
    parser.add_argument('--device', help='default: cuda:0 if there is a GPU, else cpu')
    launch.add_cfg_options(parser)
    args = parser.parse_args()
    words = args.words
    args.config = words.pop(0) if words[0].endswith('.py') else None
    args.image = words.pop() if words and words[-1].lower().endswith(SUFFIXES) else None
    args.checkpoint = words.pop(0) if words else None
    if words:
        parser.error(f'{words[0]} is one too many: give a config, a checkpoint and an image')
    if not (args.config or args.checkpoint):
        parser.error('a config or a checkpoint is needed')
    return args


def load_model(args: argparse.Namespace) -> nn.Module:
    config = args.config and launch.load_config(args.config, args.cfg_options)
    if args.checkpoint:
        options = None if config else args.cfg_options
        return init_model(args.checkpoint, config, args.device, options)
    print('no checkpoint: the weights are those of init_cfg, random where it has none')
    return new_model(config, args.device)


def new_model(cfg: Config, device: str | None) -> nn.Module:
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    with safe_loading():
        model = MODELS.build(cfg.model)
        model.init_weights()
    model.cfg = cfg
    return model.to(device or default_device()).eval()


def find_layer(model: nn.Module, name: str | None) -> str | None:
    """The layer to draw: by default the last of those with the largest grid that interpolate.

    Raises:
        ValueError: there is none of that name.
    """
    layers = mixing_layers(model)
    if name is not None and name not in layers:
        hint = did_you_mean(name, layers) or '.'
        raise ValueError(
            f'--layer {name} is not a token-mixing layer{hint} There are '
            f'{", ".join(layers) or "none in this model"}'
        )
    if name is not None or not layers:
        return name

    def key(item: tuple[int, str]) -> tuple:
        number, layer = item
        resolution = layers[layer].resolution
        return resolution.mode == 'interpolate', resolution.grid, number

    return max(enumerate(layers), key=key)[1]


def look(model: nn.Module, image: np.ndarray, layer: str | None) -> tuple:
    """The model's result for an image, the maps that its heads see, and where the layer's lay."""
    seen: dict = {}
    neck = getattr(model, 'neck', None)

    def keep_maps(module, inputs, maps):
        maps = [maps] if isinstance(maps, Tensor) else maps
        if len(maps) > 1 or module is neck:  # a plain model's neck makes the levels
            seen.setdefault('maps', [x[0].float().cpu() for x in maps[:4]])

    def keep_input(module, inputs):
        seen.setdefault('canvas', inputs[0].shape[-2:])

    def keep_region(module, inputs, kwargs):
        arguments = [*inputs, *kwargs.values()]
        regions = [x for x in arguments if hasattr(x, 'down')]
        seen.setdefault('region', regions[0] if regions else None)

    handles = [
        model.backbone.register_forward_pre_hook(keep_input),
        model.backbone.register_forward_hook(keep_maps),
    ]
    if isinstance(neck, nn.Module):
        handles.append(neck.register_forward_hook(keep_maps))
    if layer:
        mixer = model.get_submodule(layer)
        handles.append(mixer.register_forward_pre_hook(keep_region, with_kwargs=True))
    if model.cfg.get('default_scope') == 'mmseg':
        from mmseg.apis import inference_model as infer
    else:
        from mmdet.apis import inference_detector as infer
    result = infer(model, image)
    for handle in handles:
        handle.remove()
    return result, seen


def valid(maps: list[Tensor], canvas: tuple[int, int], size: tuple[int, int]) -> list[Tensor]:
    """The parts (C, h, w) of maps that an image of ``size`` covers on its canvas."""
    found = []
    for x in maps:
        h, w = (
            -(-n * have // whole) for n, have, whole in zip(size, x.shape[1:], canvas, strict=True)
        )
        found.append(x[:, :h, :w])
    return found


def norms(x: Tensor) -> np.ndarray:
    """The length of each token's features (C, H, W) -> (H, W)."""
    return x.norm(dim=0).numpy()


def components(x: Tensor) -> np.ndarray:
    """The three main components of features (C, H, W) as colours (H, W, 3)."""
    tokens = x.flatten(1).T.double()
    tokens = tokens - tokens.mean(0)
    _, axes = torch.linalg.eigh(tokens.T @ tokens)
    axes = axes[:, -3:].flip(1)
    axes = axes * axes.sum(0).sign()  # the signs would be a matter of chance
    values = tokens @ axes
    values = values / (4 * values.std(0, correction=0) + 1e-12) + 0.5  # two deviations each way
    return values.clamp(0, 1).reshape(*x.shape[1:], -1).float().numpy()


def draw_features(image: np.ndarray, maps: list[Tensor], file: Path) -> None:
    """The image, and each map by the length of its features and by their main components."""
    ratio = image.shape[0] / image.shape[1]
    columns = 1 + len(maps)
    figure, grid = plt.subplots(
        2, columns, figsize=(2.9 * columns, 2 * (2.8 * ratio + 0.35)), layout='constrained'
    )
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    grid[0, 0].imshow(image[..., ::-1])
    grid[0, 0].set_title('image')
    grid[1, 0].axis('off')
    where = [0, image.shape[1], image.shape[0], 0]
    for (top, bottom), x in zip(grid.T[1:], maps, strict=True):
        top.imshow(norms(x), extent=where, interpolation='nearest')
        top.set_title(f'{x.shape[1]} x {x.shape[2]}, {x.shape[0]} channels', fontsize=10)
        colours = components(x)
        if colours.shape[-1] == 3:
            bottom.imshow(colours, extent=where, interpolation='nearest')
    grid[0, 1].set_ylabel('length')
    grid[1, 1].set_ylabel('main components')
    figure.savefig(file, dpi=100)
    plt.close(figure)


def mosaic(rows: Tensor) -> np.ndarray:
    """Images (RASTER * RASTER, H, W), each from -1 to 1, with lines between them."""
    rows = rows / rows.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)
    gap = max(1, round(rows.shape[-1] / 15))
    rows = torch.nn.functional.pad(rows.detach().cpu().float(), (0, gap, 0, gap), value=np.nan)
    lines = rows.unflatten(0, (RASTER, RASTER)).permute(0, 2, 1, 3)
    return lines.flatten(2).flatten(0, 1)[:-gap, :-gap].numpy()


def draw_weights(model: nn.Module, name: str, region, file: Path) -> None:
    """The weights of a layer at places all over its own grid, and over that of the image."""
    layer = model.get_submodule(name)
    places = [
        ((i + 0.5) / RASTER, (j + 0.5) / RASTER) for i in range(RASTER) for j in range(RASTER)
    ]
    native = native_region(layer)
    tiles = [mosaic(filters(layer, r, places)) for r in (native, region)]
    widths = [x.shape[1] / x.shape[0] for x in tiles]
    figure, axes = plt.subplots(
        1, 2, figsize=(5.5 * sum(widths), 6), width_ratios=widths, layout='constrained'
    )
    for part, x, size in zip(axes, tiles, (native.size, region.size), strict=True):
        part.imshow(x, cmap='RdBu_r', vmin=-1, vmax=1, interpolation='nearest')
        part.set_title(f'{size[0]} x {size[1]} tokens')
        part.axis('off')
    figure.get_layout_engine().set(wspace=0.06)
    figure.suptitle(f'{name} ({layer.resolution.mode}): on its own grid, and on the image')
    figure.savefig(file, dpi=100)
    plt.close(figure)


def visualize(args: argparse.Namespace) -> list[Path]:
    if args.image and not Path(args.image).is_file():
        raise FileNotFoundError(f'there is no {args.image}{did_you_mean_file(args.image)}')
    image = read_image(Path(args.image))[0] if args.image else None
    model = load_model(args)
    name = find_layer(model, args.layer)
    if name is None and image is None:
        raise ValueError('this model has no token-mixing weights; give an image to see its maps')
    grey = np.full((*WITHOUT_IMAGE, 3), 128, np.uint8)
    result, seen = look(model, grey if image is None else image, name)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    if image is not None:
        whole = result.metainfo['img_shape'][:2]
        size = tuple(map(min, whole, seen['canvas']))  # of sliding windows, the first one
        maps = valid(seen['maps'], seen['canvas'], size)
        shown = mmcv.imresize(image, whole[::-1])[: size[0], : size[1]]
        written.append(out / 'features.png')
        draw_features(shown, maps, written[-1])
    if name is None:
        print('no weights.png: this model has no token-mixing weights')
    else:
        written.append(out / 'weights.png')
        draw_weights(model, name, seen['region'], written[-1])
    return written


def main() -> None:
    args = parse_args()
    try:
        written = visualize(args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'visualize.py: {error}')
    print(*written, sep='\n')


if __name__ == '__main__':
    main()
