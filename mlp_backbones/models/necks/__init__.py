from .token_reshape import CrossAttentionReshape, MLPReshape

__all__ = ['CrossAttentionReshape', 'MLPReshape']
