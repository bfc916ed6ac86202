// Products with a constant right side: y[M, N] = epilogue(x[M, K] * W[K, N]), W packed ahead of
// time into panels (Note [Panels]).
#include "cpu/kernels/gemm/gemm.h"

#include "cpu/kernels/gemm/micro.h"

namespace zenith::ZENITH_ISA {
namespace {

// W lies as [K, N], or as [N, K] when transposed (PyTorch's Linear, ONNX's Gemm with transB). A
// transposed one may have N as two gapless axes (the directions and gates of recurrent layers).
struct PackParams {
  int64_t transposed;
};
const Field kPackFields[] = {ZENITH_FIELD(PackParams, transposed, kInt, 1)};

struct Weights {
  int64_t depth, n, step, col;  // sizes and strides

  Weights(const TensorRef& t, const void* params) {
    const bool transposed = static_cast<const PackParams*>(params)->transposed != 0;
    const int k = transposed ? t.rank - 1 : 0, j = transposed ? t.rank - 2 : 1;
    depth = t.shape[k];
    n = t.shape[j] * (t.rank == 3 ? t.shape[0] : 1);
    step = t.strides[k];
    col = t.strides[j];
  }
};

int64_t packed_bytes(const TensorRef& src, const void* params) {
  const Weights w(src, params);
  return ceil_div(w.n, kNR) * kNR * w.depth * 4;
}

void pack(const TensorRef& src, void* dst, const void* params) {
  const Weights w(src, params);
  const float* from = static_cast<const float*>(src.data);
  float* to = static_cast<float*>(dst);
  for (int64_t col = 0; col < w.n; col += kNR) {
    pack_panel(from + col * w.col, w.step, w.col, w.depth, least(kNR, w.n - col),
               to + col * w.depth);
  }
}

void unpack(const void* src, const TensorRef& dst, const void* params) {
  const Weights w(dst, params);
  const float* from = static_cast<const float*>(src);
  float* to = static_cast<float*>(dst.data);
  for (int64_t k = 0; k < w.depth; ++k) {
    for (int64_t j = 0; j < w.n; ++j) {
      to[k * w.step + j * w.col] = from[j / kNR * kNR * w.depth + k * kNR + j % kNR];
    }
  }
}

// Inputs: x [M, K] with stride 1 on K, packed W, then the epilogue's operands. Output y [M, N] with
// stride 1 on N.
const char* run_linear(const Call& call) {
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t m = x.shape[0], depth = x.shape[1], n = y.shape[1];
  const float* a = static_cast<const float*>(x.data);
  const float* w = static_cast<const float*>(call.in[1].data);
  float* out = static_cast<float*>(y.data);
  const Epilogue epilogue =
      make_epilogue(static_cast<const ProductParams*>(call.params)->epilogue, call.in + 2);
  const int64_t panels = ceil_div(n, kNR);
  const Split split = split_product(m, panels, depth, 1, call.parallel.threads);
  if (m == 0 || n == 0) return nullptr;
  parallel_for(call, split.rows * split.panels, [&](int64_t task, int) {
    const int64_t block = task / split.panels, group = task % split.panels;
    const int64_t row = m * block / split.rows;
    const int64_t rows = m * (block + 1) / split.rows - row;
    const int64_t end = panels * (group + 1) / split.panels;
    for (int64_t p = panels * group / split.panels; p < end; ++p) {
      const float* panel = w + p * depth * kNR;
      const float* ahead = p + 1 < panels ? panel + depth * kNR : panel;
      const int64_t col = p * kNR;
      multiply_panel({a + row * x.strides[0], x.strides[0], x.strides[1], rows, panel, depth, ahead,
                      out + row * y.strides[0] + col, y.strides[0], least(kNR, n - col), row, col},
                     epilogue);
    }
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"linear_f32", kTileName, kProductFields, 1, sizeof(ProductParams), nullptr, run_linear},
    {"matmul_f32", kTileName, kProductFields, 1, sizeof(ProductParams), matmul_scratch, run_matmul},
};
const Packer kPackers[] = {
    {"linear_pack_f32", kPackFields, 1, sizeof(PackParams), packed_bytes, pack, unpack},
};

}  // namespace

Table gemm_table();
Table gemm_table() {
  return {kKernels, sizeof(kKernels) / sizeof(*kKernels), kPackers,
          sizeof(kPackers) / sizeof(*kPackers)};
}

}  // namespace zenith::ZENITH_ISA
