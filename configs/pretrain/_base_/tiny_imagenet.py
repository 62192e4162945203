# A backbone of about 2 M parameters as a classifier of Tiny ImageNet: 100,000 images of 64 x 64
# pixels, 200 classes. tools/prepare_tiny_imagenet.py writes train.txt and val.txt.
_base_ = './classifier.py'

data_root = 'data/tiny-imagenet-200'
num_classes = 200
max_epochs = 8

model = dict(
    # Token-mixing grids of 8, 8, 8 and 4 tokens a side, which fit detection better than those of
    # 64-pixel images, 4, 4, 4 and 2.
    backbone=dict(arch='nano', pretrain_img_size=128, drop_path_rate=0.0),
    head=dict(num_classes=num_classes, in_channels=256),
)
data_preprocessor = dict(num_classes=num_classes)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    # shifts by up to 6 pixels
    dict(type='RandomCrop', crop_size=64, padding=6, pad_val=(104, 116, 124)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        type='CustomDataset', data_root=data_root, ann_file='train.txt', pipeline=train_pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        type='CustomDataset', data_root=data_root, ann_file='val.txt', pipeline=test_pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

# In bfloat16: optim_wrapper.type=mlp_backbones.BFloat16OptimWrapper (docs/weights.md#in-bfloat16).
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=1,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=128)

default_hooks = dict(logger=dict(interval=50), checkpoint=dict(max_keep_ckpts=2))
