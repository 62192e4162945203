from .base import PyramidBackbone
from .gmlp import GMLP

__all__ = ['GMLP', 'PyramidBackbone']
