// Products with a constant right side by one level of Strassen's scheme in Winograd's form: seven
// products of half the rows, half the depth and half the columns instead of eight. README.md says
// what it costs and gains.
//
// Note [Halves]: a block of rows is cut in an upper and a lower half, the depth in two, and two
// panels that stand side by side are the halves of the columns. An odd panel and columns that fill
// no panel are multiplied plainly; an odd row has a row of zeros below it, an odd depth a column of
// zeros behind it.
//
// Note [Row scales]: a sum of two rows rounds the smaller one to the precision of the larger one,
// so where their sizes differ the smaller one is scaled by a power of two before they are added,
// and its results back, which changes no bits. A block with a row that is not finite is multiplied
// plainly: its NaN is nobody else's.
#include "cpu/kernels/gemm/gemm.h"
#include "cpu/kernels/gemm/micro.h"
#include "cpu/kernels/gemm/shares.h"
#include "cpu/kernels/gemm/weights.h"

namespace zenith::ZENITH_ISA {
namespace {

// A unit holds what its two panels need: the seven right sides in the order of their use, then what
// only the plain product reads, each [half of the depth][kNR].
enum Slot : int64_t { kB11, kB21, kT2, kT3, kT4, kT1, kB22, kB12, kSlots };

struct Layout {
  int64_t depth, half, units, rest;  // rest: panels behind the units, as in linear_pack_f32

  Layout(int64_t k, int64_t n)
      : depth(k),
        half(ceil_div(k, 2)),
        units(n / (2 * kNR)),
        rest(ceil_div(n - units * 2 * kNR, kNR)) {}

  int64_t slot(int64_t unit, int64_t index) const { return (unit * kSlots + index) * half * kNR; }
  int64_t panel(int64_t index) const { return slot(units, 0) + index * depth * kNR; }
  int64_t floats() const { return panel(rest); }
};

int64_t packed_bytes(const TensorRef& src, const void* params) {
  const Weights w(src, params);
  return Layout(w.depth, w.n).floats() * 4;
}

// The four quarters of a unit lie in their slots; the sums are rounded once.
void pack_sums(const Layout& l, float* unit) {
  const int64_t size = l.half * kNR;
  for (int64_t i = 0; i < size; ++i) {
    const double b11 = unit[kB11 * size + i], b12 = unit[kB12 * size + i];
    const double b21 = unit[kB21 * size + i], b22 = unit[kB22 * size + i];
    unit[kT1 * size + i] = static_cast<float>(b12 - b11);
    unit[kT2 * size + i] = static_cast<float>(b22 - b12 + b11);
    unit[kT3 * size + i] = static_cast<float>(b22 - b12);
    unit[kT4 * size + i] = static_cast<float>(b21 - (b22 - b12 + b11));
  }
}

void pack(const TensorRef& src, void* dst, const void* params) {
  const Weights w(src, params);
  const Layout l(w.depth, w.n);
  const float* from = static_cast<const float*>(src.data);
  float* to = static_cast<float*>(dst);
  for (int64_t u = 0; u < l.units; ++u) {
    const Slot slots[2][2] = {{kB11, kB12}, {kB21, kB22}};
    for (int64_t lower = 0; lower < 2; ++lower) {
      const int64_t depth = lower == 0 ? l.half : l.depth - l.half;
      for (int64_t right = 0; right < 2; ++right) {
        float* panel = to + l.slot(u, slots[lower][right]);
        pack_panel(from + lower * l.half * w.step + (2 * u + right) * kNR * w.col, w.step, w.col,
                   depth, kNR, panel);
        std::memset(panel + depth * kNR, 0, static_cast<size_t>((l.half - depth) * kNR) * 4);
      }
    }
    pack_sums(l, to + l.slot(u, 0));
  }
  for (int64_t p = 0; p < l.rest; ++p) {
    const int64_t col = (2 * l.units + p) * kNR;
    pack_panel(from + col * w.col, w.step, w.col, w.depth, least(kNR, w.n - col), to + l.panel(p));
  }
}

void unpack(const void* src, const TensorRef& dst, const void* params) {
  const Weights w(dst, params);
  const Layout l(w.depth, w.n);
  const float* from = static_cast<const float*>(src);
  float* to = static_cast<float*>(dst.data);
  const Slot slots[2][2] = {{kB11, kB12}, {kB21, kB22}};
  for (int64_t k = 0; k < w.depth; ++k) {
    const int64_t lower = k < l.half ? 0 : 1;
    for (int64_t j = 0; j < w.n; ++j) {
      const int64_t p = j / kNR, at = j % kNR;
      to[k * w.step + j * w.col] =
          p < 2 * l.units
              ? from[l.slot(p / 2, slots[lower][p % 2]) + (k - lower * l.half) * kNR + at]
              : from[l.panel(p - 2 * l.units) + k * kNR + at];
    }
  }
}

// Blocks with fewer rows are multiplied plainly: their sums would cost more than they save.
constexpr int64_t kLeastRows = 32;

// The left sides of a block: seven matrices of `pairs` rows.
enum Side : int64_t { kA11, kA12, kS2, kS3, kA22, kS1, kS4, kSides };
constexpr int64_t kResults = 3;

// How x is cut, and the scratch of one worker: left sides, three results, and the rows' scales.
struct Blocks {
  int64_t count, pairs, row;  // row: floats between the rows of a left side

  Blocks(int64_t m, const Layout& l, int threads) {
    // The left sides of a block should stay in L2; but with fewer rows the right sides, which are
    // 7/4 of the weights, would have to come too fast.
    constexpr int64_t kBytes = kLanes == 16 ? 1600 << 10 : 1 << 20;
    const int64_t most_rows = most(128, kBytes / (2 * kSides * most(1, l.half)));
    count = ceil_div(m, most_rows);
    // A worker with blocks of its own makes their sums alone, but then every worker goes through
    // all right sides: they come from memory, which keeps up with many rows only.
    const int64_t even = ceil_div(count, threads) * threads;
    if (m / even >= 128) count = even;
    pairs = ceil_div(ceil_div(m, count), 2);
    row = ceil_div(l.half, kLine) * kLine + kLine;
  }

  int64_t floats() const {
    return ceil_div(pairs * (kSides * row + kResults * kNR + 2), kLine) * kLine;
  }
};

// The exponent of the largest magnitude of n numbers, as the bits of a float have it.
int32_t magnitude(const float* x, int64_t n) {
  vi largest{};
  int64_t i = 0;
  const auto take_in = [&](vf v) {
    const vi bits = (vi)v & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  };
  for (; i + kLanes <= n; i += kLanes) take_in(load(x + i));
  if (i < n) take_in(load_n(x + i, static_cast<int>(n - i)));
  int32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits = largest[lane] > bits ? largest[lane] : bits;
  return bits >> 23;
}

// 2^exponent, a normal number.
float power(int32_t exponent) {
  const int32_t bits = (exponent + 127) << 23;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// What two rows are multiplied by before they are added, and their results after.
struct Scales {
  float row[2], back[2];
};

// False when a row is not finite, or their sizes are too far apart for a factor.
bool scales_of(int32_t upper, int32_t lower, Scales& s) {
  constexpr int32_t kNotFinite = 255, kMost = 126;
  if (upper == kNotFinite || lower == kNotFinite) return false;
  const int small = upper < lower ? 0 : 1;
  int32_t up = upper < lower ? lower - upper : upper - lower;
  // Rows of zeros, or as good as, disappear beside any other.
  if ((small == 0 ? upper : lower) == 0) up = kMost;
  if (up > kMost) return false;
  if (up < 2) up = 0;
  s.row[small] = power(up);
  s.back[small] = power(-up);
  s.row[1 - small] = s.back[1 - small] = 1;
  return true;
}

struct Rows {
  const float* a;
  int64_t a_row;
  int64_t upper, lower;  // lower is upper or one less
};

// What a worker keeps of the block it is at.
struct Sides {
  int64_t block = -1;
  bool usable = false;
};

// Writes the left sides and the scales back; false when the rows cannot be added.
bool prepare(const Rows& rows, const Layout& l, const Blocks& blocks, float* sides, float* back) {
  const int64_t matrix = blocks.pairs * blocks.row;
  for (int64_t i = 0; i < rows.upper; ++i) {
    // A missing row is any row times zero.
    const bool alone = i == rows.lower;
    const float* a[2] = {rows.a + i * rows.a_row,
                         rows.a + (alone ? i : rows.upper + i) * rows.a_row};
    Scales scales;
    if (!scales_of(magnitude(a[0], l.depth), magnitude(a[1], l.depth), scales)) return false;
    back[i] = scales.back[0];
    back[rows.upper + i] = scales.back[1];
    const float scale[2] = {scales.row[0], alone ? 0 : scales.row[1]};
    float* side = sides + i * blocks.row;
    const auto sums = [&](int64_t k, vf a11, vf a12, vf a21, vf a22)
                          __attribute__((always_inline)) {
                            a11 *= scale[0], a12 *= scale[0], a21 *= scale[1], a22 *= scale[1];
                            const vf s1 = a21 + a22, s2 = s1 - a11;
                            store(side + kA11 * matrix + k, a11);
                            store(side + kA12 * matrix + k, a12);
                            store(side + kS2 * matrix + k, s2);
                            store(side + kS3 * matrix + k, a11 - a21);
                            store(side + kA22 * matrix + k, a22);
                            store(side + kS1 * matrix + k, s1);
                            store(side + kS4 * matrix + k, a12 - s2);
                          };
    const int64_t right = l.depth - l.half;
    int64_t k = 0;
    for (; k + kLanes <= right; k += kLanes) {
      sums(k, load(a[0] + k), load(a[0] + l.half + k), load(a[1] + k), load(a[1] + l.half + k));
    }
    for (; k < l.half; k += kLanes) {
      const int n = static_cast<int>(least(kLanes, l.half - k));
      const int m = static_cast<int>(least(kLanes, right - k));
      const auto some = [](const float* p, int count) {
        return count > 0 ? load_n(p, count) : vf{};
      };
      sums(k, some(a[0] + k, n), some(a[0] + l.half + k, m), some(a[1] + k, n),
           some(a[1] + l.half + k, m));
    }
  }
  return true;
}

// y = (p + t) * back, row by row; p may be y.
void finish(float* y, int64_t y_row, const float* p, int64_t p_row, const float* t,
            const float* back, int64_t rows) {
  for (int64_t i = 0; i < rows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kNV; ++v) {
      const vf sum = load(p + i * p_row + v * kLanes) + load(t + i * kNR + v * kLanes);
      store(y + i * y_row + v * kLanes, sum * back[i]);
    }
  }
}

// t += p
void add_to(float* t, const float* p, int64_t rows) {
  for (int64_t i = 0; i < rows * kNR; i += kLanes) store(t + i, load(t + i) + load(p + i));
}

// One execution: what every piece of it reads.
struct Linear {
  const float* x;
  int64_t x_row, x_step;
  const float* w;
  float* y;
  int64_t y_row, n;
  Layout layout;
  Blocks blocks;
  Epilogue epilogue;
};

// The seven products of a unit, for a block whose left sides are ready.
void multiply_unit(const Linear& c, int64_t row, int64_t rows, int64_t unit, bool cold,
                   float* scratch) {
  const Layout& l = c.layout;
  const Blocks& b = c.blocks;
  const int64_t n_upper = (rows + 1) / 2, n_lower = rows / 2, col = unit * 2 * kNR;
  float* t = scratch + kSides * b.pairs * b.row;
  float *t2 = t + b.pairs * kNR, *t3 = t2 + b.pairs * kNR;
  const float* back = t3 + b.pairs * kNR;
  float* upper = c.y + row * c.y_row + col;
  float* lower = upper + n_upper * c.y_row;
  const Epilogue none{};
  const auto multiply = [&](Side side, Slot slot, int64_t n, float* y, int64_t y_row,
                            bool accumulate) {
    const float* panel = c.w + l.slot(unit, slot);
    const float* next = unit + 1 < l.units ? c.w + l.slot(unit + 1, 0)
                        : l.rest > 0       ? c.w + l.panel(0)
                                           : c.w;
    multiply_panel({scratch + side * b.pairs * b.row, b.row, 1, n, panel, l.half,
                    slot == kB22 ? next : panel + l.half * kNR, cold && slot == kB11, y, y_row, kNR,
                    0, 0, accumulate},
                   none);
  };
  const auto finish_upper = [&](float* y, const float* sum, int64_t right) {
    finish(y, c.y_row, y, c.y_row, sum, back, n_upper);
    apply_epilogue(c.epilogue, row, col + right, n_upper, kNR, y, c.y_row);
  };
  const auto finish_lower = [&](float* y, const float* p, int64_t p_row, int64_t right) {
    finish(y, c.y_row, p, p_row, t2, back + n_upper, n_lower);
    apply_epilogue(c.epilogue, row + n_upper, col + right, n_lower, kNR, y, c.y_row);
  };
  multiply(kA11, kB11, n_upper, t, kNR, false);
  multiply(kA12, kB21, n_upper, upper, c.y_row, false);
  finish_upper(upper, t, 0);
  multiply(kS2, kT2, n_upper, t, kNR, true);
  multiply(kS3, kT3, n_upper, t2, kNR, false);
  add_to(t2, t, n_upper);
  multiply(kA22, kT4, n_lower, lower, c.y_row, false);
  finish_lower(lower, lower, c.y_row, 0);
  multiply(kS1, kT1, n_upper, t3, kNR, false);
  add_to(t, t3, n_upper);
  finish_lower(lower + kNR, t3, kNR, kNR);
  multiply(kS4, kB22, n_upper, upper + kNR, c.y_row, false);
  finish_upper(upper + kNR, t, kNR);
}

// Rows times the two panels of a unit, as they are: the upper half of the depth, then the lower.
void multiply_plain(const Linear& c, int64_t row, int64_t rows, int64_t unit) {
  const Layout& l = c.layout;
  const Slot slots[2][2] = {{kB11, kB12}, {kB21, kB22}};
  const Epilogue none{};
  for (int64_t right = 0; right < 2; ++right) {
    const int64_t col = (2 * unit + right) * kNR;
    for (int64_t lower = 0; lower < 2; ++lower) {
      const float* panel = c.w + l.slot(unit, slots[lower][right]);
      const float* ahead = c.w + l.slot(unit, lower == 0 ? slots[1][right] : kB12);
      multiply_panel({c.x + row * c.x_row + lower * l.half * c.x_step, c.x_row, c.x_step, rows,
                      panel, lower == 0 ? l.half : l.depth - l.half, ahead, true,
                      c.y + row * c.y_row + col, c.y_row, kNR, row, col, lower != 0},
                     lower == 0 ? none : c.epilogue);
    }
  }
}

// The panels behind the units.
void multiply_rest(const Linear& c, int64_t row, int64_t rows, int64_t index, bool cold) {
  const Layout& l = c.layout;
  const int64_t col = (2 * l.units + index) * kNR;
  const float* panel = c.w + l.panel(index);
  const float* ahead = index + 1 < l.rest ? panel + l.depth * kNR : c.w;
  multiply_panel({c.x + row * c.x_row, c.x_row, c.x_step, rows, panel, l.depth, ahead, cold,
                  c.y + row * c.y_row + col, c.y_row, least(kNR, c.n - col), row, col},
                 c.epilogue);
}

int64_t strassen_scratch(const Call& call) {
  const TensorRef &x = call.in[0], &y = call.out[0];
  const Layout l(x.shape[1], y.shape[1]);
  if (x.shape[0] == 0) return 0;
  const Blocks b(x.shape[0], l, call.parallel.threads);
  return 4 * b.floats() * most_shares(call, b.count * (l.units + l.rest));
}

// As linear_f32.
const char* run_strassen(const Call& call) {
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t m = x.shape[0], n = y.shape[1];
  if (m == 0 || n == 0) return nullptr;
  const Layout l(x.shape[1], n);
  const Linear c{
      static_cast<const float*>(x.data),
      x.strides[0],
      x.strides[1],
      static_cast<const float*>(call.in[1].data),
      static_cast<float*>(y.data),
      y.strides[0],
      n,
      l,
      Blocks(m, l, call.parallel.threads),
      make_epilogue(static_cast<const ProductParams*>(call.params)->epilogue, call.in + 2)};
  Sides ready[kMaxShares];
  const int64_t columns = l.units + l.rest;
  share_out_owned(call, c.blocks.count * columns, [&](int64_t piece, bool first, int64_t share) {
    const int64_t block = piece / columns, column = piece % columns;
    const int64_t row = m * block / c.blocks.count;
    const int64_t rows = m * (block + 1) / c.blocks.count - row;
    if (column >= l.units) return multiply_rest(c, row, rows, column - l.units, first);
    float* scratch = reinterpret_cast<float*>(call.scratch) + share * c.blocks.floats();
    Sides& sides = ready[share];
    if (sides.block != block) {
      float* back = scratch + c.blocks.pairs * (kSides * c.blocks.row + kResults * kNR);
      sides.block = block;
      sides.usable = rows >= kLeastRows && c.x_step == 1 &&
                     prepare({c.x + row * c.x_row, c.x_row, (rows + 1) / 2, rows / 2}, l, c.blocks,
                             scratch, back);
    }
    if (!sides.usable) return multiply_plain(c, row, rows, column);
    multiply_unit(c, row, rows, column, first, scratch);
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"linear_strassen_f32", kTileName, kProductFields, 1, sizeof(ProductParams), strassen_scratch,
     run_strassen},
};
const Packer kPackers[] = {
    {"strassen_pack_f32", kPackFields, 1, sizeof(PackParams), packed_bytes, pack, unpack},
};

}  // namespace

Table gemm_strassen_table();
Table gemm_strassen_table() {
  return {kKernels, sizeof(kKernels) / sizeof(*kKernels), kPackers,
          sizeof(kPackers) / sizeof(*kPackers)};
}

}  // namespace zenith::ZENITH_ISA
