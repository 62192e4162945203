from .key_maps import KEY_MAPS, rename_keys

__all__ = ['KEY_MAPS', 'rename_keys']
