"""The two topologies, and what a backbone does whatever its blocks are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers import (
    PatchEmbed,
    PatchMerging,
    ResolutionAdapter,
    TokenLinear,
    check_shape,
    parse_resolution,
)
from ..layers.resampling import check_interpolation


class Backbone(BaseModule):
    """What every backbone shares: its arguments' checks, freezing and loading.

    A subclass sets ``presets``, a dict from the names of ``arch`` to its settings.
    """

    presets: dict[str, dict] = {}

    def __init__(self, in_channels: int, with_cp: bool, init_cfg: dict | list[dict] | None):
        super().__init__(init_cfg)
        self.in_channels = in_channels
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

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """Apply a block; with ``with_cp``, recompute it in the backward pass."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

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
        """Load ``init_cfg=dict(type='Pretrained', checkpoint=...)``, if it is given.

        Without it the parameters keep the initial values of their family, which they
        have since construction.

        Raises:
            FileNotFoundError: if the checkpoint does not exist.
            ValueError: if it is no checkpoint, or lacks a parameter of the model.
        """
        configs = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg]
        for cfg in configs:
            if cfg and cfg['type'] == 'Pretrained':
                self._check_checkpoint(cfg['checkpoint'], cfg.get('prefix'))
        super().init_weights()

    def _check_checkpoint(self, filename: str, prefix: str | None) -> None:
        who = f'{type(self).__name__}: init_cfg names the checkpoint {filename!r}'
        try:
            content = CheckpointLoader.load_checkpoint(filename, map_location='cpu')
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{who}, which does not exist.') from error
        except Exception as error:  # torch.load fails in a dozen ways on what is no checkpoint
            raise ValueError(f'{who}, which cannot be read as a checkpoint: {error}') from error
        state = content.get('state_dict', content) if isinstance(content, dict) else {}
        prefix = prefix.rstrip('.') + '.' if prefix else ''
        given = {key.removeprefix('module.').removeprefix(prefix) for key in state}
        missing = [key for key in self.state_dict() if key not in given]
        if missing:
            raise ValueError(
                f'{who}, which lacks {len(missing)} of the {len(self.state_dict())} parameters '
                f'of the model, among them {missing[:3]}; it has {list(state)[:3]}. Give the '
                "checkpoint of this backbone, with prefix='backbone.' if it is a detector's."
            )

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # token-mixing weights of another grid are resized where they are loaded
        resizable = [n + '.' for n, m in self.named_modules() if isinstance(m, TokenLinear)]
        for name, param in self.state_dict().items():
            if not name.startswith(tuple(resizable)):
                check_shape(state_dict, prefix + name, param)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


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
            these per stage. Default: 'window+interpolate'.
        interpolation: 'bilinear' or 'bicubic'. Default: 'bilinear'.
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

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        pretrain_img_size: int = 224,
        resolution: str | Sequence[str] = 'window+interpolate',
        interpolation: str = 'bilinear',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **block_options,
    ):
        super().__init__(in_channels, with_cp, init_cfg)
        settings = self.resolve_arch(arch, required=('channels', 'depths'))
        channels = tuple(settings.pop('channels'))
        depths = tuple(settings.pop('depths'))
        mixing_strides = tuple(settings.pop('mixing_strides', (16, 16, 16, 32)))
        if not len(channels) == len(depths) == len(mixing_strides) == 4:
            raise ValueError(
                'channels, depths and mixing_strides of an arch have 4 entries each, one per '
                f'stage; got channels={channels}, depths={depths}, '
                f'mixing_strides={mixing_strides}.'
            )
        check_positive('pretrain_img_size', pretrain_img_size)
        check_interpolation(interpolation)
        patterns = parse_resolution(resolution, len(depths))
        self.out_indices = check_out_indices(out_indices, len(depths))
        self.frozen_stages = check_range('frozen_stages', frozen_stages, -1, len(depths))
        num_stages = max(self.out_indices) + 1
        drop_rates = stochastic_depth(drop_path_rate, sum(depths))

        self.patch_embed = PatchEmbed(in_channels, channels[0], patch_size=4)
        self.merges = nn.ModuleList(  # merges[i] leads into stage i
            PatchMerging(channels[i - 1], channels[i]) if i else nn.Identity()
            for i in range(num_stages)
        )
        self.stages = nn.ModuleList()
        for i in range(num_stages):
            side = -(-pretrain_img_size // mixing_strides[i])
            blocks = []
            for j in range(depths[i]):
                mode = patterns[i][j % len(patterns[i])]
                blocks.append(
                    self.make_block(
                        dim=channels[i],
                        adapter=ResolutionAdapter(side, mode, interpolation),
                        drop_path=drop_rates[sum(depths[:i]) + j],
                        **{**settings, **block_options},
                    )
                )
            self.stages.append(nn.ModuleList(blocks))
        self.norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(channels[i], eps=1e-6) for i in self.out_indices}
        )
        self._freeze()

    def make_block(
        self, dim: int, adapter: ResolutionAdapter, drop_path: float, **options
    ) -> nn.Module:
        """A block of the family, on tokens (B, H, W, dim)."""
        raise NotImplementedError

    def frozen_modules(self) -> list[nn.Module]:
        frozen = [self.patch_embed] if self.frozen_stages >= 0 else []
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen += [self.merges[i], self.stages[i]]
            frozen += [self.norms[str(i)]] if i in self.out_indices else []
        return frozen

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) -> one map (B, C_i, ceil(H / s_i), ceil(W / s_i)) for each of
        ``out_indices``, of stride s_i = 4, 8, 16, 32, contiguous in memory.
        """
        self.check_input(x)
        x = self.patch_embed(x)
        outs = []
        for i, (merge, blocks) in enumerate(zip(self.merges, self.stages)):
            x = merge(x)
            for block in blocks:
                x = self.run(block, x)
            if i in self.out_indices:
                outs.append(to_feature_map(self.norms[str(i)](x)))
        return tuple(outs)


def to_feature_map(x: Tensor) -> Tensor:
    """Tokens (B, H, W, C) -> map (B, C, H, W), contiguous in memory.

    mmcv's RoIAlign reads raw memory: any other strides give it wrong numbers.
    """
    return x.permute(0, 3, 1, 2).contiguous()


def stochastic_depth(rate: float, depth: int) -> list[float]:
    """Drop rates of ``depth`` blocks that rise linearly from 0 to ``rate``."""
    if not 0 <= rate < 1:
        raise ValueError(f'drop_path_rate={rate!r} must be at least 0 and below 1.')
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def check_out_indices(out_indices: Sequence[int], num: int) -> tuple[int, ...]:
    """Return ``out_indices`` as a sorted tuple, or raise ValueError."""
    if isinstance(out_indices, int):
        out_indices = (out_indices,)
    out_indices = tuple(out_indices)
    valid = all(isinstance(i, int) and 0 <= i < num for i in out_indices)
    if not out_indices or not valid or list(out_indices) != sorted(set(out_indices)):
        raise ValueError(
            f'out_indices={out_indices} must be distinct indices in rising order from 0 to '
            f'{num - 1}.'
        )
    return out_indices


def check_range(name: str, value: int, low: int, high: int) -> int:
    """Return ``value``, or raise ValueError unless it is an integer in [low, high]."""
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f'{name}={value!r} must be an integer from {low} to {high}.')
    return value


def check_positive(name: str, value: int) -> int:
    """Return ``value``, or raise ValueError unless it is a positive integer."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name}={value!r} must be a positive integer.')
    return value
