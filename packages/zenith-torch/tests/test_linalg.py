"""Linear algebra against PyTorch in float64, with the signs and the order that LAPACK has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_oracle import Cases

import zenith
import zenith_torch

L = torch.linalg


def check(inputs: tuple[torch.Tensor, ...], dynamic: Any = None, **cases: Any) -> None:
    model = Cases(**cases)
    compiled = zenith.compile(model, sample_input=inputs, dynamic=dynamic, fallback="error")
    with torch.no_grad():
        got, want = compiled(*inputs), model(*(x.double() for x in inputs))
        plain = model(*inputs)
    for name in cases:
        results = zip(*(r if isinstance(r, tuple) else (r,) for r in (got[name], want[name],
                        plain[name])), strict=True)  # fmt: skip
        for mine, exact, eager in results:
            assert (mine.dtype, mine.shape) == (eager.dtype, eager.shape), name
            torch.testing.assert_close(
                mine.double(), exact.double(), rtol=1e-4, atol=1e-5, equal_nan=True,
                msg=lambda m, name=name: f"{name}: {m}",
            )  # fmt: skip


def test_products_of_triangles() -> None:
    a, x = torch.randn(3, 5, 5), torch.randn(3, 5, 2)
    check(
        (a @ a.mT + torch.eye(5), x),
        {0: {0: "n"}, 1: {0: "n"}},
        cholesky=lambda a, x: L.cholesky(a),
        upper=lambda a, x: L.cholesky(a, upper=True),
        solved=lambda a, x: torch.cholesky_solve(x, L.cholesky(a)),
        inverse=lambda a, x: torch.cholesky_inverse(L.cholesky(a)),
        left=lambda a, x: L.solve_triangular(a, x, upper=True),
        right=lambda a, x: L.solve_triangular(a, x.mT, upper=False, left=False, unitriangular=True),
        not_positive=lambda a, x: L.cholesky_ex(-a).info,
    )


def test_elimination() -> None:
    a, x = torch.randn(2, 4, 4), torch.randn(2, 4, 3)
    check(
        (a, x),
        inverse=lambda a, x: L.inv(a),
        solve=lambda a, x: L.solve(a, x),
        right=lambda a, x: L.solve(a, x.mT, left=False),
        vectors=lambda a, x: L.solve(a, x[..., 0]),
        shared=lambda a, x: L.solve(a[0], x),
        det=lambda a, x: L.det(a),
        slogdet=lambda a, x: tuple(L.slogdet(a)),
        factors=lambda a, x: tuple(L.lu_factor(torch.cat([a, x], 2))),
        from_factors=lambda a, x: L.lu_solve(*L.lu_factor(a), x, adjoint=True),
        singular=lambda a, x: L.inv_ex(a * 0).info,
    )


@pytest.mark.parametrize("shape", [(2, 5, 3), (3, 5)])
def test_reflections(shape: tuple[int, ...]) -> None:
    check(
        (torch.randn(shape),),
        reduced=lambda x: tuple(L.qr(x)),
        complete=lambda x: tuple(L.qr(x, "complete")),
        triangle=lambda x: tuple(L.qr(x, "r")),
        of_triangle=lambda x: tuple(L.qr(x.triu())),
    )


def test_a_singular_matrix_gives_no_numbers() -> None:
    """Eager raises; a compiled model has no exceptions inside, but nothing that looks right."""
    compiled = zenith.compile(Cases(inverse=lambda a: L.inv(a)), sample_input=(torch.eye(3),))
    assert compiled(torch.ones(3, 3))["inverse"].isnan().all()


@pytest.mark.parametrize(
    "name", ["eigh", "eigvalsh", "eig", "svd", "svdvals", "pinv", "matrix_rank"]
)
def test_what_needs_lapack_stays_with_torch_and_is_named(name: str) -> None:
    """No lowering, no crash: the products around it are ours, and explain says what is not."""

    def use(x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
        x = x @ w
        found = getattr(L, name)(x + x.mT if "h" in name else x)
        found = found if isinstance(found, tuple) else (found,)
        return [(r * r.conj()).real @ w if r.ndim == 3 else r.abs() + 1 for r in found]

    backend = zenith_torch.create_backend(fallback="allow")
    compiled = torch.compile(use, backend=backend)
    inputs = torch.randn(2, 4, 4), torch.randn(4, 4)
    with torch.no_grad():
        for mine, want in zip(compiled(*inputs), use(*inputs), strict=True):
            torch.testing.assert_close(mine, want, rtol=1e-3, atol=1e-4)
    (program,) = backend.programs
    assert {row.op for row in program.left} <= {
        *("aten._linalg_eigh.default", "aten.linalg_eig.default", "aten._linalg_svd.default"),
        "aten.linalg_pinv.atol_rtol_tensor",
    }
    assert program.left and all(f"= {row.op}" in backend.explain() for row in program.left)
    assert "gemm" in backend.explain() or "matmul" in backend.explain()


@pytest.mark.parametrize(
    "function", [L.inv, L.cholesky, lambda x: L.solve(x, x[..., :1]), lambda x: L.slogdet(x)[1]]
)
def test_gradients_of_what_checks_its_argument(function: Any) -> None:
    """The check is an effect, ordered by a token: a tensor in the trace, None in calls."""
    x = torch.randn(3, 4, 4)
    x = (x @ x.mT + torch.eye(4)).requires_grad_()
    y = x.detach().double().requires_grad_()
    compiled = torch.compile(function, backend=zenith_torch.create_backend(fallback="error"))
    (got,) = torch.autograd.grad(compiled(x).sin().sum(), x)
    (want,) = torch.autograd.grad(function(y).sin().sum(), y)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
