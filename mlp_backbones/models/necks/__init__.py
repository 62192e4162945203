from .simple_feature_pyramid import SimpleFeaturePyramid
from .token_reshape import CrossAttentionReshape, MLPReshape

__all__ = ['CrossAttentionReshape', 'MLPReshape', 'SimpleFeaturePyramid']
