"""What every backbone does, whatever its topology and its blocks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit, update_init_info
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checkpoints import (
    ZOOS,
    check_shapes,
    load_pretrained,
    missing_weights,
    some,
    translate_in_place,
)
from ...spelling import did_you_mean
from ..layers import (
    GRID_MODES,
    Region,
    Resolution,
    Sizes,
    batch_norms,
    check_valid_sizes,
    keep_statistics,
    make_region,
    parse_resolution,
    read_sizes,
    set_norm_cfg,
)
from ..layers.resampling import check_interpolation
from ..layers.slices import by_bands
from ..layers.tracing import is_recording


class Backbone(BaseModule):
    """What every backbone shares: its arguments' checks, freezing and loading.

    A family sets ``presets``, a dict from the names of ``arch`` to its settings, and
    ``make_block``, which takes ``dim``, ``resolution``, ``drop_path`` and options of its own
    and returns a block on tokens (B, H, W, dim). See docs/adding_a_family.md.
    """

    presets: dict[str, dict] = {}
    make_block: Callable[..., nn.Module]
    modes: Sequence[str] = GRID_MODES  # () for a family whose mixing fits any resolution
    default_resolution: str | Sequence[str]
    default_interpolation = 'bilinear'
    norm_eval = False

    def __init__(
        self,
        in_channels: int,
        with_cp: bool,
        init_cfg: dict | list[dict] | None,
        pretrained: str | None,
    ):
        super().__init__(with_pretrained(init_cfg, pretrained))
        self.in_channels = check_positive('in_channels', in_channels)
        self.with_cp = with_cp

    @classmethod
    def resolve_arch(cls, arch: str | dict, required: Sequence[str]) -> dict:
        """The settings of ``arch``: of a preset by name, or those given as a dict.

        Raises:
            ValueError: for an unknown name, or a dict without one of the ``required`` keys.
            TypeError: for anything but a name or a dict.
        """
        if isinstance(arch, str):
            if arch not in cls.presets:
                raise ValueError(
                    f'arch={arch!r} is not a preset of {cls.__name__}; choose among '
                    f'{", ".join(map(repr, cls.presets))}, or give a dict'
                    f'{did_you_mean(arch, cls.presets) or "."}'
                )
            return dict(cls.presets[arch])
        if not isinstance(arch, dict):
            raise TypeError(f'arch={arch!r} must be the name of a preset or a dict.')
        missing = [key for key in required if key not in arch]
        if missing:
            raise ValueError(
                f'the arch dict of {cls.__name__} lacks {missing}; it has {sorted(arch)} and '
                f'needs {list(required)}.'
            )
        return dict(arch)

    def check_options(self, options: dict) -> None:
        """Raise TypeError if the family's block does not take all of ``options``."""
        given = {'dim', 'resolution', 'drop_path'}  # by the backbone itself
        parameters = inspect.signature(self.make_block).parameters
        takes = set(parameters) - given
        unknown = sorted(set(options) - takes)
        missing = sorted(
            name for name in takes - set(options) if parameters[name].default is inspect._empty
        )
        if unknown:
            raise TypeError(
                f'{type(self).__name__} takes no {", ".join(unknown)}; beyond the arguments of '
                f'every backbone it takes {sorted(takes)}. What a base config has set for another '
                f'backbone goes with backbone=dict(_delete_=True, type={type(self).__name__!r}, '
                '...).'
            )
        if missing:
            raise ValueError(f'the arch of {type(self).__name__} lacks {missing}.')
        for name, value in options.items():
            if name.endswith('_ratio') and not (isinstance(value, (int, float)) and value > 0):
                raise ValueError(f'{name}={value!r} must be a positive number.')

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError or TypeError unless ``x`` is a float (B, C, H, W) batch."""
        if not isinstance(x, Tensor):
            raise TypeError(f'{type(self).__name__} takes a tensor, not {type(x).__name__}.')
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape:
            raise ValueError(
                f'{type(self).__name__} takes images of shape (B, {self.in_channels}, H, W), '
                f'H and W at least 1; got {tuple(x.shape)}.'
            )
        if not x.is_floating_point():
            raise TypeError(
                f'{type(self).__name__} takes a floating-point image, not {x.dtype}; normalise '
                'it first (the data preprocessor of the detector or segmentor does so).'
            )

    def valid_sizes(self, x: Tensor, sizes: Sizes) -> Tensor | None:
        """The sizes of the images on the canvas ``x``, (B, 2); None if all of them fill it.

        Each image's features are those that it has alone, whatever lies beside it in the
        batch and however far it is padded, and zero beyond its own size.

        Args:
            x: The images (B, C, H, W), each in the top left corner of its canvas.
            sizes: (height, width) in pixels for each of the images, a sequence or an integer
                tensor (B, 2). Default: those that our data preprocessors leave on x, or else
                all images fill the canvas.
        """
        if sizes is None:
            sizes = read_sizes(x)
        return check_valid_sizes(sizes, x)

    def region(
        self, x: Tensor, sizes: Tensor | None, resolutions: Sequence[Resolution | None]
    ) -> Region:
        """Where images of ``sizes`` lie on the map x, for blocks of these resolutions."""
        for resolution in resolutions:
            if resolution is not None and resolution.mode == 'interpolate':
                return make_region(x, sizes, resolution.grid, resolution.interpolation)
        return make_region(x, sizes)

    def make_resolutions(
        self,
        grids: Sequence[int | None],
        depths: Sequence[int],
        resolution: str | Sequence[str] | None,
        interpolation: str | None,
        prefix_tokens: int = 0,
    ) -> list[list[Resolution | None]]:
        """How the token mixer of every block meets maps of any size, by stage."""
        if not self.modes:
            if resolution is not None:
                raise ValueError(
                    f'{type(self).__name__} mixes tokens at any resolution, and so takes no mode; '
                    f'got resolution={resolution!r}.'
                )
            return [[None] * depth for depth in depths]
        interpolation = check_interpolation(
            self.default_interpolation if interpolation is None else interpolation
        )
        if resolution is None:
            resolution = self.default_resolution
        patterns = parse_resolution(resolution, len(depths), self.modes)
        return [
            [
                grid and Resolution(grid, p[j % len(p)], interpolation, prefix_tokens)
                for j in range(depth)
            ]
            for grid, depth, p in zip(grids, depths, patterns, strict=True)
        ]

    def run(
        self, block: nn.Module, x: Tensor, region: Region, resolution: Resolution | None
    ) -> Tensor:
        """Apply a block; with ``with_cp``, recompute it in the backward pass."""
        if self.with_cp and torch.is_grad_enabled():
            contexts = {}
            if batch_norms(block) and not is_recording():
                contexts['context_fn'] = lambda: (nullcontext(), keep_statistics(block))
            return checkpoint(block, x, region, use_reentrant=False, **contexts)
        reach = getattr(block, 'reach', 0)
        if resolution is None and reach:
            return by_bands(block, x, region, 1, reach)
        if resolution is not None and resolution.is_local_to_bands and not reach:
            return by_bands(block, x, region, resolution.grid)
        return block(x, region)

    def frozen_modules(self) -> list[nn.Module]:
        """The modules that ``frozen_stages`` freezes."""
        raise NotImplementedError

    def _freeze(self) -> None:
        for module in self.frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def set_batch_norm(self, norm_eval: bool, norm_cfg: dict | None) -> None:
        """Settle what batch norms do in training, and of which kind they are.

        Raises:
            ValueError: if there are none.
        """
        if (norm_eval or norm_cfg) and not batch_norms(self):
            raise ValueError(
                f'{type(self).__name__} has no batch norm here for norm_eval={norm_eval!r} and '
                f"norm_cfg={norm_cfg!r}; stem='conv' has some."
            )
        if norm_cfg:
            set_norm_cfg(self, norm_cfg)
        self.norm_eval = norm_eval

    def train(self, mode: bool = True):
        """Set the training mode; frozen stages stay in evaluation mode, and with ``norm_eval``
        batch norms.
        """
        super().train(mode)
        if self.norm_eval:
            for norm in batch_norms(self):
                norm.eval()
        self._freeze()
        return self

    def switch_to_deploy(self) -> None:
        """Fold batch norms, Affine and LayerScale into the layers beside them, for good.

        The function stays the same in evaluation mode; training and loading checkpoints of the
        unfolded model end with it.
        """
        self.eval()
        for parent in list(self.modules()):
            for name, child in parent.named_children():
                if hasattr(child, 'switch_to_deploy'):
                    setattr(parent, name, child.switch_to_deploy().eval())

    def init_weights(self) -> None:
        """Load ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)``, if given.

        The checkpoint is a path or an address of weights by the names of any source that
        docs/pretrained.md lists. Without it the parameters keep the initial values of their
        family, which they have since construction.

        Raises:
            FileNotFoundError: if the checkpoint does not exist.
            ConnectionError: if its address cannot be reached.
            ValueError: if it is no checkpoint, or not one of this model.
        """
        configs = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg]
        configs = [cfg for cfg in configs if cfg]
        for cfg in configs:
            if not isinstance(cfg, dict) or 'type' not in cfg:
                raise TypeError(
                    f'init_cfg={self.init_cfg!r} must be a dict with a type, such as '
                    "dict(type='Pretrained', checkpoint='weights.pth')."
                )
            if is_pretrained(cfg) and 'checkpoint' not in cfg:
                raise ValueError(f'init_cfg={cfg!r} names no checkpoint.')
        ours = [dict(cfg, type=PretrainedBackbone) for cfg in configs if is_pretrained(cfg)]
        given = self.init_cfg
        # what a checkpoint holds wins over other initial values
        self.init_cfg = [cfg for cfg in configs if not is_pretrained(cfg)] + ours
        try:
            super().init_weights()
        finally:
            self.init_cfg = given

    def is_unbuilt(self, name: str) -> bool:
        """Whether ``name`` is a weight of a part that is not built, as no output needs it."""
        raise NotImplementedError

    def optional_weights(self) -> list[dict[str, Tensor]]:
        """Groups of weights that a checkpoint may lack, with what they start from."""
        return []

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Here, so that every way in (load_from, --resume, inferencers) gets it.
        who, own = type(self).__name__, self.state_dict()
        for note in translate_in_place(self, state_dict, prefix):
            print_log(f'{who}: {note}', logger='current')
        check_shapes(self, state_dict, prefix)  # all but the weights of another grid
        if missing := missing_weights(self, state_dict, prefix):
            # Of a strict loader it is an error, for others this is all that anybody learns.
            print_log(
                f'{who} keeps {len(missing)} of its own {len(own)} weights: the '
                f'checkpoint lacks {some(prefix + name for name in missing)}. Weights of a '
                'backbone alone belong in its init_cfg, see docs/pretrained.md.',
                logger='current',
                level=logging.WARNING,
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The place of a parameter in the order of the layers (mmpretrain's protocol).

        Args:
            param_name: Name of the parameter, in this model or one that holds it.
            prefix: What the names of this model's parameters start with, ``'backbone.'``.

        Returns:
            (layer, number of layers): 0 for the patch embedding, class token and position
            embedding, then 1 for the first block, and the number of layers - 1 for what
            follows the last: the norms of the outputs, and parameters of other models.
        """
        num_layers = self.num_blocks + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        block = self.block_of(param_name[len(prefix) :])
        return num_layers - 1 if block is None else block + 1, num_layers

    @property
    def num_blocks(self) -> int:
        """Number of the blocks that are built."""
        raise NotImplementedError

    def block_of(self, name: str) -> int | None:
        """The block that a parameter belongs to: -1 before the first, None after the last."""
        raise NotImplementedError


class PretrainedBackbone:
    """An initialiser instead of mmengine's ``Pretrained``, which knows only one layout of weights
    and unpickles files that are not safe to load.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None, map_location=None):
        self.checkpoint = checkpoint
        self.prefix = prefix

    def __call__(self, model: Backbone) -> None:
        who = type(model).__name__
        try:
            report = load_pretrained(model, self.checkpoint, self.prefix)
        except (ImportError, OSError, ValueError) as error:
            raise type(error)(f'{who}: init_cfg names a checkpoint: {error}') from error
        print_log(f'{who} from {self.checkpoint}: {report.summary}', logger='current')
        update_init_info(model, f'Pretrained: load from {self.checkpoint}')


def with_pretrained(
    init_cfg: dict | list[dict] | None, pretrained: str | None
) -> dict | list[dict] | None:
    """``init_cfg``, or the one that mmseg's ``pretrained``, a path or an address, stands for.

    Raises:
        ValueError: if both are given.
        TypeError: for a name in a model zoo of mmengine, none of which has our models.
    """
    if pretrained is None:
        return init_cfg
    if str(pretrained).startswith(tuple(ZOOS)):
        raise TypeError(
            f'pretrained={pretrained!r} is the name of weights for another backbone, which a base '
            'config may have set: write pretrained=None beside it, in mmseg model=dict('
            'pretrained=None, ...). Weights of ours go into init_cfg, see docs/pretrained.md.'
        )
    if init_cfg:
        raise ValueError(
            f'pretrained={pretrained!r} and init_cfg={init_cfg!r} both say where weights come '
            'from; give one of them.'
        )
    return dict(type='Pretrained', checkpoint=pretrained)


def is_pretrained(cfg: dict) -> bool:
    kind = cfg['type']
    return kind is PretrainedInit or str(kind).rpartition('.')[2] == 'Pretrained'


def to_feature_maps(maps: Sequence[Tensor], training: bool) -> tuple[Tensor, ...]:
    """Tokens (B, H, W, C) -> maps (B, C, H, W), contiguous in memory.

    mmcv's RoIAlign reads raw memory: any other strides give it wrong numbers.

    In training, a map that nothing uses (an FPN may begin at the second, PSPNet's head takes the
    last) gets a gradient of zeros when another gets one: without it the parameters of its norm
    would have none, and DistributedDataParallel would stop.
    """
    if training and len(maps) > 1:
        return _FeatureMaps.apply(*maps)
    return tuple(x.permute(0, 3, 1, 2).contiguous() for x in maps)


class _FeatureMaps(torch.autograd.Function):
    """All maps as one step of autograd, in which missing gradients become zeros."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*maps: Tensor) -> tuple[Tensor, ...]:
        # copies, as views of several outputs could not be changed in place by a neck
        return tuple(
            x.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format) for x in maps
        )

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.permute(0, 2, 3, 1) for x in gradients)


def stochastic_depth(rate: float, depth: int) -> list[float]:
    """Drop rates of ``depth`` blocks that rise linearly from 0 to ``rate``."""
    if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(f'drop_path_rate={rate!r} must be a number from 0 to below 1.')
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def check_out_indices(out_indices: Sequence[int], num: int) -> tuple[int, ...]:
    """Return ``out_indices`` as a sorted tuple, or raise ValueError."""
    out_indices = as_tuple(out_indices)
    valid = all(type(i) is int and 0 <= i < num for i in out_indices)
    if not out_indices or not valid or list(out_indices) != sorted(set(out_indices)):
        raise ValueError(
            f'out_indices={out_indices} must be distinct indices in rising order from 0 to '
            f'{num - 1}.'
        )
    return out_indices


def as_tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def check_range(name: str, value: int, low: int, high: int) -> int:
    """Return ``value``, or raise ValueError unless it is an integer in [low, high]."""
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f'{name}={value!r} must be an integer from {low} to {high}.')
    return value


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value``, or raise ValueError unless it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        names = ', '.join(map(repr, choices))
        raise ValueError(f'{name}={value!r} is unknown; choose among {names}.')
    return value


def check_positive(name: str, value: int) -> int:
    """Return ``value``, or raise ValueError unless it is a positive integer."""
    if type(value) is not int or value < 1:
        raise ValueError(f'{name}={value!r} must be a positive integer.')
    return value
