// y[M, N] = finish(x[M, K] * W[K, N]) of bytes x and packed int8 weights.
#include "cpu/kernels/int8/rows.h"

namespace zenith::ZENITH_ISA {
namespace {

const Field kFields[] = {ZENITH_FINISH_FIELDS(FinishParams)};

// x [M, K] with stride 1 on K, y [M, N] with stride 1 on N.
Product product_of(const Call& call) {
  const TensorRef &x = call.in[0], &y = call.out[0];
  const bool bytes = sizeof(Left) == 1 && x.dtype == DType::kU8;
  return {x.shape[0], x.shape[1], y.shape[1], 1, !bytes || !in_place_pays(x.shape[0], x.shape[1])};
}

int64_t scratch(const Call& call) { return rows_scratch(call, product_of(call)); }

const char* run(const Call& call) {
  const Product p = product_of(call);
  if (p.rows == 0 || p.n == 0) return nullptr;
  const TensorRef& x = call.in[0];
  const uint8_t* data = static_cast<const uint8_t*>(x.data);
  const int64_t row = x.strides[0];
  const uint8_t flip = flip_of(x.dtype);
  const Finish finish(call, *static_cast<const FinishParams*>(call.params));
  run_rows_product(
      call, p, {data, row},
      [&](int64_t, int64_t i, Left* to) { copy_bytes(data + i * row, p.depth, flip, to); }, finish);
  return nullptr;
}

const Kernel kKernels[] = {
    {"linear_int8", kInt8Tile, kFields, kFinishFieldCount, sizeof(FinishParams), scratch, run},
};

}  // namespace

Table int8_linear_table();
Table int8_linear_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
