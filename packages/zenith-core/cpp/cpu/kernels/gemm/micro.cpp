// The one microkernel of the gemm family: a few rows of A times one packed panel of B.
//
// Note [Instructions per multiply-add]: a core whose other hardware thread is busy issues half as
// many instructions per cycle, so their number decides, not the multiply-adds. With 12 sums, 4x24
// needs 7 loads a step and 6x16 needs 8; offsets in the addresses save the pointer arithmetic. On
// such a core (Zen 3) 4x24 ran at 74 % of the peak, 6x16 at 70 %, 6x16 with a pointer per step at
// 66 %; on an undisturbed core at 98, 97 and 96 %.
#include "cpu/kernels/gemm/micro.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kUnroll = 4;
constexpr int64_t kColdDistance = 1024;             // floats ahead where a panel fetches itself
constexpr int kPanelLines = kUnroll * kNR / kLine;  // of a panel in kUnroll steps

// C[rows][columns] = (or +=) A[rows][depth] * B[depth][columns]
struct Tile {
  const float* a;
  int64_t a_row;   // stride between rows of A
  int64_t a_step;  // stride along the depth
  const float* b;
  int64_t depth;
  float* c;
  int64_t c_row;
  bool accumulate;
  const float* ahead;  // memory wanted soon
  int64_t lines;       // how many of its lines are fetched per kUnroll steps, one at least
};

// kVecs: how many vectors of the panel's kNV are multiplied. kUnit: a_step is 1.
template <int kRows, int kVecs, bool kUnit>
void run_tile(const Tile& t) {
  constexpr int kBases = (kRows + 2) / 3;
  vf acc[kRows][kVecs] = {};
  const float* b = t.b;
  const float* ahead = t.ahead;
  const int64_t lines = t.lines;
  const int64_t a_step = kUnit ? 1 : t.a_step;
  int64_t a_row = t.a_row;
  // A base for three rows: their distances are factors an address can hold.
  const float* a[kBases];
#pragma GCC unroll 3
  for (int i = 0; i < kBases; ++i) {
    a[i] = t.a + 3 * i * a_row;
    asm("" : "+r"(a[i]));
  }
  const auto step = [&](int u) __attribute__((always_inline)) {
    vf bv[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) bv[v] = load(b + u * kNR + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const vf x = splat(a[i / 3][i % 3 * a_row + u * a_step]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) multiply_add(acc[i][v], x, bv[v]);
    }
  };
  const auto advance = [&](int n) __attribute__((always_inline)) {
    b += n * kNR;
#pragma GCC unroll 3
    for (int i = 0; i < kBases; ++i) a[i] += n * a_step;
  };
  int64_t k = 0;
  for (; k + kUnroll <= t.depth; k += kUnroll) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
      step(u);
      // Keeps the loads of later steps from moving up, which would push accumulators to the stack,
      // and u out of the registers that hold the distances.
      asm volatile("" : "+r"(b), "+r"(a_row));
    }
    advance(kUnroll);
    __builtin_prefetch(ahead, 0, 2);
    ahead += kLine;
    for (int64_t i = 1; i < lines; ++i, ahead += kLine) __builtin_prefetch(ahead, 0, 2);
  }
  for (; k < t.depth; ++k) {
    step(0);
    advance(1);
  }
  float* c = t.c;
  if (t.accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i, c += t.c_row) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) store(c + v * kLanes, load(c + v * kLanes) + acc[i][v]);
    }
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i, c += t.c_row) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) store(c + v * kLanes, acc[i][v]);
    }
  }
}

using TileFn = void (*)(const Tile&);

// The tile for up to kMR rows and `vecs` vectors of a panel.
template <bool kUnit, int kVecs = kNV, int kRows = kMR>
TileFn find_tile(int64_t rows, int64_t vecs) {
  if constexpr (kVecs > 1) {
    if (vecs < kVecs) return find_tile<kUnit, kVecs - 1, kRows>(rows, vecs);
  }
  if constexpr (kRows > 1) {
    if (rows < kRows) return find_tile<kUnit, kVecs, kRows - 1>(rows, vecs);
  }
  return run_tile<kRows, kVecs, kUnit>;
}
TileFn tile_for(int64_t rows, int64_t vecs, int64_t a_step) {
  return a_step == 1 ? find_tile<true>(rows, vecs) : find_tile<false>(rows, vecs);
}

// The last panel of an N that kLanes does not divide: each tile goes through a buffer.
void multiply_tail(const PanelProduct& p, const Epilogue& epilogue) {
  alignas(64) float buffer[kMR * kNR];
  const int64_t vecs = ceil_div(p.cols, kLanes);
  const int64_t tiles = ceil_div(p.rows, kMR);
  const int64_t passes = depth_passes(p.depth);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = p.rows * t / tiles;
    const int64_t rows = p.rows * (t + 1) / tiles - first;
    const TileFn tile = tile_for(rows, vecs, p.a_step);
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t from = p.depth * pass / passes;
      tile({p.a + first * p.a_row + from * p.a_step, p.a_row, p.a_step, p.panel + from * kNR,
            p.depth * (pass + 1) / passes - from, buffer, kNR, pass > 0, p.panel, 0});
    }
    apply_epilogue(epilogue, p.row + first, p.col, rows, p.cols, buffer, kNR);
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(p.y + (first + i) * p.y_row, buffer + i * kNR, static_cast<size_t>(p.cols) * 4);
    }
  }
}

}  // namespace

void multiply_panel(const PanelProduct& p, const Epilogue& epilogue) {
  if (p.cols % kLanes != 0) return multiply_tail(p, epilogue);
  const int64_t vecs = p.cols / kLanes;
  const int64_t tiles = ceil_div(p.rows, kMR);
  const int64_t passes = depth_passes(p.depth);
  // Tiles have `least_rows` rows or one more.
  const int64_t least_rows = p.rows / most(tiles, 1);
  const TileFn run[2] = {tile_for(most(least_rows, 1), vecs, p.a_step),
                         tile_for(least(least_rows + 1, kMR), vecs, p.a_step)};
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t from = p.depth * pass / passes;
    const int64_t depth = p.depth * (pass + 1) / passes - from;
    const float* b = p.panel + from * kNR;
    const float* next = pass + 1 < passes ? b + depth * kNR : p.ahead;
    // Together the tiles fetch what comes next, each some lines for every kUnroll steps. The first
    // tile of a panel that nobody fetched does so for the panel itself.
    const bool alone = p.cold && pass == 0 && tiles > 1;
    const int64_t lines = ceil_div(kPanelLines, tiles), slices = ceil_div(kPanelLines, lines);
    const int64_t slice = depth / kUnroll * lines * kLine;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = p.rows * t / tiles;
      const int64_t rows = p.rows * (t + 1) / tiles - first;
      float* y = p.y + first * p.y_row;
      const bool own = alone && t == 0;
      run[rows - least_rows]({p.a + first * p.a_row + from * p.a_step, p.a_row, p.a_step, b, depth,
                              y, p.y_row, pass > 0 || p.accumulate,
                              own ? b + kColdDistance : next + least(t, slices - 1) * slice,
                              own ? kPanelLines : lines});
      if (pass + 1 == passes) {
        apply_epilogue(epilogue, p.row + first, p.col, rows, p.cols, y, p.y_row);
      }
    }
  }
}

void pack_panel(const float* src, int64_t stride_k, int64_t stride_n, int64_t depth, int64_t cols,
                float* dst) {
  typedef float v4 __attribute__((vector_size(16)));
  typedef float v4_u __attribute__((vector_size(16), aligned(4), may_alias));
  typedef int32_t i4 __attribute__((vector_size(16)));
  if (stride_n == 1 && cols == kNR) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int v = 0; v < kNV; ++v) {
        store(dst + k * kNR + v * kLanes, load(src + k * stride_k + v * kLanes));
      }
    }
    return;
  }
  int64_t done = 0;  // columns
  if (stride_k == 1) {
    for (; done + 4 <= cols; done += 4) {
      const float* s = src + done * stride_n;
      float* d = dst + done;
      int64_t k = 0;
      for (; k + 4 <= depth; k += 4) {
        v4 r[4];
        for (int i = 0; i < 4; ++i) r[i] = *reinterpret_cast<const v4_u*>(s + i * stride_n + k);
        const v4 lo01 = __builtin_shuffle(r[0], r[1], i4{0, 4, 1, 5});
        const v4 hi01 = __builtin_shuffle(r[0], r[1], i4{2, 6, 3, 7});
        const v4 lo23 = __builtin_shuffle(r[2], r[3], i4{0, 4, 1, 5});
        const v4 hi23 = __builtin_shuffle(r[2], r[3], i4{2, 6, 3, 7});
        const v4 rows[4] = {__builtin_shuffle(lo01, lo23, i4{0, 1, 4, 5}),
                            __builtin_shuffle(lo01, lo23, i4{2, 3, 6, 7}),
                            __builtin_shuffle(hi01, hi23, i4{0, 1, 4, 5}),
                            __builtin_shuffle(hi01, hi23, i4{2, 3, 6, 7})};
        for (int i = 0; i < 4; ++i) *reinterpret_cast<v4_u*>(d + (k + i) * kNR) = rows[i];
      }
      for (; k < depth; ++k) {
        for (int i = 0; i < 4; ++i) d[k * kNR + i] = s[i * stride_n + k];
      }
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t j = done; j < cols; ++j) dst[k * kNR + j] = src[k * stride_k + j * stride_n];
    for (int64_t j = cols; j < kNR; ++j) dst[k * kNR + j] = 0;
  }
}

}  // namespace zenith::ZENITH_ISA
