// Products of float32 with a constant right side on integer tiles (AMX), by Ozaki's scheme: every
// number is three digits of 8 bits, products of digits add up exactly in 32 bits, and only the few
// sums of them are rounded. README.md says what it costs and how exact it is.
//
// Note [Not finite]: digits hold finite numbers only. An infinity or NaN of x is a zero in the
// digits; its products are added to the results of its row. There a weight smaller than half a step
// counts as zero.
#include "zenith/kernel.h"

#ifndef __AMX_INT8__

namespace zenith::ZENITH_ISA {
Table gemm_ozaki_table();
Table gemm_ozaki_table() { return {nullptr, 0, nullptr, 0}; }
}  // namespace zenith::ZENITH_ISA

#else

#include "cpu/kernels/gemm/gemm.h"
#include "cpu/kernels/gemm/ozaki.h"
#include "cpu/kernels/gemm/shares.h"

namespace zenith::ZENITH_ISA {
namespace {

// The left side of one call: digits of 16 rows, [step][digit][16][64], their steps, [pass][16], and
// which rows are not finite.
struct Left {
  Depth depth;
  int64_t rows, tiles;
  char* scratch;

  Left(int64_t m, int64_t k, char* memory)
      : depth(k), rows(m), tiles(ceil_div(m, kRows)), scratch(memory) {}
  int64_t tile_bytes() const {
    return depth.steps * kDigits * kTile + depth.passes * kRows * 4 + kDeep;
  }
  int8_t* digits(int64_t tile, int64_t step) const {
    return reinterpret_cast<int8_t*>(scratch + tile * tile_bytes()) + step * kDigits * kTile;
  }
  float* steps(int64_t tile, int64_t pass) const {
    return reinterpret_cast<float*>(digits(tile, depth.steps)) + pass * kRows;
  }
  char* odd(int64_t tile) const { return reinterpret_cast<char*>(steps(tile, depth.passes)); }
};

bool is_finite(float x) { return x - x == 0; }

// A copy side by side without what is not finite; whether there was any such number.
bool clean(const float* x, int64_t step, int64_t n, float* to) {
  bool odd = false;
  for (int64_t k = 0; k < n; ++k) {
    const float value = x[k * step];
    odd |= !is_finite(value);
    to[k] = is_finite(value) ? value : 0;
  }
  return odd;
}

void write_row(const TensorRef& x, const Left& left, int64_t row) {
  alignas(64) float copy[kPassDepth];
  const int64_t tile = row / kRows, i = row % kRows, step = x.strides[1];
  char& odd = left.odd(tile)[i];
  odd = 0;
  for (int64_t pass = 0; pass < left.depth.passes; ++pass) {
    const int64_t first = left.depth.begin(pass), last = left.depth.begin(pass + 1);
    const int64_t n = least(left.depth.size, last * kDeep) - first * kDeep;
    const float* from =
        static_cast<const float*>(x.data) + row * x.strides[0] + first * kDeep * step;
    float size = step == 1 ? magnitude(from, n) : 0;
    if (step != 1 || !is_finite(size)) {
      odd |= static_cast<char>(clean(from, step, n, copy));
      from = copy;
      size = magnitude(from, n);
    }
    const Scale scale(size);
    left.steps(tile, pass)[i] = scale.step;
    write_digits(from, n, scale.per_unit, kTile, left.digits(tile, first) + i * kDeep);
  }
}

// Rows that are missing in the last tile are not written: nobody reads what comes of them.
void write_tile(const TensorRef& x, const Left& left, int64_t tile) {
  for (int64_t row = tile * kRows; row < least(left.rows, (tile + 1) * kRows); ++row) {
    write_row(x, left, row);
  }
}

// What the tiles fetch for later: `lines` at each step.
struct Ahead {
  const char* from;
  int64_t lines;
};

// The four sums of 16 rows times 16 columns over `steps` of the depth. Tiles 0 to 3 are the sums, 4
// to 6 the digits of the rows, 7 a digit of the columns.
void multiply(const int8_t* a, const int8_t* b, int64_t steps, Ahead ahead, int32_t* sums) {
  ZENITH_TILE_ZERO(0);
  ZENITH_TILE_ZERO(1);
  ZENITH_TILE_ZERO(2);
  ZENITH_TILE_ZERO(3);
  for (int64_t s = 0; s < steps; ++s, a += kDigits * kTile, b += kDigits * kTile) {
    ZENITH_TILE_LOAD(4, a, kDeep);
    ZENITH_TILE_LOAD(7, b, kDeep);
    ZENITH_TILE_MULTIPLY(tdpbssd, 0, 4, 7);
    ZENITH_TILE_LOAD(5, a + kTile, kDeep);
    ZENITH_TILE_MULTIPLY(tdpbssd, 1, 5, 7);
    ZENITH_TILE_LOAD(6, a + 2 * kTile, kDeep);
    ZENITH_TILE_MULTIPLY(tdpbssd, 2, 6, 7);
    ZENITH_TILE_LOAD(7, b + kTile, kDeep);
    ZENITH_TILE_MULTIPLY(tdpbssd, 1, 4, 7);
    ZENITH_TILE_MULTIPLY(tdpbssd, 2, 5, 7);
    ZENITH_TILE_MULTIPLY(tdpbssd, 3, 6, 7);
    ZENITH_TILE_LOAD(7, b + 2 * kTile, kDeep);
    ZENITH_TILE_MULTIPLY(tdpbssd, 2, 4, 7);
    ZENITH_TILE_MULTIPLY(tdpbssd, 3, 5, 7);
    for (int64_t i = 0; i < ahead.lines; ++i, ahead.from += 64) {
      __builtin_prefetch(ahead.from, 0, 2);
    }
  }
  ZENITH_TILE_STORE(0, sums, kRows * 4);
  ZENITH_TILE_STORE(1, sums + 256, kRows * 4);
  ZENITH_TILE_STORE(2, sums + 512, kRows * 4);
  ZENITH_TILE_STORE(3, sums + 768, kRows * 4);
}

// part[16][16] (+)= what the sums are worth.
template <bool kFirst>
void add_up(const int32_t* sums, const float* a_steps, const float* b_steps, float* part) {
  constexpr float kByte = 1.0f / 256;
  const vf columns = load(b_steps) * 4294967296.0f;
  const auto sum = [&](int64_t which, int64_t i) {
    return to_float(*reinterpret_cast<const vi_u*>(sums + which * 256 + i * kRows));
  };
  for (int64_t i = 0; i < kRows; ++i, part += kRows) {
    vf v = ((sum(3, i) * kByte + sum(2, i)) * kByte + sum(1, i)) * kByte + sum(0, i);
    v = v * columns * a_steps[i];
    store(part, kFirst ? v : v + load(part));
  }
}

void copy_rows(const float* part, int64_t rows, int64_t cols, float* y, int64_t y_row) {
  const int n = static_cast<int>(cols);
  for (int64_t i = 0; i < rows; ++i, part += kRows, y += y_row) {
    if (cols == kRows) {
      store(y, load(part));
    } else {
      store_n(y, load(part), n);
    }
  }
}

// One execution: what every piece of it reads.
struct Product {
  TensorRef x;
  Left left;
  Layout layout;
  const char* w;
  float* y;
  int64_t y_row;
  Epilogue epilogue;
};

// Note [Not finite]
void add_odd_row(const Product& p, int64_t row, int64_t tile, float* part) {
  const float* x = static_cast<const float*>(p.x.data) + row * p.x.strides[0];
  for (int64_t k = 0; k < p.layout.depth.size; ++k) {
    const float value = x[k * p.x.strides[1]];
    if (is_finite(value)) continue;
    for (int64_t j = 0; j < kRows; ++j) {
      part[j] += value * static_cast<float>(steps_at(p.layout, p.w, tile, k, j));
    }
  }
}

// What follows the last pass, while the results are in L1.
void finish(const Product& p, int64_t t, int64_t tile, float* part) {
  const int64_t row = t * kRows, rows = least(kRows, p.left.rows - row);
  const int64_t col = tile * kRows, cols = least(kRows, p.layout.n - col);
  for (int64_t i = 0; i < rows; ++i) {
    if (p.left.odd(t)[i] != 0) add_odd_row(p, row + i, tile, part + i * kRows);
  }
  apply_epilogue(p.epilogue, row, col, rows, cols, part, kRows);
  copy_rows(part, rows, cols, p.y + row * p.y_row + col, p.y_row);
}

// Tiles [first, last) of rows times one tile of columns; parts: as many [16][16] of the worker.
void multiply_column(const Product& p, int64_t first, int64_t last, int64_t tile, float* parts) {
  alignas(64) int32_t sums[kSums * kRows * kRows];
  const Depth& depth = p.layout.depth;
  // One tile of rows goes straight through the digits, which the machine itself fetches ahead.
  const int64_t lines = last - first == 1 ? 0 : ceil_div(kDigits * kTile / 64, last - first);
  for (int64_t pass = 0; pass < depth.passes; ++pass) {
    const int64_t step = depth.begin(pass), steps = depth.begin(pass + 1) - step;
    const int8_t* b = p.layout.digits(p.w, tile, step);
    const float* b_steps = p.layout.scales(p.w, tile) + pass * kRows;
    // The digits of the next pass, or of the next columns, lie behind these.
    const char* ahead = reinterpret_cast<const char*>(b + steps * kDigits * kTile);
    float* part = parts;
    for (int64_t t = first; t < last; ++t, ahead += steps * lines * 64, part += kRows * kRows) {
      multiply(p.left.digits(t, step), b, steps, {ahead, lines}, sums);
      (pass == 0 ? add_up<true> : add_up<false>)(sums, p.left.steps(t, pass), b_steps, part);
      if (pass + 1 == depth.passes) finish(p, t, tile, part);
    }
  }
}

// Blocks of rows whose digits stay in L2 beside those of a column.
struct Blocks {
  int64_t count, group;  // group: tiles of columns in a piece
  int64_t rows;          // the most tiles of rows in a block

  Blocks(const Left& left) {
    constexpr int64_t kBytes = 1 << 20;
    count = ceil_div(left.tiles, most(4, kBytes / most(1, left.tile_bytes())));
    rows = ceil_div(left.tiles, count);
    group = most(1, 4 / rows);
  }
  int64_t parts() const { return rows * kRows * kRows; }
};

int64_t linear_scratch(const Call& call) {
  if (call.in[0].shape[0] == 0) return 0;
  const Left left(call.in[0].shape[0], call.in[0].shape[1], nullptr);
  return left.tiles * left.tile_bytes() +
         4 * Blocks(left).parts() * most(1, least(call.parallel.threads, kMaxShares));
}

// As linear_f32.
const char* run_linear(const Call& call) {
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t m = x.shape[0], n = y.shape[1];
  if (m == 0 || n == 0) return nullptr;
  const Product p{
      x,
      Left(m, x.shape[1], call.scratch),
      Layout(x.shape[1], n),
      static_cast<const char*>(call.in[1].data),
      static_cast<float*>(y.data),
      y.strides[0],
      make_epilogue(static_cast<const ProductParams*>(call.params)->epilogue, call.in + 2)};
  parallel_for(call, p.left.tiles, [&](int64_t tile, int) { write_tile(x, p.left, tile); });
  const Blocks blocks(p.left);
  const int64_t groups = ceil_div(p.layout.tiles, blocks.group);
  float* parts = reinterpret_cast<float*>(call.scratch + p.left.tiles * p.left.tile_bytes());
  TileConfig config;
  for (int tile = 0; tile < 7; ++tile) config.set(tile, static_cast<int>(least(m, kRows)), kDeep);
  config.set(7, kRows, kDeep);
  share_out_owned(call, blocks.count * groups, [&](int64_t piece, bool, int64_t share) {
    load_tiles(config);
    const int64_t block = piece / groups, group = piece % groups;
    const int64_t end = least(p.layout.tiles, (group + 1) * blocks.group);
    for (int64_t tile = group * blocks.group; tile < end; ++tile) {
      multiply_column(p, p.left.tiles * block / blocks.count,
                      p.left.tiles * (block + 1) / blocks.count, tile,
                      parts + share * blocks.parts());
    }
    _tile_release();
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"linear_ozaki_f32", "16x16", kProductFields, 1, sizeof(ProductParams), linear_scratch,
     run_linear},
};

}  // namespace

Table gemm_ozaki_table();
Table gemm_ozaki_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
#endif
