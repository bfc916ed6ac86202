"""Primitives that are known and have no lowering, and why: for errors and the coverage table."""

from __future__ import annotations

__all__ = ["REFUSED"]

_CALLBACK = "it calls Python while the model runs"
_COLLECTIVE = "it works across devices"
_LINEAR_ALGEBRA = "this decomposition is not there; cholesky, eigh, lu, qr and svd are"
_STATE = "it changes an array in place; return the new value instead"
_FOREIGN = "its meaning is code of another compiler"
_AUTODIFF = "it exists only while JAX differentiates"
_GENERATOR = "only threefry's random bits are the same on every backend"
_GPU = "it is a kernel of one GPU library"

REFUSED: dict[str, str] = {
    name: reason
    for reason, names in (
        (_CALLBACK, "debug_callback debug_print io_callback pure_callback"),
        (
            _COLLECTIVE,
            "all_gather_done all_gather_reduced all_gather_reduced_start all_gather_start "
            "all_to_all_done all_to_all_start pbroadcast pbroadcast_done pbroadcast_start "
            "ppermute_done ppermute_start precv preduced psend psum_done "
            "psum_invariant_start psum_start ragged_all_to_all "
            "reduce_scatter_done reduce_scatter_start reduced_vary_cast_p reshard "
            "unreduced_psum unreduced_psum_start unreduced_reduce_scatter "
            "unreduced_reduce_scatter_start vary_unreduced_cast_p",
        ),
        (
            _LINEAR_ALGEBRA,
            "cholesky_update eig geqp3 hessenberg schur tridiagonal",
        ),
        (
            _STATE,
            "accum_grad_in_ref addupdate box_get box_set empty_ref free_ref freeze get log_extend "
            "log_read new_box new_log new_ref run_state swap",
        ),
        (
            _FOREIGN,
            "call_exported call_hi_primitive call_hi_primitive_linearized cudnn_fusion "
            "custom_partitioning ffi_call inspect_sharding mosaic_gpu pallas_call tpu_custom_call",
        ),
        (
            _AUTODIFF,
            "create_linear custom_lin dce_sink linear_call stage tie unreachable zeros_like",
        ),
        (
            _GENERATOR,
            "philox2x32 philox4x32 rng_bit_generator rng_uniform threefry4x32",
        ),
        (
            _GPU,
            "dot_product_attention_bwd dot_product_attention_bwd_wrapper "
            "dot_product_attention_fp8_bwd dot_product_attention_fp8_bwd_wrapper "
            "dot_product_attention_fp8_fwd dot_product_attention_fp8_fwd_wrapper "
            "dot_product_attention_fwd dot_product_attention_fwd_wrapper scaled_matmul "
            "scaled_matmul_wrapper",
        ),
        ("its block-scaled types have no kernel", "scaled_dot"),
        ("what it contains is not given an order", "after_all create_token"),
        ("keys are not taken out of their type here", "from_edtype to_edtype"),
        ("its result may differ from run to run", "approx_top_k"),
    )
    for name in names.split()
}
