from .inference import inferencer, init_model

__all__ = ['inferencer', 'init_model']
