"""Movement, creation and indexing against PyTorch, static and with dynamic axes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch_oracle import check_cases

DYNAMIC = [None, {0: {0: "b", 1: "s"}}]


@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_views(dynamic: dict[int, dict[int, str]] | None) -> None:
    x = torch.randn(2, 3, 8)
    others = [(torch.randn(4, 5, 8),)] if dynamic else []
    check_cases(
        (x,),
        dynamic,
        others,
        view=lambda x: x.view(x.shape[0], -1, 2, 4),
        merge=lambda x: x.reshape(-1, 8),
        merge_all=lambda x: x.reshape(-1),
        heads=lambda x: x.view(*x.shape[:2], 2, 4).transpose(1, 2),
        unmerge=lambda x: x.reshape(-1, 8).reshape(x.shape[0], x.shape[1] * 2, 4),
        both=lambda x: x.reshape(x.shape[0] * 2, x.shape[1] * 4),
        permute=lambda x: x.permute(2, 0, 1),
        transpose=lambda x: x.transpose(-1, 0),
        flatten=lambda x: x.flatten(1),
        unsqueeze=lambda x: x.unsqueeze(-1).unsqueeze(0),
        squeeze=lambda x: x.unsqueeze(1).squeeze(1),
        squeeze_all=lambda x: x[:, :1].squeeze(1),
        expand=lambda x: x[:, None].expand(-1, 3, -1, -1),
        repeat=lambda x: x.repeat(2, 1, 3),
        interleave=lambda x: x.repeat_interleave(2, dim=1),
        slice=lambda x: x[:, 1:],
        slice_negative=lambda x: x[:, -2:],
        slice_to=lambda x: x[:, :-1],
        slice_step=lambda x: x[..., 1::3],
        select=lambda x: x[:, 0],
        select_last=lambda x: x[:, -1],
        split=lambda x: x.split(3, dim=-1),
        split_sizes=lambda x: x.split([1, 7], dim=-1),
        chunk=lambda x: x.chunk(2, -1),
        unbind=lambda x: x.unbind(-1)[3],
        cat=lambda x: torch.cat([x, x[:, :1]], dim=1),
        stack=lambda x: torch.stack([x, x * 2], dim=1),
        flip=lambda x: x.flip(1, 2),
        roll=lambda x: x.roll(shifts=(1, -2), dims=(1, 2)),
        pad=lambda x: F.pad(x, (1, 2, 0, 1), value=2.5),
        crop=lambda x: F.pad(x, (-1, 0)),
        mean_like=lambda x: x / x.shape[1],
        tril=lambda x: x.tril(),
        triu=lambda x: x.triu(1),
        zeros=lambda x: x + torch.zeros_like(x),
        ones=lambda x: torch.ones(x.shape[0], 1) * x[:, 0],
        full=lambda x: torch.full((x.shape[1],), 3.0) + x[0, :, 0],
        arange=lambda x: torch.arange(x.shape[1]),
        arange_float=lambda x: torch.arange(x.shape[1], dtype=torch.float32),
        causal=lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(),
        positions=lambda x: torch.arange(3, x.shape[1] + 3, 2),
        new_full=lambda x: x.new_full((2,), 4.0),
        sizes=lambda x: torch.tensor(1.0) * x.shape[1],
    )


def test_static_movement() -> None:
    x = torch.randn(1, 4, 6, 6)
    check_cases(
        (x,),
        pixel_shuffle=lambda x: F.pixel_shuffle(x, 2),
        pixel_unshuffle=lambda x: F.pixel_unshuffle(x, 2),
        unfold=lambda x: x.unfold(2, 3, 2),
        im2col=lambda x: F.unfold(x, (2, 3), dilation=(1, 2), padding=1, stride=(2, 1)),
        reflect=lambda x: F.pad(x, (1, 2, 1, 0), mode="reflect"),
        replicate=lambda x: F.pad(x, (1, 2, 1, 0), mode="replicate"),
        as_strided=lambda x: x.as_strided((2, 3), (6, 2), 1),
        diagonal=lambda x: torch.diagonal(x, 1, 2, 3),
        roll_flat=lambda x: x.roll(3),
        linspace=lambda x: x[0, 0] + torch.linspace(0, 1, 6),
        eye=lambda x: x + torch.eye(6),
        scalar=lambda x: x * torch.tensor(2.0),
        meshgrid=lambda x: torch.meshgrid(x[0, 0, 0], x[0, 0, 1], indexing="ij"),
        meshgrid_xy=lambda x: torch.meshgrid(
            x[0, 0, 0], x[0, :, 1, 0], x[:, 0, 0, 0], indexing="xy"
        ),
        windows=lambda x: x.view(1, 4, 2, 3, 2, 3).permute(0, 2, 4, 3, 5, 1).contiguous(),
        movedim=lambda x: x.movedim(1, -1),
        broadcast=lambda x: torch.broadcast_to(x[:, :1], (1, 4, 6, 6)),
    )


def test_einsum_and_products() -> None:
    x, y, v = torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(4)
    m = torch.randn(3, 5)
    check_cases(
        (x, y, v, m),
        {0: {0: "b"}, 1: {0: "b"}},
        others=[(torch.randn(5, 3, 4), torch.randn(5, 4, 5), v, m)],
        matmul=lambda x, y, v, m: x @ y,
        bmm=lambda x, y, v, m: torch.bmm(x, y),
        baddbmm=lambda x, y, v, m: torch.baddbmm(m, x, y, beta=0.5, alpha=2),
        vector=lambda x, y, v, m: x @ v,
        from_left=lambda x, y, v, m: v @ y,
        dot=lambda x, y, v, m: torch.dot(v, v),
        mm=lambda x, y, v, m: m @ m.T,
        addmm=lambda x, y, v, m: torch.addmm(m.T, m.T, m @ m.T),
        einsum=lambda x, y, v, m: torch.einsum("bij,bjk->bki", x, y),
        einsum_outer=lambda x, y, v, m: torch.einsum("bij,kj->bik", x, x[0]),
        linear=lambda x, y, v, m: F.linear(x, y[0].T, m[0]),
        linear_no_bias=lambda x, y, v, m: F.linear(x, y[0].T),
    )


@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_reading_by_index(dynamic: dict[int, dict[int, str]] | None) -> None:
    x = torch.randn(3, 4, 8)
    i, j = torch.tensor([[0, 2], [1, -1]]), torch.tensor([1, 2])
    others = [(torch.randn(5, 6, 8), i, j)] if dynamic else []
    check_cases(
        (x, i, j),
        dynamic,
        others,
        one=lambda x, i, j: x[i],
        second=lambda x, i, j: x[:, i],
        two=lambda x, i, j: x[i, j],
        apart=lambda x, i, j: x[i, :, j],
        middle=lambda x, i, j: x[:, i, j],
        int32=lambda x, i, j: x[j.int()],
        select=lambda x, i, j: x.index_select(1, j),
        embedding=lambda x, i, j: F.embedding(j, x[0]),
        gather=lambda x, i, j: x.gather(2, j.expand(3, 4, 2)),
        take=lambda x, i, j: torch.take(x, j),
        one_hot=lambda x, i, j: F.one_hot(j, 5),
        rows=lambda x, i, j: x[torch.arange(2), j],
        last=lambda x, i, j: x[torch.arange(x.shape[0]), -1],
    )


def test_writing_by_index() -> None:
    x, v = torch.randn(4, 5), torch.randn(2, 5)
    i = torch.tensor([1, 3])

    def put(x: torch.Tensor, v: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[i] = v
        return y

    def put_column(x: torch.Tensor, v: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, i] = 1.5
        return y

    def put_slice(x: torch.Tensor, v: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[1:3] = v
        y[:, 0] = 7.0
        y[::2, 1] = -1.0
        return y

    def put_mask(x: torch.Tensor, v: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[x > 0] = 0.0
        return y

    check_cases(
        (x, v, i),
        put=put,
        column=put_column,
        slices=put_slice,
        mask=put_mask,
        accumulate=lambda x, v, i: x.index_put((torch.zeros_like(i),), v, accumulate=True),
        index_add=lambda x, v, i: x.index_add(0, i, v),
        scatter=lambda x, v, i: x.scatter(1, i.expand(4, 2), v[:1, :2].expand(4, 2)),
        scatter_value=lambda x, v, i: x.scatter(0, i.expand(3, 2), 2.0),
        scatter_add=lambda x, v, i: x.scatter_add(0, i.unsqueeze(1).expand(2, 5), v),
        copy=lambda x, v, i: torch.zeros(4, 5).copy_(x),
    )


def test_an_identity_of_any_size() -> None:
    check_cases(
        (torch.randn(3, 4),),
        {0: {0: "n"}},
        [(torch.randn(5, 4),)],
        square=lambda x: torch.eye(x.shape[0]) @ x,
        wide=lambda x: torch.eye(x.shape[0], 3, dtype=torch.int64),
    )


def test_windows_and_diagonals_of_any_size() -> None:
    def skewed(x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        return x.contiguous().as_strided((n - 1, 3), (x.shape[1], 2), 1)

    check_cases(
        (torch.randn(6, 8),),
        {0: {0: "n", 1: "m"}},
        [(torch.randn(9, 7),), (torch.randn(4, 11),)],
        unfold=lambda x: x.unfold(1, 3, 2),
        im2col=lambda x: F.unfold(x[None, None], (3, 2), padding=(1, 0), stride=(2, 1)),
        dilated=lambda x: F.unfold(x[None], 2, dilation=(2, 3)),
        diagonal=lambda x: torch.diagonal(x),
        above=lambda x: torch.diagonal(x, 2),
        below=lambda x: torch.diagonal(x, -1),
        strided=skewed,
    )


def test_strides_over_memory_in_another_order() -> None:
    """Overlapping chunks, as sliding-window attention cuts them from what it has transposed."""

    def chunks(x: torch.Tensor) -> torch.Tensor:
        size, stride = list(x.shape), list(x.stride())
        size[1], stride[1] = size[1] * 2 - 1, stride[1] // 2
        return x.as_strided(size, stride)

    check_cases(
        (torch.randn(8, 2, 6),),
        chunks=lambda x: chunks(x.view(8, 2, 2, 3).permute(1, 2, 0, 3).reshape(4, 2, 4, 3)),
        turned=lambda x: x.permute(1, 0, 2).as_strided((2, 3), (5, 12), 1),
    )
