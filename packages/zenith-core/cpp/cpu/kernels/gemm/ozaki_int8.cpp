// Products of float32 with a constant right side on integer tiles (AMX), by Ozaki's scheme: every
// number is three digits of 8 bits, products of digits add up exactly in 32 bits, and only the few
// sums of them are rounded. README.md says what it costs and how exact it is.
//
// Note [Digits]: the numbers of a row of x (a column of W) in one pass over the depth are whole
// multiples of one step, the largest of them some 2^23 steps: d1 * 2^16 + d2 * 2^8 + d3, digits
// from -128 to 127. Of the nine products of digits the smallest, d3 * d3, is left out; the others
// add up in four sums by their weight.
//
// Note [Passes]: within kPassSteps * kDeep numbers the largest is at most sqrt(kPassSteps * kDeep)
// times the root mean square, whatever they are, so no row and no column loses more than a few
// bits to its largest number. That bound is why a pass is short, not the sums, which would fit.
//
// Note [Exact inverse]: three digits do not give a weight back. The last 8 bits of it lie behind
// the digits, which decides among the floats near the digits' value; the weights for which that is
// not enough (those far smaller than the largest of their column) are listed.
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

#include "cpu/isa/tiles.h"
#include "cpu/kernels/gemm/gemm.h"
#include "cpu/kernels/gemm/shares.h"
#include "cpu/kernels/gemm/weights.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A tile of digits: 16 rows of x (columns of W) times 64 of the depth.
constexpr int64_t kRows = 16, kDeep = 64, kTile = kRows * kDeep;
constexpr int64_t kDigits = 3, kSums = 4;
constexpr int64_t kPassSteps = 6, kPassDepth = kPassSteps * kDeep;
// The largest whole number of steps, with room for the rounding of the scale: 127 and 127 and 127.
constexpr float kMostSteps = 8355000;
// Numbers are whole multiples of a step that is not below the smallest normal number.
constexpr float kLeastSize = 1e-30f;

// How the depth is cut; the same for x and W.
struct Depth {
  int64_t size, steps, passes;

  explicit Depth(int64_t depth)
      : size(depth), steps(ceil_div(depth, kDeep)), passes(ceil_div(steps, kPassSteps)) {}
  int64_t begin(int64_t pass) const { return steps * pass / passes; }  // in steps
};

// Packed weights: for each 16 columns their scales, [pass][16], and digits, [step][digit][16][16
// columns][4]; then the last bytes of all weights, [n][depth]; then how many are listed, and those.
struct Listed {
  uint32_t column, k;
  float value;
};

struct Layout {
  Depth depth;
  int64_t n, tiles;

  Layout(int64_t k, int64_t columns) : depth(k), n(columns), tiles(ceil_div(columns, kRows)) {}
  int64_t tile_bytes() const { return depth.passes * kRows * 4 + depth.steps * kDigits * kTile; }
  const float* scales(const char* w, int64_t tile) const {
    return reinterpret_cast<const float*>(w + tile * tile_bytes());
  }
  const int8_t* digits(const char* w, int64_t tile, int64_t step) const {
    return reinterpret_cast<const int8_t*>(w + tile * tile_bytes() + depth.passes * kRows * 4) +
           step * kDigits * kTile;
  }
  int64_t last_bytes() const { return tiles * tile_bytes(); }
  int64_t count() const { return last_bytes() + ceil_div(n * depth.size, 8) * 8; }
  int64_t bytes(int64_t listed) const {
    return count() + 8 + listed * static_cast<int64_t>(sizeof(Listed));
  }
};

// steps = number * per_unit; number = steps * step.
struct Scale {
  float per_unit, step;

  explicit Scale(float size) {
    per_unit = kMostSteps / (size > kLeastSize ? size : kLeastSize);
    step = static_cast<float>(1.0 / static_cast<double>(per_unit));
  }
};

// The bits of the largest magnitude of n numbers that lie side by side.
int32_t magnitude(const float* x, int64_t n) {
  vi found{};
  const auto take_in = [&](vf v) {
    const vi size = (vi)vabs(v);
    found = size > found ? size : found;
  };
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) take_in(load(x + k));
  if (k < n) take_in(load_n(x + k, static_cast<int>(n - k)));
  int32_t result = 0;
  for (int lane = 0; lane < kLanes; ++lane) result = found[lane] > result ? found[lane] : result;
  return result;
}

// Digits of n numbers, and zeros up to a whole step: [step][digit][64], `apart` bytes between the
// digits. The second and the first are rounded to nearest, which is what makes the next one signed.
void write_digits(const float* x, int64_t n, float per_unit, int64_t apart, int8_t* to) {
  for (int64_t k = 0; k < ceil_div(n, kDeep) * kDeep; k += kLanes) {
    const vf v = k + kLanes <= n ? load(x + k)
                 : k < n         ? load_n(x + k, static_cast<int>(n - k))
                                 : vf{};
    const vi d3 = (vi)_mm512_maskz_cvtps_epi32(0xffff, (__m512)(v * per_unit));
    const vi d2 = (d3 + 128) >> 8, d1 = (d2 + 128) >> 8;
    int8_t* at = to + k / kDeep * kDigits * apart + k % kDeep;
    _mm512_mask_cvtepi32_storeu_epi8(at, 0xffff, (__m512i)d1);
    _mm512_mask_cvtepi32_storeu_epi8(at + apart, 0xffff, (__m512i)d2);
    _mm512_mask_cvtepi32_storeu_epi8(at + 2 * apart, 0xffff, (__m512i)d3);
  }
}

// The float nearest to steps * step that ends in the byte `last`. Where the way there passes zero
// it is no such float: its weight is listed.
float restored(int32_t steps, float step, uint8_t last) {
  const float near = static_cast<float>(steps) * step;
  uint32_t bits;
  std::memcpy(&bits, &near, 4);
  bits += static_cast<uint32_t>(static_cast<int8_t>(last - (bits & 255)));
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// One column of one pass.
struct Column {
  alignas(64) float weights[kPassDepth];
  uint8_t last[kPassDepth];
  __mmask16 listed[kPassDepth / kLanes];
  int64_t count = 0;  // of those listed
  Scale scale{0};

  // What follows from n weights.
  void settle(int64_t n) {
    for (int64_t k = n; k % kLanes != 0; ++k) weights[k] = 0;
    const int32_t size = magnitude(weights, n);
    float largest;
    std::memcpy(&largest, &size, 4);
    scale = Scale(largest);
    count = 0;
    for (int64_t k = 0; k < n; k += kLanes) {
      const vf w = load(weights + k);
      const vi steps = (vi)_mm512_maskz_cvtps_epi32(0xffff, (__m512)(w * scale.per_unit));
      // restored() is the weight if that is at most 128 floats from what the digits say.
      const vi away = (vi)w - (vi)(to_float(steps) * scale.step) + 128;
      const __mmask16 far = _mm512_cmpgt_epu32_mask((__m512i)away, _mm512_set1_epi32(255));
      listed[k / kLanes] = far;
      count += __builtin_popcount(far);
      _mm512_mask_cvtepi32_storeu_epi8(last + k, 0xffff, (__m512i)w);
    }
  }
};

// Calls body(column, pass, j, n) for every column j and pass, n of the depth.
template <typename F>
void each_column(const TensorRef& src, const Weights& w, const F& body) {
  constexpr int64_t kBlock = 64;  // rows of a matrix [K, N] lie on pages of their own
  const Depth depth(w.depth);
  Column columns[kBlock];
  for (int64_t first = 0; first < w.n; first += kBlock) {
    const int64_t cols = least(kBlock, w.n - first);
    for (int64_t pass = 0; pass < depth.passes; ++pass) {
      const int64_t k = depth.begin(pass) * kDeep;
      const int64_t n = least(w.depth, depth.begin(pass + 1) * kDeep) - k;
      const float* from = static_cast<const float*>(src.data) + k * w.step + first * w.col;
      // In the order in which they lie in memory, nearly.
      const bool along = w.step == 1;
      for (int64_t outer = 0; outer < (along ? cols : n); ++outer) {
        for (int64_t inner = 0; inner < (along ? n : cols); ++inner) {
          const int64_t i = along ? inner : outer, j = along ? outer : inner;
          columns[j].weights[i] = from[i * w.step + j * w.col];
        }
      }
      for (int64_t j = 0; j < cols; ++j) {
        columns[j].settle(n);
        body(columns[j], pass, first + j, n);
      }
    }
  }
}

// Of a target that is not there yet: without listed weights.
int64_t packed_bytes(const TensorRef& src, const void* params) {
  const Weights w(src, params);
  int64_t listed = 0;
  if (src.data != nullptr) {
    each_column(src, w, [&](const Column& c, int64_t, int64_t, int64_t) { listed += c.count; });
  }
  return Layout(w.depth, w.n).bytes(listed);
}

void pack(const TensorRef& src, void* dst, const void* params) {
  const Weights w(src, params);
  const Layout l(w.depth, w.n);
  char* to = static_cast<char*>(dst);
  std::memset(to, 0, static_cast<size_t>(l.count()));
  int64_t count = 0;
  Listed* list = reinterpret_cast<Listed*>(to + l.count() + 8);
  each_column(src, w, [&](const Column& c, int64_t pass, int64_t j, int64_t n) {
    const int64_t tile = j / kRows, lane = j % kRows, first = l.depth.begin(pass);
    const_cast<float*>(l.scales(to, tile))[pass * kRows + lane] = c.scale.step;
    int8_t digits[kPassSteps * kDigits * kDeep];
    write_digits(c.weights, n, c.scale.per_unit, kDeep, digits);
    // Four at a time side by side with those of the other columns.
    int8_t* at = const_cast<int8_t*>(l.digits(to, tile, first)) + lane * 4;
    for (int64_t k = 0; k < ceil_div(n, kDeep) * kDigits * kDeep; k += 4, at += kRows * 4) {
      std::memcpy(at, digits + k, 4);
    }
    std::memcpy(to + l.last_bytes() + j * w.depth + first * kDeep, c.last, static_cast<size_t>(n));
    for (int64_t k = 0; k < n; k += kLanes) {
      for (unsigned far = c.listed[k / kLanes]; far != 0; far &= far - 1) {
        const int64_t at_k = k + __builtin_ctz(far);
        list[count++] = {static_cast<uint32_t>(j), static_cast<uint32_t>(first * kDeep + at_k),
                         c.weights[at_k]};
      }
    }
  });
  std::memcpy(to + l.count(), &count, 8);
}

// Steps of weight (k, j of the tile).
int32_t steps_at(const Layout& l, const char* w, int64_t tile, int64_t k, int64_t lane) {
  const int8_t* at = l.digits(w, tile, k / kDeep) + k % kDeep / 4 * kRows * 4 + lane * 4 + k % 4;
  return at[0] * 65536 + at[kTile] * 256 + at[2 * kTile];
}

int64_t pass_of(const Depth& depth, int64_t k) {
  int64_t pass = 0;
  while (depth.begin(pass + 1) * kDeep <= k) ++pass;
  return pass;
}

void unpack(const void* src, const TensorRef& dst, const void* params) {
  const Weights w(dst, params);
  const Layout l(w.depth, w.n);
  const char* from = static_cast<const char*>(src);
  const uint8_t* last = reinterpret_cast<const uint8_t*>(from + l.last_bytes());
  float* to = static_cast<float*>(dst.data);
  for (int64_t j = 0; j < w.n; ++j) {
    const int64_t tile = j / kRows, lane = j % kRows;
    for (int64_t k = 0; k < w.depth; ++k) {
      const float step = l.scales(from, tile)[pass_of(l.depth, k) * kRows + lane];
      to[k * w.step + j * w.col] =
          restored(steps_at(l, from, tile, k, lane), step, last[j * w.depth + k]);
    }
  }
  int64_t count;
  std::memcpy(&count, from + l.count(), 8);
  const Listed* list = reinterpret_cast<const Listed*>(from + l.count() + 8);
  for (int64_t i = 0; i < count; ++i) {
    to[list[i].k * w.step + list[i].column * w.col] = list[i].value;
  }
}

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

constexpr int32_t kInfinity = 0x7f800000;

// A copy side by side without what is not finite; whether there was any such number.
bool clean(const float* x, int64_t step, int64_t n, float* to) {
  bool odd = false;
  for (int64_t k = 0; k < n; ++k) {
    const float value = x[k * step];
    const bool finite = value - value == 0;
    odd |= !finite;
    to[k] = finite ? value : 0;
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
    int32_t bits = step == 1 ? magnitude(from, n) : kInfinity;
    if (bits >= kInfinity) {
      odd |= static_cast<char>(clean(from, step, n, copy));
      from = copy;
      bits = magnitude(from, n);
    }
    float size;
    std::memcpy(&size, &bits, 4);
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
    if (value - value == 0) continue;
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
const Packer kPackers[] = {
    {"ozaki_pack_f32", kPackFields, 1, sizeof(PackParams), packed_bytes, pack, unpack},
};

}  // namespace

Table gemm_ozaki_table();
Table gemm_ozaki_table() {
  return {kKernels, sizeof(kKernels) / sizeof(*kKernels), kPackers,
          sizeof(kPackers) / sizeof(*kPackers)};
}

}  // namespace zenith::ZENITH_ISA
#endif
