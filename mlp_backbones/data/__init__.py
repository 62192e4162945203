"""A folder of a user's own images, as the data of a config."""

from .config import use_data

__all__ = ['use_data']
