// The constant right side of a float32 product, as its packers find it.
#pragma once

#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// W lies as [K, N], or as [N, K] when transposed (PyTorch's Linear, ONNX's Gemm with transB). A
// transposed one may have N as two gapless axes (the directions and gates of recurrent layers), or
// two axes of size 1 behind (a convolution of single pixels).
struct PackParams {
  int64_t transposed;
};
[[maybe_unused]] const Field kPackFields[] = {ZENITH_FIELD(PackParams, transposed, kInt, 1)};

struct Weights {
  int64_t depth, n, step, col;  // sizes and strides

  Weights(const TensorRef& t, const void* params) {
    const bool transposed = static_cast<const PackParams*>(params)->transposed != 0;
    const int behind = t.rank == 4 ? 2 : 0;
    const int k = transposed ? t.rank - 1 - behind : 0, j = k == 0 ? 1 : k - 1;
    depth = t.shape[k];
    n = t.shape[j] * (t.rank == 3 ? t.shape[0] : 1);
    step = t.strides[k];
    col = t.strides[j];
  }
};

}  // namespace
}  // namespace zenith::ZENITH_ISA
