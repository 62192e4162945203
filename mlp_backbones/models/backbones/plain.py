"""The plain topology: a model as it was published."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers import (
    PatchEmbed,
    PositionEmbedding,
    Region,
    Resolution,
    Sizes,
    keep_valid,
    make_region,
    shrink,
)
from .base import (
    Backbone,
    as_tuple,
    check_out_indices,
    check_positive,
    check_range,
    stochastic_depth,
    to_feature_maps,
)


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
        pretrained: The checkpoint of such an ``init_cfg``, as mmseg's models hand it on.
            Default: None.
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
        pretrained: str | None = None,
        **block_options,
    ):
        super().__init__(in_channels, with_cp, init_cfg, pretrained)
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
        self.num_layers = depth
        self.out_indices = check_out_indices(
            [i + depth if type(i) is int and i < 0 else i for i in as_tuple(out_indices)], depth
        )
        self.frozen_stages = check_range('frozen_stages', frozen_stages, -1, depth)
        grid = -(-pretrain_img_size // patch_size)
        (self.resolutions,) = self.make_resolutions(
            [grid], [depth], resolution, interpolation, int(cls_token)
        )

        norm = self.make_norm(dim) if patch_norm else None
        self.patch_embed = PatchEmbed(in_channels, dim, patch_size, norm)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        self.pos_embed = None
        if pos_embed:
            method = self.default_interpolation if interpolation is None else interpolation
            self.pos_embed = PositionEmbedding(grid, dim, method, int(cls_token))
        drop_rates = stochastic_depth(drop_path_rate, depth)
        self.layers = nn.ModuleList(
            self.make_block(dim=dim, resolution=r, drop_path=rate, **options)
            for r, rate in list(zip(self.resolutions, drop_rates, strict=True))[
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
        region, prefix = self.region(x, sizes, self.resolutions), 0
        if self.pos_embed is not None:
            x, prefix = self.pos_embed(x, region)
        if self.cls_token is not None:
            token = (self.cls_token + prefix).expand(x.shape[0], -1, -1)
            x = torch.cat([token, x.flatten(1, 2)], dim=1)
        outs = []
        for i, layer in enumerate(self.layers):
            x = self.run(layer, x, region, self.resolutions[i])
            if i in self.out_indices:
                y = self.norm(x) if i == self.num_layers - 1 else x
                token = None
                if self.cls_token is not None:
                    y, token = y[:, 1:].unflatten(1, region.size), y[:, 0]
                outs.append((keep_valid(y, region), token))
        return outs

    def region(
        self, x: Tensor, sizes: Tensor | None, resolutions: Sequence[Resolution | None]
    ) -> Region:
        if self.pos_embed is not None:  # it is resampled, whatever the blocks do
            return make_region(x, sizes, self.pos_embed.grid, self.pos_embed.interpolation)
        return super().region(x, sizes, resolutions)

    def forward(self, x: Tensor, valid_sizes: Sizes = None) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) -> one map (B, dim, ceil(H / p), ceil(W / p)) for each of
        ``out_indices``, p the patch size, contiguous in memory.

        ``valid_sizes``: see :meth:`Backbone.valid_sizes`.
        """
        maps = [tokens for tokens, _ in self.forward_tokens(x, valid_sizes)]
        return to_feature_maps(maps, self.training)
