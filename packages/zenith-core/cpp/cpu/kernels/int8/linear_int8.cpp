// y[M, N] = finish(x[M, K] * W[K, N]) of bytes x and packed int8 weights.
#include "cpu/kernels/int8/rows.h"

namespace zenith::ZENITH_ISA {
namespace {

const Field kFields[] = {ZENITH_FINISH_FIELDS(FinishParams)};

// x [M, K] with stride 1 on K, y [M, N] with stride 1 on N.
Product product_of(const Call& call) {
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t rows = x.shape[0], depth = x.shape[1];
  const bool bytes = sizeof(Left) == 1 && x.dtype == DType::kU8;
  const bool copied = !bytes || !in_place_pays(rows, depth);
  return {rows, 1, rows, y.shape[1], 1, RowPieces(1, depth), copied, depth, depth};
}

int64_t scratch(const Call& call) { return product_scratch(call, product_of(call)); }

const char* run(const Call& call) {
  const Product p = product_of(call);
  if (p.lines == 0 || p.n == 0) return nullptr;
  const TensorRef& x = call.in[0];
  const uint8_t* data = static_cast<const uint8_t*>(x.data);
  const int64_t row = x.strides[0], depth = p.pieces.length;
  const uint8_t flip = flip_of(x.dtype);
  const Finish finish(call, *static_cast<const FinishParams*>(call.params));
  const auto place = [&](int64_t, int64_t first, int64_t count, Left* copy) -> Grid {
    if (!p.copied) {
      const Left* from = reinterpret_cast<const Left*>(data + first * row);
      const uint8_t* end = data + (p.lines - 1) * row + depth;
      return {from, count, 1, row, row, reinterpret_cast<const Left*>(end)};
    }
    for (int64_t i = 0; i < count; ++i) {
      copy_bytes(data + (first + i) * row, depth, flip, copy + i * depth);
    }
    return {copy, count, 1, depth, depth, nullptr};
  };
  static constexpr int64_t kStart = 0;
  run_product(call, p, &kStart, call.scratch, place, finish);
  return nullptr;
}

const Kernel kKernels[] = {
    {"linear_int8", kInt8Tile, kFields, kFinishFieldCount, sizeof(FinishParams), scratch, run},
};

}  // namespace

Table int8_linear_table();
Table int8_linear_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
