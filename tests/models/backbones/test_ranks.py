"""Two ranks have the gradients of one."""

import torch
from families import SIZES, classes, small
from torch import nn

from mlp_backbones.models import PlainBackbone, PyramidBackbone


def on_rank(rank, folder):
    """Gradients of one image on each of two ranks are those of both images on one."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # before torch 2.6, where FSDP does not run on a CPU
        fully_shard = None

    def loss(outs):
        return sum(o.square().mean() for o in outs)

    def fsdp1(model, blocks):
        kinds = {type(block) for block in blocks}
        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=ModuleWrapPolicy(kinds),
            use_orig_params=True,
            device_id=torch.device('cpu'),
        )

    def fsdp2(model, blocks):
        for module in (*blocks, model):
            fully_shard(module)
        return model

    def gradients(model):
        if isinstance(model, FullyShardedDataParallel):
            with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
                return {n: p.grad.clone() for n, p in model.named_parameters()}
        full = {
            n: getattr(p.grad, 'full_tensor', lambda p=p: p.grad)()
            for n, p in model.named_parameters()
        }
        return full

    wraps = [lambda model, blocks: nn.parallel.DistributedDataParallel(model)]
    wraps += [fsdp1, fsdp2] if fully_shard else []
    x, sizes = torch.randn(2, 3, 90, 75, generator=torch.Generator().manual_seed(0)), SIZES
    for cls in classes(PyramidBackbone) + classes(PlainBackbone):
        whole = small(cls)
        loss(whole(x, valid_sizes=sizes)).backward()
        expected = {n: p.grad for n, p in whole.named_parameters()}
        for wrap in wraps:
            model = small(cls)
            blocks = [m for m in model.modules() if hasattr(m, 'drop_path')]
            model = wrap(model, blocks)
            loss(model(x[rank : rank + 1], valid_sizes=sizes[rank : rank + 1])).backward()
            for name, gradient in gradients(model).items():
                name = name.replace('_fsdp_wrapped_module.', '').replace('module.', '')
                torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
    torch.distributed.destroy_process_group()


def test_two_ranks_have_the_gradients_of_one(tmp_path):
    torch.multiprocessing.spawn(on_rank, (str(tmp_path),), nprocs=2)
