"""The two topologies, and what a backbone does whatever its blocks are."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Callable, Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit, update_init_info
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checkpoints import check_complete, check_shapes, load_pretrained, rename_foreign
from ..layers import (
    GRID_MODES,
    Canvas,
    PatchEmbed,
    PatchMerging,
    PositionEmbedding,
    ResolutionAdapter,
    Sizes,
    check_valid_sizes,
    keep_valid,
    make_canvas,
    parse_resolution,
    shrink,
)
from ..layers.resampling import check_interpolation
from ..layers.slices import by_bands


class Backbone(BaseModule):
    """What every backbone shares: its arguments' checks, freezing and loading.

    A family sets ``presets``, a dict from the names of ``arch`` to its settings, and
    ``make_block``, which takes ``dim``, ``adapter``, ``drop_path`` and options of its own
    and returns a block on tokens (B, H, W, dim). See docs/adding_a_family.md.
    """

    presets: dict[str, dict] = {}
    make_block: Callable[..., nn.Module]
    modes: Sequence[str] = GRID_MODES  # () for a family whose mixing fits any resolution
    default_resolution: str | Sequence[str]
    default_interpolation = 'bilinear'

    def __init__(self, in_channels: int, with_cp: bool, init_cfg: dict | list[dict] | None):
        super().__init__(init_cfg)
        self.in_channels = check_positive('in_channels', in_channels)
        self.with_cp = with_cp

    @classmethod
    def resolve_arch(cls, arch: str | dict, required: Sequence[str]) -> dict:
        """The settings of ``arch``: of a preset by name, or those given as a dict.

        Raises:
            ValueError: for an unknown name, or a dict that lacks one of ``required``.
            TypeError: for anything but a name or a dict.
        """
        if isinstance(arch, str):
            if arch not in cls.presets:
                close = difflib.get_close_matches(arch, cls.presets, n=1)
                hint = f' Did you mean {close[0]!r}?' if close else ''
                raise ValueError(
                    f'arch={arch!r} is no preset of {cls.__name__}; choose among '
                    f'{", ".join(map(repr, cls.presets))}, or give a dict.{hint}'
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
        given = {'dim', 'adapter', 'drop_path', 'prefix_tokens'}  # by the backbone itself
        parameters = inspect.signature(self.make_block).parameters
        takes = set(parameters) - given
        unknown = sorted(set(options) - takes)
        missing = sorted(
            name for name in takes - set(options) if parameters[name].default is inspect._empty
        )
        if unknown:
            raise TypeError(
                f'{type(self).__name__} takes no {", ".join(unknown)}; beyond the arguments of '
                f'every backbone it takes {sorted(takes)}.'
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
        return check_valid_sizes(getattr(x, 'valid_sizes', None) if sizes is None else sizes, x)

    def canvas(
        self, sizes: Tensor | None, x: Tensor, adapters: list[ResolutionAdapter | None]
    ) -> Canvas | None:
        """What the blocks with these adapters need to know of images of ``sizes`` in tokens."""
        resampling = [a for a in adapters if a is not None and a.mode == 'interpolate']
        if not resampling:
            return make_canvas(sizes, x)
        return make_canvas(sizes, x, resampling[0].grid, resampling[0].interpolation)

    def make_adapters(
        self,
        grids: Sequence[int],
        depths: Sequence[int],
        resolution: str | Sequence[str] | None,
        interpolation: str | None,
    ) -> list[list[ResolutionAdapter | None]]:
        """The resolution adapter of every block, by stage."""
        if not self.modes:
            if resolution is not None:
                raise ValueError(
                    f'{type(self).__name__} mixes tokens in a way that fits any resolution; '
                    f'it takes no resolution, but got {resolution!r}.'
                )
            return [[None] * depth for depth in depths]
        interpolation = check_interpolation(
            self.default_interpolation if interpolation is None else interpolation
        )
        if resolution is None:
            resolution = self.default_resolution
        patterns = parse_resolution(resolution, len(depths), self.modes)
        return [
            [ResolutionAdapter(grid, p[j % len(p)], interpolation) for j in range(depth)]
            for grid, depth, p in zip(grids, depths, patterns, strict=True)
        ]

    def run(self, block: nn.Module, adapter: ResolutionAdapter | None, *args) -> Tensor:
        """Apply a block; with ``with_cp``, recompute it in the backward pass."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        if adapter is not None and adapter.mode == 'window' and len(args) == 2:
            return by_bands(block, *args, adapter.grid)
        return block(*args)

    def frozen_modules(self) -> list[nn.Module]:
        """The modules that ``frozen_stages`` freezes."""
        raise NotImplementedError

    def _freeze(self) -> None:
        for module in self.frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True):
        """Set the training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

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

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Here, so that every way in (load_from, --resume, inferencers) gets it. A loader that
        # is not strict would only log what is missing; it gets all of a backbone, or none.
        rename_foreign(self, state_dict, prefix)
        check_shapes(self, state_dict, prefix)  # all but the weights of another grid
        check_complete(self, state_dict, prefix)
        if prefix and not any(key.startswith(prefix) for key in state_dict):
            print_log(
                f'{type(self).__name__} keeps the weights that it has: the checkpoint has none '
                f'whose names start with {prefix!r}. Weights of a backbone alone belong in its '
                'init_cfg, see docs/pretrained.md.',
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
    """An initialiser in the place of mmengine's ``Pretrained``, which knows one layout of
    weights and unpickles what is not safe to load.
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
        if report.warning:
            warning = f'{self.checkpoint}: {report.warning}'
            print_log(warning, logger='current', level=logging.WARNING)
        update_init_info(model, f'Pretrained: load from {self.checkpoint}')


def is_pretrained(cfg: dict) -> bool:
    kind = cfg['type']
    return kind is PretrainedInit or str(kind).rpartition('.')[2] == 'Pretrained'


class PyramidBackbone(Backbone):
    """Four stages of blocks with patch merging between them.

    A patch embedding of stride 4, then stages at strides 4, 8, 16 and 32; each output
    has a norm of its own. A family gives ``presets`` and ``make_block``.

    Args:
        arch: A preset, or a dict with 'channels' and 'depths', one entry per stage, and
            optionally 'mixing_strides' and any argument of the family's block. The
            token-mixing grid of a stage has ``ceil(pretrain_img_size / mixing_stride)``
            tokens a side. Default: 'tiny'.
        in_channels: Channels of the image. Default: 3.
        pretrain_img_size: Side in pixels of the square images that the token-mixing
            weights are made for. Default: 224.
        resolution: How token mixing meets maps of other sizes: 'interpolate', 'window',
            'grid', modes that alternate by block such as 'window+interpolate', or one of
            these per stage. Default: the family's ``default_resolution``, which is what came
            out best in docs/resolution.md.
        interpolation: 'bilinear' (default) or 'bicubic'.
        out_indices: Stages whose maps are returned. Stages after the last of them are
            not built. Default: (0, 1, 2, 3).
        frozen_stages: -1 freezes nothing, 0 the patch embedding, n the first n stages
            as well. Default: -1.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at
            the first. Default: 0.1.
        with_cp: Whether to recompute each block's activations in the backward pass,
            which saves memory. Default: False.
        init_cfg: mmengine's initialisation config, such as
            ``dict(type='Pretrained', checkpoint=...)``. Default: None.
        block_options: Arguments of the family's block, which win over those in ``arch``.
    """

    default_resolution = 'window+interpolate'

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        pretrain_img_size: int = 224,
        resolution: str | Sequence[str] | None = None,
        interpolation: str | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **block_options,
    ):
        super().__init__(in_channels, with_cp, init_cfg)
        options = {**self.resolve_arch(arch, required=('channels', 'depths')), **block_options}
        channels = as_tuple(options.pop('channels'))
        depths = as_tuple(options.pop('depths'))
        mixing_strides = as_tuple(options.pop('mixing_strides', (16, 16, 16, 32)))
        per_stage = dict(channels=channels, depths=depths, mixing_strides=mixing_strides)
        if any(len(values) != 4 for values in per_stage.values()):
            raise ValueError(
                'channels, depths and mixing_strides of an arch have 4 entries each, one per '
                f'stage; got {per_stage}.'
            )
        for name, values in per_stage.items():
            for value in values:
                check_positive(name, value)
        check_positive('pretrain_img_size', pretrain_img_size)
        self.check_options(options)
        self.out_indices = check_out_indices(out_indices, len(depths))
        self.frozen_stages = check_range('frozen_stages', frozen_stages, -1, len(depths))
        num_stages = max(self.out_indices) + 1
        grids = [-(-pretrain_img_size // stride) for stride in mixing_strides]
        self.adapters = self.make_adapters(grids, depths, resolution, interpolation)
        drop_rates = iter(stochastic_depth(drop_path_rate, sum(depths)))

        self.patch_embed = PatchEmbed(in_channels, channels[0], patch_size=4)
        self.merges = nn.ModuleList()  # merges[i] leads into stage i
        self.stages = nn.ModuleList()
        for i in range(num_stages):
            self.merges.append(PatchMerging(channels[i - 1], channels[i]) if i else nn.Identity())
            blocks = [
                self.make_block(
                    dim=channels[i], adapter=adapter, drop_path=next(drop_rates), **options
                )
                for adapter in self.adapters[i]
            ]
            self.stages.append(nn.ModuleList(blocks))
        self.norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(channels[i], eps=1e-6) for i in self.out_indices}
        )
        self._freeze()

    def is_unbuilt(self, name: str) -> bool:
        match = re.match(r'(stages|merges|norms)\.([0-3])\.', name)
        if match is None:
            return False
        stage = int(match[2])
        return stage >= len(self.stages) or match[1] == 'norms' and stage not in self.out_indices

    @property
    def num_blocks(self) -> int:
        return sum(map(len, self.stages))

    def block_of(self, name: str) -> int | None:
        part, *numbers = name.split('.')[:3]
        if part == 'patch_embed':
            return -1
        if part == 'norms':
            return None
        first = sum(map(len, self.stages[: int(numbers[0])]))
        # the merging into a stage goes with its first block
        return first if part == 'merges' else first + int(numbers[1])

    def frozen_modules(self) -> list[nn.Module]:
        frozen = [self.patch_embed] if self.frozen_stages >= 0 else []
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen += [self.merges[i], self.stages[i]]
            frozen += [self.norms[str(i)]] if i in self.out_indices else []
        return frozen

    def forward(self, x: Tensor, valid_sizes: Sizes = None) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) -> one map (B, C_i, ceil(H / s_i), ceil(W / s_i)) for each of
        ``out_indices``, of stride s_i = 4, 8, 16, 32, contiguous in memory.

        ``valid_sizes``: see :meth:`Backbone.valid_sizes`.
        """
        self.check_input(x)
        sizes = self.valid_sizes(x, valid_sizes)
        x, sizes, canvas = self.patch_embed(x, sizes), shrink(sizes, 4), None
        outs = []
        for i, blocks in enumerate(self.stages):
            if i:
                x, sizes = self.merges[i](x, canvas), shrink(sizes, 2)
            canvas = self.canvas(sizes, x, self.adapters[i])
            for block, adapter in zip(blocks, self.adapters[i], strict=True):
                x = self.run(block, adapter, x, canvas)
            if i in self.out_indices:
                outs.append(keep_valid(self.norms[str(i)](x), canvas))
        return tuple(map(to_feature_map, outs))


class PlainBackbone(Backbone):
    """One width and one resolution throughout: a model as it was published.

    A patch embedding, blocks, and a norm. A family may take a class token if its blocks do.

    Args:
        arch: A preset, or a dict with 'embed_dims', 'num_layers' and 'patch_size', and
            optionally 'patch_norm', 'cls_token', 'pos_embed' and any argument of the
            family's block. No default.
        in_channels: Channels of the image. Default: 3.
        pretrain_img_size: Side in pixels of the square images that the token-mixing
            weights are made for. Default: 224.
        resolution: How token mixing meets maps of other sizes: 'interpolate', 'window',
            'grid', or modes that alternate by block such as 'window+grid'. Default:
            'interpolate'.
        interpolation: 'bilinear' (default) or 'bicubic'.
        out_indices: Layers whose maps are returned, negative ones counted from the last.
            Layers after the last of them are not built. Default: -1.
        frozen_stages: -1 freezes nothing, 0 the patch embedding (with the class token and
            the position embedding), n the first n layers as well. Default: -1.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at
            the first. Default: 0.1.
        cls_token: Whether a class token is mixed with the map. Default: the arch's, else
            False.
        pos_embed: Whether a position embedding is added to the map, resampled to its
            size. Default: the arch's, else False.
        with_cp: Whether to recompute each block's activations in the backward pass,
            which saves memory. Default: False.
        init_cfg: mmengine's initialisation config, such as
            ``dict(type='Pretrained', checkpoint=...)``. Default: None.
        block_options: Arguments of the family's block, which win over those in ``arch``.
    """

    default_resolution = 'interpolate'
    takes_class_token = False

    def __init__(
        self,
        arch: str | dict,
        in_channels: int = 3,
        pretrain_img_size: int = 224,
        resolution: str | None = None,
        interpolation: str | None = None,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        drop_path_rate: float = 0.1,
        cls_token: bool | None = None,
        pos_embed: bool | None = None,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **block_options,
    ):
        super().__init__(in_channels, with_cp, init_cfg)
        settings = self.resolve_arch(arch, required=('embed_dims', 'num_layers', 'patch_size'))
        given = dict(cls_token=cls_token, pos_embed=pos_embed)
        settings.update({key: value for key, value in given.items() if value is not None})
        options = {**settings, **block_options}
        dim, depth = options.pop('embed_dims'), options.pop('num_layers')
        patch_size = options.pop('patch_size')
        patch_norm = options.pop('patch_norm', False)
        cls_token, pos_embed = options.pop('cls_token', False), options.pop('pos_embed', False)
        for name, value in (
            ('embed_dims', dim),
            ('num_layers', depth),
            ('patch_size', patch_size),
            ('pretrain_img_size', pretrain_img_size),
        ):
            check_positive(name, value)
        if cls_token and not self.takes_class_token:
            raise ValueError(f'{type(self).__name__} has no class token; got cls_token=True.')
        self.check_options(options)
        if cls_token:
            options['prefix_tokens'] = 1
        self.num_layers = depth
        self.out_indices = check_out_indices(
            [i + depth if type(i) is int and i < 0 else i for i in as_tuple(out_indices)], depth
        )
        self.frozen_stages = check_range('frozen_stages', frozen_stages, -1, depth)
        grid = -(-pretrain_img_size // patch_size)
        (self.adapters,) = self.make_adapters([grid], [depth], resolution, interpolation)

        norm = self.make_norm(dim) if patch_norm else None
        self.patch_embed = PatchEmbed(in_channels, dim, patch_size, norm)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        self.pos_embed = None
        if pos_embed:
            method = self.default_interpolation if interpolation is None else interpolation
            self.pos_embed = PositionEmbedding(grid, dim, method, int(cls_token))
        drop_rates = stochastic_depth(drop_path_rate, depth)
        self.layers = nn.ModuleList(
            self.make_block(dim=dim, adapter=adapter, drop_path=rate, **options)
            for adapter, rate in list(zip(self.adapters, drop_rates, strict=True))[
                : max(self.out_indices) + 1
            ]
        )
        # the published norm comes after the last layer
        self.norm = self.make_norm(dim) if self.out_indices[-1] == depth - 1 else nn.Identity()
        self._freeze()

    @staticmethod
    def make_norm(dim: int) -> nn.Module:
        """The norm after the last layer and, where there is one, of the patch embedding."""
        return nn.LayerNorm(dim, eps=1e-6)

    def is_unbuilt(self, name: str) -> bool:
        part, number = (name.split('.') + [''])[:2]
        if part == 'layers' and number.isdigit():
            return len(self.layers) <= int(number) < self.num_layers
        return part == 'norm' and len(self.layers) < self.num_layers

    @property
    def num_blocks(self) -> int:
        return len(self.layers)

    def block_of(self, name: str) -> int | None:
        part, number = (name.split('.') + [''])[:2]
        if part == 'norm':
            return None
        return int(number) if part == 'layers' else -1

    def frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        frozen = [self.patch_embed, *self.layers[: self.frozen_stages]]
        frozen += [self.pos_embed] if self.pos_embed else []
        frozen += [self.norm] if self.frozen_stages == self.num_layers else []
        return frozen

    def _freeze(self) -> None:
        super()._freeze()
        if self.cls_token is not None and self.frozen_stages >= 0:
            self.cls_token.requires_grad_(False)

    def forward_tokens(
        self, x: Tensor, valid_sizes: Sizes = None
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Images (B, C, H, W) -> for each of ``out_indices`` the map (B, h, w, dim) and the
        class token (B, dim), or None without one. The last layer's are normalised.

        ``valid_sizes``: see :meth:`Backbone.valid_sizes`.
        """
        self.check_input(x)
        sizes = self.valid_sizes(x, valid_sizes)
        x, sizes = self.patch_embed(x, sizes), shrink(sizes, self.patch_embed.patch_size)
        canvas, size, prefix = self.canvas(sizes, x, self.adapters), x.shape[1:3], 0
        if self.pos_embed is not None:
            x, prefix = self.pos_embed(x, canvas)
        if self.cls_token is not None:
            token = (self.cls_token + prefix).expand(len(x), -1, -1)
            x = torch.cat([token, x.flatten(1, 2)], dim=1)
        outs = []
        for i, layer in enumerate(self.layers):
            x = self.run(
                layer, self.adapters[i], x, canvas, *([] if self.cls_token is None else [size])
            )
            if i in self.out_indices:
                y = self.norm(x) if i == self.num_layers - 1 else x
                token = None
                if self.cls_token is not None:
                    y, token = y[:, 1:].unflatten(1, size), y[:, 0]
                outs.append((keep_valid(y, canvas), token))
        return outs

    def forward(self, x: Tensor, valid_sizes: Sizes = None) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) -> one map (B, dim, ceil(H / p), ceil(W / p)) for each of
        ``out_indices``, p the patch size, contiguous in memory.

        ``valid_sizes``: see :meth:`Backbone.valid_sizes`.
        """
        return tuple(to_feature_map(tokens) for tokens, _ in self.forward_tokens(x, valid_sizes))


def to_feature_map(x: Tensor) -> Tensor:
    """Tokens (B, H, W, C) -> map (B, C, H, W), contiguous in memory.

    mmcv's RoIAlign reads raw memory: any other strides give it wrong numbers.
    """
    return x.permute(0, 3, 1, 2).contiguous()


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


def check_positive(name: str, value: int) -> int:
    """Return ``value``, or raise ValueError unless it is a positive integer."""
    if type(value) is not int or value < 1:
        raise ValueError(f'{name}={value!r} must be a positive integer.')
    return value
