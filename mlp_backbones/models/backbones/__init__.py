from .convmlp import ConvMLP
from .gmlp import GMLP, PlainGMLP
from .mlp_mixer import MLPMixer, PlainMLPMixer
from .plain import PlainBackbone
from .poolformer import PoolFormer
from .pyramid import PyramidBackbone
from .resmlp import PlainResMLP, ResMLP
from .s2mlp import S2MLP, PlainS2MLP
from .shift_gmlp import ShiftGMLP
from .vit import PlainViT

__all__ = [
    'ConvMLP',
    'GMLP',
    'MLPMixer',
    'PlainBackbone',
    'PlainGMLP',
    'PlainMLPMixer',
    'PlainResMLP',
    'PlainS2MLP',
    'PlainViT',
    'PoolFormer',
    'PyramidBackbone',
    'ResMLP',
    'S2MLP',
    'ShiftGMLP',
]
