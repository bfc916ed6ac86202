// Products with a constant right side: y[M, N] = epilogue(x[M, K] * W[K, N]), W packed ahead of
// time into panels (Note [Panels]).
#include "cpu/kernels/gemm/gemm.h"

#include "cpu/kernels/gemm/micro.h"
#include "cpu/kernels/gemm/shares.h"
#include "cpu/kernels/gemm/weights.h"

namespace zenith::ZENITH_ISA {
namespace {

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

// Blocks of rows and single panels, or groups of panels when one is too little work. Workers go
// through neighbouring pieces, so many of them cost nothing.
Split split_linear(int64_t m, int64_t panels, int64_t depth, int threads) {
  // Rows of A that a worker goes through for each panel: they should stay in L2, or nearly.
  constexpr int64_t kBlockBytes = kLanes == 16 ? 1600 << 10 : 1 << 20;
  // Below this much work a second worker costs more than it brings.
  constexpr int64_t kLeastFlops = 100 * 1000, kLeastBytes = 1 << 15;
  constexpr int64_t kLeastRows = 4 * kMR;
  const int64_t block = most(8 * kMR, kBlockBytes / (4 * most(depth, 1)));
  const int64_t work =
      most(2 * m * panels * kNR * depth / kLeastFlops, panels * kNR * depth * 4 / kLeastBytes);
  Split s{ceil_div(m, block), most(1, least(panels, work))};
  // Workers that wait for another's last piece lose more time than a second pass over the weights
  // takes.
  const auto uneven = [&] {
    const int64_t pieces = s.rows * s.panels, each = ceil_div(pieces, threads);
    return (each * threads - pieces) * 16 > each * threads;
  };
  while (s.rows * s.panels < work && m >= (s.rows + 1) * kLeastRows && uneven()) ++s.rows;
  return s;
}

// Up to kFewRows rows go through kFewPanels panels at once, else the multiply-adds of a column
// would wait for each other (Note [Same bits]: the order of its sum is that of run_tile).
constexpr int64_t kFewRows = 2, kFewPanels = 2;

struct FewRows {
  const float* a;
  int64_t a_row, a_step;
  const float* panels;
  int64_t depth;
  float* y;
  int64_t y_row;
};

// Steps [from, to) of the depth.
template <int kRows>
void run_few(const FewRows& t, int64_t from, int64_t to) {
  constexpr int kVecs = kFewPanels * kNV;
  vf acc[kVecs][kRows] = {};
  const float* a = t.a + from * t.a_step;
  const float* b = t.panels + from * kNR;
  for (int64_t k = from; k < to; ++k, a += t.a_step, b += kNR) {
    vf x[kRows];
#pragma GCC unroll 2
    for (int i = 0; i < kRows; ++i) x[i] = splat(a[i * t.a_row]);
#pragma GCC unroll 6
    for (int v = 0; v < kVecs; ++v) {
      const vf w = load(b + v / kNV * t.depth * kNR + v % kNV * kLanes);
#pragma GCC unroll 2
      for (int i = 0; i < kRows; ++i) multiply_add(acc[v][i], x[i], w);
    }
  }
#pragma GCC unroll 6
  for (int v = 0; v < kVecs; ++v) {
#pragma GCC unroll 2
    for (int i = 0; i < kRows; ++i) {
      float* y = t.y + i * t.y_row + v * kLanes;
      store(y, from > 0 ? load(y) + acc[v][i] : acc[v][i]);
    }
  }
}

void multiply_few(const FewRows& t, int64_t rows, int64_t col, const Epilogue& epilogue) {
  const int64_t passes = depth_passes(t.depth);
  for (int64_t i = 0; i < passes; ++i) {
    const int64_t from = t.depth * i / passes, to = t.depth * (i + 1) / passes;
    rows == 1 ? run_few<1>(t, from, to) : run_few<2>(t, from, to);
  }
  apply_epilogue(epilogue, 0, col, rows, kFewPanels * kNR, t.y, t.y_row);
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
  if (m == 0 || n == 0) return nullptr;
  const int64_t panels = ceil_div(n, kNR);
  const int64_t together = m <= kFewRows ? kFewPanels : 1;
  const int64_t units = ceil_div(panels, together);
  const Split split = split_linear(m, units, together * depth, call.parallel.threads);
  share_out(call, split.rows * split.panels, [&](int64_t piece, bool first) {
    const int64_t block = piece / split.panels, group = piece % split.panels;
    const int64_t row = m * block / split.rows;
    const int64_t rows = m * (block + 1) / split.rows - row;
    const int64_t begin = units * group / split.panels * together;
    const int64_t end = least(panels, units * (group + 1) / split.panels * together);
    int64_t p = begin;
    for (; together > 1 && (p + together) * kNR <= least(n, end * kNR); p += together) {
      multiply_few(
          {a, x.strides[0], x.strides[1], w + p * depth * kNR, depth, out + p * kNR, y.strides[0]},
          m, p * kNR, epilogue);
    }
    for (; p < end; ++p) {
      const float* panel = w + p * depth * kNR;
      // After the last panel comes the first one again, for the next block of rows.
      const float* ahead = p + 1 < panels ? panel + depth * kNR : w;
      const int64_t col = p * kNR;
      multiply_panel({a + row * x.strides[0], x.strides[0], x.strides[1], rows, panel, depth, ahead,
                      first && p == begin, out + row * y.strides[0] + col, y.strides[0],
                      least(kNR, n - col), row, col},
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
