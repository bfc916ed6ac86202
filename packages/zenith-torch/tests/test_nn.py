"""Layers against PyTorch: convolutions, norms, pools, resizing, attention, reductions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_oracle import check, check_cases


def test_convolutions() -> None:
    x, y, z = torch.randn(2, 4, 9, 8), torch.randn(2, 4, 11), torch.randn(1, 2, 5, 6, 4)
    modules = {
        "plain": nn.Conv2d(4, 6, 3),
        "stride": nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
        "dilated": nn.Conv2d(4, 4, 3, dilation=2, padding=2),
        "depthwise": nn.Conv2d(4, 8, 3, groups=4, padding=1),
        "same": nn.Conv2d(4, 4, (4, 3), padding="same"),
        "reflect": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        "transposed_dilated": nn.ConvTranspose2d(4, 6, 2, dilation=2, bias=False),
    }
    check_cases((x,), {0: {0: "n"}}, [(torch.randn(1, 4, 9, 8),)], **modules)
    check_cases((x[0],), unbatched=modules["plain"])
    one = {"conv": nn.Conv1d(4, 3, 3, padding=1), "back": nn.ConvTranspose1d(4, 2, 3, stride=2)}
    check_cases((y,), {0: {0: "n", 2: "t"}}, [(torch.randn(3, 4, 16),)], **one)
    check_cases((z,), conv=nn.Conv3d(2, 3, (2, 3, 1), padding=1))


def test_norms() -> None:
    x, image = torch.randn(3, 5, 8), torch.randn(2, 6, 4, 4)
    w, bias = torch.rand(8), torch.randn(8)
    check_cases(
        (x, w, bias),
        {0: {0: "n"}},
        layer=lambda x, w, b: F.layer_norm(x, (8,), w, b),
        layer_no_bias=lambda x, w, b: F.layer_norm(x, (8,), w, eps=1e-6),
        layer_plain=lambda x, w, b: F.layer_norm(x, (5, 8)),
        rms=lambda x, w, b: F.rms_norm(x, (8,), w, 1e-6),
        rms_plain=lambda x, w, b: F.rms_norm(x, (8,)),
        normalize=lambda x, w, b: F.normalize(x, dim=-1),
    )
    batch = nn.BatchNorm2d(6).eval()
    batch.running_mean.uniform_(-1, 1)
    batch.running_var.uniform_(0.5, 2)
    check_cases(
        (image,),
        {0: {0: "n"}},
        batch=batch,
        batch_plain=nn.BatchNorm2d(6, affine=False).eval(),
        group=nn.GroupNorm(3, 6),
        group_plain=nn.GroupNorm(2, 6, affine=False),
        instance=nn.InstanceNorm2d(6, affine=True),
        local=lambda x: x / x.pow(2).mean(1, keepdim=True).sqrt(),
    )


def test_pools() -> None:
    x, y = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 10)
    check_cases(
        (x,),
        {0: {0: "n"}},
        max=lambda x: F.max_pool2d(x, 2),
        max_wide=lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
        max_ceil=lambda x: F.max_pool2d(x, 3, stride=2, ceil_mode=True),
        max_dilated=lambda x: F.max_pool2d(x, 2, dilation=2),
        average=lambda x: F.avg_pool2d(x, 2),
        average_padded=lambda x: F.avg_pool2d(x, 3, stride=1, padding=1),
        average_uncounted=lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        average_divisor=lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        to_one=lambda x: F.adaptive_avg_pool2d(x, 1),
        to_some=lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
        to_unequal=lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
        adaptive_max=lambda x: F.adaptive_max_pool2d(x, 1),
        adaptive_max_some=lambda x: F.adaptive_max_pool2d(x, (3, 2)),
    )
    check_cases(
        (y,),
        max=lambda y: F.max_pool1d(y, 3, 2),
        average=lambda y: F.avg_pool1d(y, 2),
        adaptive=lambda y: F.adaptive_avg_pool1d(y, 5),
    )


def test_averages_over_axes_of_any_size() -> None:
    check_cases(
        (torch.randn(2, 3, 9, 8),),
        {0: {2: "h", 3: "w"}},
        [(torch.randn(2, 3, 5, 12),), (torch.randn(2, 3, 2, 3),)],
        both=lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
        one=lambda x: F.adaptive_avg_pool2d(x, (None, 3)),
    )


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_resize(mode: str) -> None:
    x = torch.randn(1, 2, 5, 6)
    corners = {} if mode.startswith("nearest") else {"align_corners": True}
    check_cases(
        (x,),
        tolerance=1e-4,
        factor=lambda x: F.interpolate(x, scale_factor=2, mode=mode),
        size=lambda x: F.interpolate(x, size=(7, 9), mode=mode),
        down=lambda x: F.interpolate(x, size=(3, 2), mode=mode),
        odd_factor=lambda x: F.interpolate(x, scale_factor=1.57, mode=mode),
        corners=lambda x: F.interpolate(x, size=(8, 11), mode=mode, **corners),
    )


def test_grid_sample() -> None:
    x, grid = torch.randn(1, 2, 5, 6), torch.rand(1, 4, 3, 2) * 2 - 1
    check_cases(
        (x, grid),
        linear=lambda x, g: F.grid_sample(x, g, align_corners=False),
        nearest=lambda x, g: F.grid_sample(x, g, mode="nearest", align_corners=True),
        border=lambda x, g: F.grid_sample(x, g * 1.5, padding_mode="border", align_corners=False),
    )


def test_attention() -> None:
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 6)
    mask = torch.rand(2, 1, 5, 7) > 0.3
    mask[..., 0] = True
    bias = torch.randn(5, 7)
    sdpa = F.scaled_dot_product_attention
    program = check_cases(
        (q, k, v, mask, bias),
        {0: {0: "b"}, 1: {0: "b"}, 2: {0: "b"}, 3: {0: "b"}},
        plain=lambda q, k, v, m, b: sdpa(q, k, v),
        causal=lambda q, k, v, m, b: sdpa(q, k, v, is_causal=True),
        masked=lambda q, k, v, m, b: sdpa(q, k, v, attn_mask=m),
        biased=lambda q, k, v, m, b: sdpa(q, k, v, attn_mask=b),
        scaled=lambda q, k, v, m, b: sdpa(q, k, v, scale=0.5),
        three_axes=lambda q, k, v, m, b: sdpa(q[0], k[0], v[0]),
        grouped=lambda q, k, v, m, b: sdpa(q, k[:, :2], v[:, :2], enable_gqa=True),
    )
    assert program.ops().count("Attention") == 7


def test_reductions() -> None:
    x, flags = torch.randn(3, 4, 5), torch.rand(3, 4, 5) > 0.5
    names = [
        "sum",
        "mean",
        "prod",
        "amax",
        "amin",
        "argmax",
        "argmin",
        "logsumexp",
        "cumsum",
        "cumprod",
        "any",
        "all",
    ]
    cases = {}
    for name in names:
        function = getattr(torch, name)
        source = 1 if name in ("any", "all") else 0
        cases[name] = lambda *a, f=function, s=source: f(a[s], 1)
        if not name.startswith("cum"):
            cases[f"{name}_keep"] = lambda *a, f=function, s=source: f(a[s], -1, keepdim=True)
        if name not in ("cumsum", "cumprod", "amax", "amin", "logsumexp"):
            cases[f"{name}_all"] = lambda *a, f=function, s=source: f(a[s])
    check_cases(
        (x, flags),
        {0: {0: "n", 1: "m"}, 1: {0: "n", 1: "m"}},
        [(torch.randn(2, 6, 5), torch.rand(2, 6, 5) > 0.5)],
        **cases,
        max_pair=lambda x, f: x.max(-1),
        min_pair=lambda x, f: x.min(1, keepdim=True),
        max_all=lambda x, f: x.max(),
        var=lambda x, f: x.var(1),
        std=lambda x, f: x.std(-1, unbiased=False, keepdim=True),
        var_mean=lambda x, f: torch.var_mean(x, (1, 2)),
        norm=lambda x, f: x.norm(dim=-1),
        norm1=lambda x, f: torch.linalg.vector_norm(x, 1, dim=1),
        norm3=lambda x, f: torch.linalg.vector_norm(x, 3, dim=1),
        sum_bool=lambda x, f: f.sum(-1),
        sum_axes=lambda x, f: x.sum((0, 2)),
        count=lambda x, f: f.long().cumsum(1),
        topk=lambda x, f: x.topk(2),
        sort=lambda x, f: x.sort(-1, descending=True),
    )


def test_pool_that_rounds_up_a_dynamic_image() -> None:
    images = [torch.randn(1, 2, h, w) for h, w in ((9, 8), (12, 11), (7, 10))]
    check_cases(
        (images[0],),
        {0: {2: "h", 3: "w"}},
        [(image,) for image in images[1:]],
        padded=lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True) * 2,
        plain=lambda x: F.max_pool2d(x, 2, ceil_mode=True) * 2,
        gaps=lambda x: F.max_pool2d(x, 1, 2, ceil_mode=True) * 2,
    )


def test_adaptive_pool_of_a_dynamic_image() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sample, other = torch.randn(1, 3, 16, 16), torch.randn(2, 3, 21, 18)
    check(model.eval(), (sample,), {0: {0: "n", 2: "h", 3: "w"}}, [(other,)])
