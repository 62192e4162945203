"""Layer-wise learning-rate decay: the earlier a layer, the smaller its rate."""

from __future__ import annotations

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS
from ..spelling import did_you_mean

# Learned values that are added to tokens: like a bias, they do not decay.
EMBEDDINGS = ('cls_token', 'pos_embed')
OPTIONS = ('layer_decay_rate', 'custom_keys')
# What mmengine's constructor must be told and this one does by itself; configs inherit them.
IMPLIED = dict(norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0, bypass_duplicate=True)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Scales the learning rate of a backbone's layers by ``rate ** (layers above it)``.

    A model inside the trained one that has ``get_layer_depth`` (mmpretrain's protocol; every
    backbone of this package) says which layer a parameter belongs to. All other parameters,
    such as those of neck and head, have the full rate. Weights decay, but norms, biases
    (gMLP's gate biases too), LayerScale, Affine, class tokens and position embeddings do
    not, in the whole model. Frozen parameters go to no optimizer.

    In a config of mmdet, mmseg or any other code base of OpenMMLab::

        optim_wrapper = dict(
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            constructor='mlp_backbones.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.7),
        )

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper.
        paramwise_cfg: ``layer_decay_rate``, above 0 and at most 1; optionally
            ``custom_keys``, a dict from a part of a parameter's name to ``lr_mult``, which
            comes on top of the layer's scale, and ``decay_mult``, which takes the place of
            the rule above. The longest part that a name contains counts.

    Raises:
        ValueError: for other options, or if no part of the model has ``get_layer_depth``.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        for name, value in self.paramwise_cfg.items():
            if name in IMPLIED and value == IMPLIED[name]:
                continue
            if name not in OPTIONS:
                raise ValueError(
                    f'paramwise_cfg: {type(self).__name__} takes {" and ".join(OPTIONS)}, not '
                    f'{name}={value!r}{did_you_mean(name, OPTIONS)}'
                )
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(
                f'paramwise_cfg: layer_decay_rate={rate!r} must be above 0 and at most 1.'
            )
        if self.base_lr is None:
            raise ValueError('the optimizer needs an lr that layer_decay_rate can scale.')
        for key, custom in self.paramwise_cfg.get('custom_keys', {}).items():
            if not set(custom) <= {'lr_mult', 'decay_mult'}:
                raise ValueError(
                    f'paramwise_cfg: custom_keys[{key!r}] takes lr_mult and decay_mult, not '
                    f'{dict(custom)}.'
                )

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Append the parameter groups of ``module``, the whole model, to ``params``."""
        depths = {
            f'{name}.' if name else '': part.get_layer_depth
            for name, part in module.named_modules()
            if hasattr(part, 'get_layer_depth')
        }
        if not depths:
            raise ValueError(
                f'{type(self).__name__} needs a backbone with get_layer_depth(), which '
                f'every backbone of mlp_backbones has; {type(module).__name__} has none.'
            )
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        groups = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            prefix = next((p for p in sorted(depths, key=len)[::-1] if name.startswith(p)), None)
            if prefix is None:
                layer, scale = 'rest of the model', 1.0
            else:
                depth, count = depths[prefix](name, prefix)
                layer = f'{prefix}layer {depth}' if depth < count - 1 else f'{prefix}output'
                scale = self.paramwise_cfg['layer_decay_rate'] ** (count - 1 - depth)
            key = max(sorted(key for key in custom_keys if key in name), key=len, default=None)
            custom = custom_keys.get(key, {})
            scale *= custom.get('lr_mult', 1.0)
            decay = custom.get('decay_mult', float(decays(name, param)))
            if (layer, scale, decay) not in groups:
                group = dict(params=[], lr=self.base_lr * scale, lr_scale=scale, layer=layer)
                if self.base_wd is not None:
                    group['weight_decay'] = self.base_wd * decay
                groups[layer, scale, decay] = group
            groups[layer, scale, decay]['params'].append(param)
        layers = list(dict.fromkeys(layer for layer, _, _ in groups))
        for key in sorted(groups, key=lambda key: (layers.index(key[0]), -key[2])):
            params.append(groups[key])
        print_log(f'Parameter groups of the optimizer:\n{table(params)}', logger='current')


def decays(name: str, param: nn.Parameter) -> bool:
    """Whether weight decay belongs on a parameter: on matrices and kernels."""
    # one axis: norms, biases, LayerScale, Affine
    return param.dim() > 1 and not (
        name.endswith('.bias') or any(part in name for part in EMBEDDINGS)
    )


def table(groups: list[dict]) -> str:
    """The parameter groups, one per line."""
    width = max(len(group['layer']) for group in groups)
    lines = [f'{"layer":{width}}  lr scale        lr  weight decay  parameters']
    for group in groups:
        count = sum(param.numel() for param in group['params'])
        decay = group.get('weight_decay')
        lines.append(
            f'{group["layer"]:{width}}  {group["lr_scale"]:8.3g}  {group["lr"]:8.3g}  '
            f'{"-" if decay is None else f"{decay:g}":>12}  {count:10,}'
        )
    return '\n'.join(lines)
