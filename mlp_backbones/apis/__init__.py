from .inference import inferencer, init_model
from .prediction import predict

__all__ = ['inferencer', 'init_model', 'predict']
