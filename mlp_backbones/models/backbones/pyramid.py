"""The pyramid: four stages with merging between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..layers import (
    ConvStem,
    PatchEmbed,
    PatchMerging,
    Region,
    Sizes,
    keep_valid,
    norm_map,
    shrink,
)
from .base import (
    Backbone,
    as_tuple,
    check_choice,
    check_out_indices,
    check_positive,
    check_range,
    stochastic_depth,
    to_feature_maps,
)


class PyramidBackbone(Backbone):
    """Four stages of blocks with merging between them.

    A stem of stride 4, then stages at strides 4, 8, 16 and 32; each output has a norm of its
    own. A family gives ``presets`` and ``make_block``, and may set ``make_stage``, ``make_merge``,
    ``make_norm``, ``drop_rates``, which stages' maps are taken before their blocks, and what is
    the default of a stem, of the mixing strides and of the resolution.

    Args:
        arch: A preset, or a dict with 'channels' and 'depths', one entry per stage, and
            optionally 'mixing_strides' and any argument of the family's block. The
            token-mixing grid of a stage has ``ceil(pretrain_img_size / mixing_stride)``
            tokens a side; None is for a stage without one. Default: the family's ``default_arch``,
            'tiny' for most.
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
        frozen_stages: -1 freezes nothing, 0 the stem, n the first n stages as well.
            Default: -1.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at
            the first. Default: 0.1.
        with_cp: Whether to recompute each block's activations in the backward pass,
            which saves memory. Default: False.
        init_cfg: mmengine's initialisation config, such as
            ``dict(type='Pretrained', checkpoint=...)``. Default: None.
        pretrained: The checkpoint of such an ``init_cfg``, as mmseg's models hand it on.
            Default: None.
        stem: 'patch', a linear layer on patches of 4 x 4 pixels; 'overlap', one on 7 x 7 pixels
            in steps of 4; or 'conv', two convolutions of 3 x 3 and stride 2 with batch norm.
            Default: the family's.
        norm_eval: Whether batch norms keep their running statistics in training, as a detector
            wants that starts from weights. Default: False.
        norm_cfg: The batch norm to take, such as ``dict(type='SyncBN')``. Default: BN.
        block_options: Arguments of the family's block, which win over those in ``arch``.
    """

    stems = {
        'patch': partial(PatchEmbed, patch_size=4),
        'overlap': partial(PatchEmbed, patch_size=4, kernel_size=7, padding=2),
        'conv': ConvStem,
    }
    default_arch = 'tiny'
    default_stem = 'patch'
    default_mixing_strides: Sequence[int | None] = (16, 16, 16, 32)
    default_resolution = 'window+interpolate'
    make_merge = PatchMerging  # (channels before, channels after)
    taken_before: Sequence[int] = ()  # stages whose maps are what their blocks are given

    def __init__(
        self,
        arch: str | dict | None = None,
        in_channels: int = 3,
        pretrain_img_size: int = 224,
        resolution: str | Sequence[str] | None = None,
        interpolation: str | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        pretrained: str | None = None,
        stem: str | None = None,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        **block_options,
    ):
        super().__init__(in_channels, with_cp, init_cfg, pretrained)
        arch = self.default_arch if arch is None else arch
        options = {**self.resolve_arch(arch, required=('channels', 'depths')), **block_options}
        channels = as_tuple(options.pop('channels'))
        depths = as_tuple(options.pop('depths'))
        mixing_strides = as_tuple(options.pop('mixing_strides', self.default_mixing_strides))
        per_stage = dict(channels=channels, depths=depths, mixing_strides=mixing_strides)
        if any(len(values) != 4 for values in per_stage.values()):
            raise ValueError(
                'channels, depths and mixing_strides of an arch have 4 entries each, one per '
                f'stage; got {per_stage}.'
            )
        optional = ['mixing_strides'] if None in self.default_mixing_strides else []
        for name, values in per_stage.items():
            for value in values:
                if value is not None or name not in optional:
                    check_positive(name, value)
        check_positive('pretrain_img_size', pretrain_img_size)
        self.check_options(options)
        self.channels = channels
        self.out_indices = check_out_indices(out_indices, len(depths))
        self.frozen_stages = check_range('frozen_stages', frozen_stages, -1, len(depths))
        num_stages = max(self.out_indices) + 1
        grids = [stride and -(-pretrain_img_size // stride) for stride in mixing_strides]
        self.resolutions = self.make_resolutions(grids, depths, resolution, interpolation)
        drop_rates = self.drop_rates(drop_path_rate, depths)

        make_stem = self.stems[check_choice('stem', stem or self.default_stem, self.stems)]
        self.patch_embed = make_stem(in_channels, channels[0])
        self.merges = nn.ModuleList()  # merges[i] leads into stage i
        self.stages = nn.ModuleList()
        for i in range(num_stages):
            self.merges.append(self.make_merge(*channels[i - 1 : i + 1]) if i else nn.Identity())
            # what no output needs is not built
            needed = i < num_stages - 1 or i not in self.taken_before
            blocks = self.make_stage(i, drop_rates[i], options) if needed else []
            self.stages.append(nn.ModuleList(blocks))
        self.norms = nn.ModuleDict({str(i): self.make_norm(channels[i]) for i in self.out_indices})
        self.set_batch_norm(norm_eval, norm_cfg)
        self._freeze()

    def make_stage(
        self, stage: int, drop_rates: Sequence[float], options: dict
    ) -> list[nn.Module]:
        """The blocks of a stage, one for each of ``drop_rates``."""
        return [
            self.make_block(
                dim=self.channels[stage], resolution=resolution, drop_path=rate, **options
            )
            for resolution, rate in zip(self.resolutions[stage], drop_rates, strict=True)
        ]

    @staticmethod
    def make_norm(dim: int) -> nn.Module:
        """The norm of an output."""
        return nn.LayerNorm(dim, eps=1e-6)

    @staticmethod
    def drop_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
        """The rates of stochastic depth of all blocks, by stage."""
        rates = iter(stochastic_depth(rate, sum(depths)))
        return [[next(rates) for _ in range(depth)] for depth in depths]

    def is_unbuilt(self, name: str) -> bool:
        match = re.match(r'(stages|merges|norms)\.([0-3])\.', name)
        if match is None:
            return False
        stage = int(match[2])
        if match[1] == 'norms':
            return stage not in self.out_indices
        return stage >= len(self.stages) or match[1] == 'stages' and not len(self.stages[stage])

    def optional_weights(self) -> list[dict[str, Tensor]]:
        """The norms of outputs, of which a classifier has the last at most."""
        return [
            {
                f'norms.{i}.{name}': value
                for name, value in self.make_norm(self.channels[i]).state_dict().items()
            }
            for i in self.out_indices
        ]

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
        x, sizes, region = self.patch_embed(x, sizes), shrink(sizes, 4), None
        outs = []
        for i, blocks in enumerate(self.stages):
            if i:
                x, sizes = self.merges[i](x, region), shrink(sizes, 2)
            region = self.region(x, sizes, self.resolutions[i])
            given = x
            for block, resolution in zip(blocks, self.resolutions[i], strict=len(blocks) > 0):
                x = self.run(block, x, region, resolution)
            if i in self.out_indices:
                outs.append(self.output(i, given if i in self.taken_before else x, region))
        return to_feature_maps(outs, self.training)

    def output(self, stage: int, x: Tensor, region: Region) -> Tensor:
        """What is returned of the tokens of a stage, zero beyond each image."""
        return keep_valid(norm_map(self.norms[str(stage)], x, region), region)
