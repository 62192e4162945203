"""How other projects name the parameters of published models: one map per source.

A map is a table of names, theirs to ours, of modules or of single parameters; ``*`` stands
for the number of a layer. One of them tells where a checkpoint comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

OURS = 'mlp_backbones'
# Parts of a classifier that a backbone has no use for.
CLASSIFIER = {
    'head': 'classifier',
    'head.fc': 'classifier',
    'head_dist': 'classifier',
}


def from_flax(kernel: Tensor) -> Tensor:
    """Flax keeps Dense kernels as (in, out) and Conv kernels as (h, w, in, out)."""
    return kernel.permute(-1, -2, *range(kernel.dim() - 2))


def from_convolution(weight: Tensor) -> Tensor:
    """A convolution of 1 x 1, (out, in, 1, 1), is a linear layer, (out, in)."""
    return weight.flatten(1) if weight.dim() == 4 and weight.shape[2:] == (1, 1) else weight


@dataclass(frozen=True)
class KeyMap:
    """The names that a source gives to the parameters of one of our classes.

    Without ``names`` they are ours.

    Args:
        source: Whose names they are.
        family: Name of our class.
        telling: The one of their names that no other source has.
        names: Their name -> ours, of a module or of a single parameter.
        leaves: Their name of a module's parameter -> ours and what to do with the value,
            where either differs.
        left_out: Their names of what our class does not have -> what it is.
    """

    source: str
    family: str
    telling: str = ''
    names: Mapping[str, str] = field(default_factory=dict)
    leaves: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=lambda: CLASSIFIER)

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern, str]]:
        return [(_pattern(name), name) for name in (*self.names, *self.left_out)]

    def find(self, key: str) -> str | None:
        """The name of the map, theirs, that ``key`` belongs to; None if none."""
        return next((name for pattern, name in self._patterns if pattern.fullmatch(key)), None)

    def translate(self, key: str, value: Tensor) -> tuple[str, Tensor]:
        """Our name of ``key``, which is one of ``names``, and our layout of ``value``."""
        match, name = next(
            (match, name) for pattern, name in self._patterns if (match := pattern.fullmatch(key))
        )
        *numbers, leaf = match.groups()
        ours = self.names[name]
        for number in numbers:
            ours = ours.replace('*', number, 1)
        if leaf in self.leaves:
            leaf, convert = self.leaves[leaf]
            value = convert(value)
        ours = f'{ours}.{leaf}' if leaf else ours
        if ours.endswith(('.alpha', '.beta')):  # timm's Affine: (1, 1, C)
            value = value.flatten()
        if ours == 'pos_embed.weight' and value.dim() == 3:  # timm's: (1, N, C)
            value = value[0]
        return ours, value

    def translate_all(
        self, weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, list[str]], list[str]]:
        """Weights by our names and in our layout, what is left out by its kind, and the names
        that the map does not know.
        """
        if not self.names:
            return dict(weights), {}, []
        state, left_out, unknown = {}, {}, []
        for key, value in weights.items():
            name = self.find(key)
            if name is None:
                unknown.append(key)
            elif name in self.left_out:
                left_out.setdefault(self.left_out[name], []).append(key)
            else:
                ours, value = self.translate(key, value)
                state[ours] = value
        return state, left_out, unknown

    def tells(self, keys: Iterable[str]) -> bool:
        """Whether the telling name is among ``keys``."""
        return any(map(_pattern(self.telling).fullmatch, keys))


def _pattern(name: str) -> re.Pattern:
    """A pattern that matches ``name`` and, if it is a module, its parameters."""
    return re.compile(re.escape(name).replace(r'\*', r'(\d+)') + r'(?:[./](\w+))?')


KEY_MAPS = (
    # timm/models/mlp_mixer.py; gMLP
    KeyMap(
        'timm',
        'PlainGMLP',
        'blocks.*.mlp_channels.gate.proj',
        {
            'stem.proj': 'patch_embed.proj',
            'blocks.*.norm': 'layers.*.norm',
            'blocks.*.mlp_channels.fc1': 'layers.*.fc1',
            'blocks.*.mlp_channels.gate.norm': 'layers.*.sgu.norm',
            'blocks.*.mlp_channels.gate.proj': 'layers.*.sgu.proj.f',
            'blocks.*.mlp_channels.fc2': 'layers.*.fc2',
            'norm': 'norm',
        },
    ),
    # timm/models/mlp_mixer.py; MLP-Mixer, of ImageNet-1k and -21k alike
    KeyMap(
        'timm',
        'PlainMLPMixer',
        'blocks.*.mlp_tokens.fc1',
        {
            'stem.proj': 'patch_embed.proj',
            'blocks.*.norm1': 'layers.*.norm1',
            'blocks.*.mlp_tokens.fc1': 'layers.*.mixer.f.fc1',
            'blocks.*.mlp_tokens.fc2': 'layers.*.mixer.f.fc2',
            'blocks.*.norm2': 'layers.*.norm2',
            'blocks.*.mlp_channels.fc1': 'layers.*.mlp.fc1',
            'blocks.*.mlp_channels.fc2': 'layers.*.mlp.fc2',
            'norm': 'norm',
        },
    ),
    # timm/models/mlp_mixer.py; ResMLP
    KeyMap(
        'timm',
        'PlainResMLP',
        'blocks.*.linear_tokens',
        {
            'stem.proj': 'patch_embed.proj',
            'blocks.*.norm1': 'layers.*.norm1',
            'blocks.*.linear_tokens': 'layers.*.linear_tokens.f',
            'blocks.*.ls1': 'layers.*.ls1.gamma',
            'blocks.*.norm2': 'layers.*.norm2',
            'blocks.*.mlp_channels.fc1': 'layers.*.mlp.fc1',
            'blocks.*.mlp_channels.fc2': 'layers.*.mlp.fc2',
            'blocks.*.ls2': 'layers.*.ls2.gamma',
            'norm': 'norm',
        },
    ),
    # github.com/facebookresearch/deit, resmlp_models.py
    KeyMap(
        'facebookresearch',
        'PlainResMLP',
        'blocks.*.attn',
        {
            'patch_embed.proj': 'patch_embed.proj',
            'blocks.*.norm1': 'layers.*.norm1',
            'blocks.*.attn': 'layers.*.linear_tokens.f',
            'blocks.*.gamma_1': 'layers.*.ls1.gamma',
            'blocks.*.norm2': 'layers.*.norm2',
            'blocks.*.mlp.fc1': 'layers.*.mlp.fc1',
            'blocks.*.mlp.fc2': 'layers.*.mlp.fc2',
            'blocks.*.gamma_2': 'layers.*.ls2.gamma',
            'norm': 'norm',
        },
    ),
    # timm/models/vision_transformer.py; facebookresearch/deit builds its models with it
    KeyMap(
        'timm or facebookresearch',
        'PlainViT',
        'blocks.*.attn.qkv',
        {
            'cls_token': 'cls_token',
            'pos_embed': 'pos_embed.weight',
            'patch_embed.proj': 'patch_embed.proj',
            'blocks.*.norm1': 'layers.*.norm1',
            'blocks.*.attn.qkv': 'layers.*.mixer.f.qkv',
            'blocks.*.attn.proj': 'layers.*.mixer.f.proj',
            'blocks.*.norm2': 'layers.*.norm2',
            'blocks.*.mlp.fc1': 'layers.*.mlp.fc1',
            'blocks.*.mlp.fc2': 'layers.*.mlp.fc2',
            'norm': 'norm',
        },
        left_out={
            **CLASSIFIER,
            'dist_token': 'distillation token',
            'pre_logits.fc': 'classifier',
        },
    ),
    # github.com/google-research/vision_transformer, models_mixer.py (flax, .npz)
    KeyMap(
        'google',
        'PlainMLPMixer',
        'MixerBlock_*/token_mixing/Dense_0',
        {
            'stem': 'patch_embed.proj',
            'MixerBlock_*/LayerNorm_0': 'layers.*.norm1',
            'MixerBlock_*/token_mixing/Dense_0': 'layers.*.mixer.f.fc1',
            'MixerBlock_*/token_mixing/Dense_1': 'layers.*.mixer.f.fc2',
            'MixerBlock_*/LayerNorm_1': 'layers.*.norm2',
            'MixerBlock_*/channel_mixing/Dense_0': 'layers.*.mlp.fc1',
            'MixerBlock_*/channel_mixing/Dense_1': 'layers.*.mlp.fc2',
            'pre_head_layer_norm': 'norm',
        },
        leaves={'kernel': ('weight', from_flax), 'scale': ('weight', lambda scale: scale)},
    ),
    # mmpretrain/models/backbones/mlp_mixer.py
    KeyMap(
        'mmpretrain',
        'PlainMLPMixer',
        'layers.*.token_mix.layers.0.0',
        {
            'patch_embed.projection': 'patch_embed.proj',
            'layers.*.ln1': 'layers.*.norm1',
            'layers.*.token_mix.layers.0.0': 'layers.*.mixer.f.fc1',
            'layers.*.token_mix.layers.1': 'layers.*.mixer.f.fc2',
            'layers.*.ln2': 'layers.*.norm2',
            'layers.*.channel_mix.layers.0.0': 'layers.*.mlp.fc1',
            'layers.*.channel_mix.layers.1': 'layers.*.mlp.fc2',
            'ln1': 'norm',
        },
    ),
    # github.com/sail-sg/poolformer, models/poolformer.py; mmpretrain and mmseg have its names
    KeyMap(
        'sail-sg',
        'PoolFormer',
        'network.*.*.layer_scale_1',
        {
            'patch_embed.proj': 'patch_embed.proj',
            **{
                f'network.{2 * i}.*.{theirs}': f'stages.{i}.*.{ours}'
                for i in range(4)
                for theirs, ours in {
                    'norm1': 'norm1',
                    'layer_scale_1': 'ls1.gamma',
                    'norm2': 'norm2',
                    'mlp.fc1': 'mlp.fc1',
                    'mlp.fc2': 'mlp.fc2',
                    'layer_scale_2': 'ls2.gamma',
                }.items()
            },
            **{f'network.{2 * i - 1}.proj': f'merges.{i}.conv' for i in (1, 2, 3)},
            **{f'norm{2 * i}': f'norms.{i}' for i in range(4)},
        },
        leaves={'weight': ('weight', from_convolution)},
        left_out={**CLASSIFIER, 'norm': 'classifier'},
    ),
    # timm/models/metaformer.py
    KeyMap(
        'timm',
        'PoolFormer',
        'stages.*.blocks.*.layer_scale1.scale',
        {
            'stem.conv': 'patch_embed.proj',
            **{
                f'stages.*.blocks.*.{theirs}': f'stages.*.*.{ours}'
                for theirs, ours in {
                    'norm1': 'norm1',
                    'layer_scale1.scale': 'ls1.gamma',
                    'norm2': 'norm2',
                    'mlp.fc1': 'mlp.fc1',
                    'mlp.fc2': 'mlp.fc2',
                    'layer_scale2.scale': 'ls2.gamma',
                }.items()
            },
            'stages.*.downsample.conv': 'merges.*.conv',
        },
        leaves={'weight': ('weight', from_convolution)},
        left_out={**CLASSIFIER, 'head.norm': 'classifier'},
    ),
    # github.com/SHI-Labs/Convolutional-MLPs, src/convmlp.py
    KeyMap(
        'SHI-Labs',
        'ConvMLP',
        'stages.*.blocks.*.connect_norm',
        {
            **{
                f'{theirs}.{3 * i + j}': f'{ours.format(i)}.{part}'
                for theirs, ours in {
                    'tokenizer.block': 'patch_embed.steps.{}',
                    'conv_stages.conv_blocks.*': 'stages.0.*.steps.{}',
                }.items()
                for i in range(3)
                for j, part in enumerate(('conv', 'norm'))
            },
            'conv_stages.downsample': 'merges.1.conv',
            **{
                f'stages.{i}.blocks.*.{theirs}': f'stages.{i + 1}.*.{ours}'
                for i in range(3)
                for theirs, ours in {
                    'norm1': 'norm1',
                    'channel_mlp1.fc1': 'mlp1.fc1',
                    'channel_mlp1.fc2': 'mlp1.fc2',
                    'connect_norm': 'conv_norm',
                    'connect': 'conv',
                    'norm2': 'norm2',
                    'channel_mlp2.fc1': 'mlp2.fc1',
                    'channel_mlp2.fc2': 'mlp2.fc2',
                }.items()
            },
            **{f'stages.{i}.downsample_mlp.downsample': f'merges.{i + 2}.conv' for i in (0, 1)},
        },
        left_out={**CLASSIFIER, 'norm': 'classifier'},
    ),
)

# Our own names, asked in this order: a gMLP has an fc1, too, and a ResMLP an ls1.
OUR_MAPS = (
    KeyMap(OURS, 'ShiftGMLP', 'stages.*.*.gate.mix.f'),
    KeyMap(OURS, 'ConvMLP', 'stages.*.*.conv_norm'),
    *(
        KeyMap(OURS, f'{plain}{family}', f'{layers}.{name}')
        for plain, layers in (('Plain', 'layers.*'), ('', 'stages.*.*'))
        for family, name in (
            ('GMLP', 'sgu.proj.f'),
            ('MLPMixer', 'mixer.f.fc1'),
            ('ResMLP', 'linear_tokens.f'),
            ('ViT', 'mixer.f.qkv'),
            ('S2MLP', 'fc1'),
        )
    ),
    KeyMap(OURS, 'PoolFormer', 'stages.*.*.ls1.gamma'),
)
