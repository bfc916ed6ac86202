// Products of bfloat16 with a constant right side, float32 sums: y[M, N] = epilogue(x[M, K] * W),
// W packed ahead of time (Note [Pair panels]).
#include "cpu/kernels/gemm/finish_bf16.h"
#include "cpu/kernels/gemm/gemm.h"
#include "cpu/kernels/gemm/tile_bf16.h"

namespace zenith::ZENITH_ISA {
namespace {

// W lies as [K, N], or as [N, K] when transposed.
struct PackParams {
  int64_t transposed;
};
const Field kPackFields[] = {ZENITH_FIELD(PackParams, transposed, kInt, 1)};

struct Weights {
  int64_t depth, n, step, col;  // sizes and strides

  Weights(const TensorRef& t, const void* params) {
    const int k = static_cast<const PackParams*>(params)->transposed != 0 ? 1 : 0;
    depth = t.shape[k];
    n = t.shape[1 - k];
    step = t.strides[k];
    col = t.strides[1 - k];
  }
  // Where element (k, j) lies in the packed panels.
  int64_t at(int64_t k, int64_t j) const {
    return (j / kCols * round_to(depth, kStep) + k / 2 * 2) * kCols + j % kCols * 2 + k % 2;
  }
  int64_t size() const { return round_to(n, kCols) * round_to(depth, kStep); }
};

int64_t packed_bytes(const TensorRef& src, const void* params) {
  return Weights(src, params).size() * 2;
}

void pack(const TensorRef& src, void* dst, const void* params) {
  const Weights w(src, params);
  const bf16* from = static_cast<const bf16*>(src.data);
  bf16* to = static_cast<bf16*>(dst);
  std::memset(to, 0, static_cast<size_t>(w.size()) * 2);
  for (int64_t first = 0; first < w.n; first += kCols) {
    const int64_t cols = w.n - first < kCols ? w.n - first : kCols;
    if (w.step == 1) {
      for (int64_t j = first; j < first + cols; ++j) {
        bf16* column = to + w.at(0, j);
        const bf16* source = from + j * w.col;
        for (int64_t k = 0; k < w.depth; ++k) column[k / 2 * 2 * kCols + k % 2] = source[k];
      }
      continue;
    }
    for (int64_t k = 0; k < w.depth; ++k) {
      bf16* row = to + w.at(k, first);
      const bf16* source = from + k * w.step + first * w.col;
      for (int64_t j = 0; j < cols; ++j) row[2 * j] = source[j * w.col];
    }
  }
}

void unpack(const void* src, const TensorRef& dst, const void* params) {
  const Weights w(dst, params);
  const bf16* from = static_cast<const bf16*>(src);
  bf16* to = static_cast<bf16*>(dst.data);
  for (int64_t k = 0; k < w.depth; ++k) {
    for (int64_t j = 0; j < w.n; ++j) to[k * w.step + j * w.col] = from[w.at(k, j)];
  }
}

// How rows and panels are cut into tasks; from shapes and the thread count alone.
struct Split {
  int64_t rows, panels;  // tasks along each
  int64_t panel_count, padded;
  bool copies;  // A is copied, widened or padded first
};

Split split_of(const Call& call) {
  constexpr int64_t kBlockBytes = 1 << 20;  // rows of A that stay in L2 while panels pass
  constexpr int64_t kLeastFlops = 800 * 1000, kLeastBytes = 1 << 16;
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t m = x.shape[0], n = y.shape[1];
  Split s{};
  s.padded = round_to(x.shape[1], kStep);
  s.panel_count = (n + kCols - 1) / kCols;
  s.copies = !(kReadsInPlace && is_half(x) && s.padded == x.shape[1]);
  const int64_t bytes = s.padded * static_cast<int64_t>(sizeof(APart));
  const int64_t block = round_to(kBlockBytes / (bytes > 0 ? bytes : 1) + 1, kRows);
  s.rows = m > block ? (m + block - 1) / block : 1;
  const int64_t flops = 2 * m * n * s.padded / kLeastFlops, weights = n * s.padded / kLeastBytes;
  const int64_t work = flops > weights ? flops : weights;
  int64_t want = call.parallel.threads == 1 ? 1 : 8 * call.parallel.threads;
  want = want < work ? want : work > 1 ? work : 1;
  const int64_t per_block = (want + s.rows - 1) / s.rows;
  s.panels = per_block < s.panel_count ? per_block : s.panel_count;
  return s;
}

int64_t a_bytes(const Call& call, const Split& s) {
  return s.copies
             ? round_to(call.in[0].shape[0] * s.padded * static_cast<int64_t>(sizeof(APart)), 64)
             : 0;
}
int64_t linear_scratch(const Call& call) { return a_bytes(call, split_of(call)); }

void copy_row(const TensorRef& x, int64_t row, int64_t padded, APart* to) {
  const int64_t depth = x.shape[1], at = row * x.strides[0];
  if (is_half(x)) {
    convert_row(static_cast<const bf16*>(x.data) + at, depth, to);
  } else {
    const float* from = static_cast<const float*>(x.data) + at;
    if constexpr (sizeof(APart) ==
                  4) {  // rounded all the same: a result depends on no kernel's way
      for (int64_t k = 0; k < depth; ++k) {
        bf16 rounded;
        store_n(&rounded, splat(from[k]), 1);
        to[k] = load_n(&rounded, 1)[0];
      }
    } else {
      convert_row(from, depth, to);
    }
  }
  for (int64_t k = depth; k < padded; ++k) to[k] = 0;
}

// Inputs: x [M, K] (bfloat16, or float32 that is rounded) with stride 1 on K, packed W, then the
// epilogue's operands. Output y [M, N] with stride 1 on N, float32 or bfloat16.
const char* run_linear(const Call& call) {
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t m = x.shape[0], n = y.shape[1];
  if (m == 0 || n == 0) return nullptr;
  const Split s = split_of(call);
  const StepCodes& codes = static_cast<const ProductParams*>(call.params)->epilogue;
  const TileFinish finish(y, y.strides[0], codes, call.in + 2, step_operand);
  const APart* a = static_cast<const APart*>(x.data);
  int64_t a_row = x.strides[0];
  if (s.copies) {
    APart* copy = reinterpret_cast<APart*>(call.scratch);
    constexpr int64_t kGrain = 16;
    parallel_for(call, m * s.padded > 1 << 15 ? (m + kGrain - 1) / kGrain : 1, [&](int64_t i, int) {
      const bool whole = m * s.padded <= 1 << 15;
      const int64_t end = whole || (i + 1) * kGrain > m ? m : (i + 1) * kGrain;
      for (int64_t row = whole ? 0 : i * kGrain; row < end; ++row) {
        copy_row(x, row, s.padded, copy + row * s.padded);
      }
    });
    a = copy;
    a_row = s.padded;
  }
  const bf16* w = static_cast<const bf16*>(call.in[1].data);
  parallel_for(call, s.rows * s.panels, [&](int64_t task, int) {
    alignas(64) float sums[kRows * kCols];
    const int64_t block = task / s.panels, group = task % s.panels;
    const int64_t first = m * block / s.rows / kRows * kRows;
    const int64_t last = block + 1 == s.rows ? m : m * (block + 1) / s.rows / kRows * kRows;
    const int64_t end = s.panel_count * (group + 1) / s.panels;
    const int64_t tiles = (last - first + kRows - 1) / kRows;
    const int64_t panel_bytes = s.padded * kCols * 2;
    Multiplier multiplier;
    for (int64_t p = s.panel_count * group / s.panels; p < end; ++p) {
      const bf16* panel = w + p * s.padded * kCols;
      const int64_t col = p * kCols, cols = n - col < kCols ? n - col : kCols;
      for (int64_t t = 0; t < tiles; ++t) {
        // Rows are shared evenly: few would wait for their sums.
        const int64_t below = (last - first) * (t + 1) / tiles;
        const int64_t at = kWholeParts ? t * kRows : (last - first) * t / tiles;
        const int64_t row = first + at, most = last - row < kRows ? last - row : kRows;
        const int64_t rows = kWholeParts ? most : below - at;
        // Each tile fetches its share of the next panel.
        const Ahead ahead{reinterpret_cast<const char*>(panel) +
                              (p + 1 < s.panel_count ? panel_bytes : 0) + panel_bytes * t / tiles,
                          panel_bytes / tiles};
        const LeftTile left = left_rows(a + row * a_row, a_row, rows, s.padded);
        const int64_t places[] = {row, row + kPartRows};
        if (finish.whole(multiplier, left, panel, ahead, places, col, cols)) continue;
        if (s.padded == 0) {
          std::memset(sums, 0, sizeof(sums));
        } else {
          multiplier.run(left, panel, sums, kCols, ahead);
        }
        finish.tile(sums, kCols, row, col, rows, cols);
      }
    }
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"linear_bf16", kPairTile, kProductFields, 1, sizeof(ProductParams), linear_scratch,
     run_linear},
};
const Packer kPackers[] = {
    {"linear_pack_bf16", kPackFields, 1, sizeof(PackParams), packed_bytes, pack, unpack},
};

}  // namespace

Table gemm_bf16_table();
Table gemm_bf16_table() {
  return {kKernels, sizeof(kKernels) / sizeof(*kKernels), kPackers,
          sizeof(kPackers) / sizeof(*kPackers)};
}

}  // namespace zenith::ZENITH_ISA
