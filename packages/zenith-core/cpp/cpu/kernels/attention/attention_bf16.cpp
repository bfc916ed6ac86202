// Attention of bfloat16 where the machine multiplies pairs: scores of a tile's query rows at a time
// in float32, their softmax rounded to bfloat16 for the second product. Elsewhere half.cpp is the
// kernel of this name.
#include "cpu/isa/bf16.h"
#include "cpu/isa/short_functions.h"
#include "cpu/kernels/attention/attention.h"

#if defined(__AVX512BF16__) && ZENITH_VEC_BYTES == 64
#define ZENITH_PAIRS
#include <numeric>

#include "cpu/kernels/attention/rows_bf16.h"
#include "cpu/kernels/attention/scores.h"
#include "cpu/kernels/gemm/tile_bf16.h"
#endif

namespace zenith::ZENITH_ISA {

#ifdef ZENITH_PAIRS
namespace {

constexpr int64_t kTaskRows = 64;  // least query rows that are worth packing keys for
// Up to so many query rows read keys and values in place.
constexpr int64_t kFewRows = kWholeParts ? 0 : 4;
constexpr int64_t kFewKeys = 128;  // of them, as many as stay in L1 for all heads of a group
constexpr int64_t kKeys = std::lcm(kCols, 2 * kLanes);  // of them, whole panels and loops of two

// Sizes ending in p are rounded up to whole tiles. A task is a group's heads times some query rows,
// or some of the heads times all rows where those are few.
struct TilePlan : Sizes {
  bool few;
  int64_t dp, tp, ep, stride, cuts;
  int64_t k_size, v_size, p_size, q_size;  // bfloat16 numbers of one worker
  int64_t s_size, y_size;                  // float32 numbers
  int64_t worker_bytes;
};

TilePlan tile_plan_of(const Call& call) {
  TilePlan p{};
  static_cast<Sizes&>(p) = sizes_of(call);
  p.few = p.rows <= kFewRows;
  p.dp = round_up(at_least(p.d, 1), p.few ? 2 * kLanes : kStep);
  p.tp = round_up(at_least(p.keys, 1), kKeys);
  p.stride = p.tp + 2 * kLanes;  // no power of two: rows would share cache sets
  p.ep = round_up(at_least(p.e, 1), kCols);
  const int64_t tasks = at_least(call.in[0].shape[0] * p.groups, 1);
  const int64_t want = call.parallel.threads == 1 ? 1 : 4 * call.parallel.threads;
  p.cuts = at_least(at_most((want + tasks - 1) / tasks, p.rows / kTaskRows), 1);
  if (p.few) p.cuts = at_least(at_most((call.parallel.threads + tasks - 1) / tasks, p.heads), 1);
  p.k_size = p.few ? 0 : p.tp * p.dp;
  p.v_size = p.few ? 0 : p.tp * p.ep;
  const int64_t rows = p.few ? (p.heads + p.cuts - 1) / p.cuts * p.rows : kRows;
  p.p_size = rows * p.stride;
  p.q_size = rows * p.dp;
  p.s_size = rows * p.stride;
  p.y_size = kRows * kCols;
  p.worker_bytes = (p.k_size + p.v_size + p.p_size + p.q_size) * 2 + (p.s_size + p.y_size) * 4;
  return p;
}

struct TileWork {
  bf16 *k, *v, *p, *q;
  float *s, *y;
};

void copy_padded(const bf16* from, int64_t n, int64_t padded, bf16* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * 2);
  std::memset(to + n, 0, static_cast<size_t>(padded - n) * 2);
}

// Keys as pair panels [tp / kCols][dp / 2][kCols][2]: their 32-bit pairs transposed.
void pack_keys(const TensorRef& k, int64_t b, int64_t g, const TilePlan& p, bf16* to) {
  for (int64_t first = 0; first < p.tp; first += kLanes) {
    for (int64_t c = 0; c < p.dp; c += 2 * kLanes) {
      vf r[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const bool here = first + i < p.keys;
        r[i] = here ? (vf)read_padded(row_of<const bf16>(k, b, g, first + i) + c, p.d - c) : vf{};
      }
      transpose(r);
      bf16* panel = to + first / kCols * kCols * p.dp + c * kCols + first % kCols * 2;
      const int64_t pairs = at_most(kLanes, (p.dp - c) / 2);
      for (int i = 0; i < pairs; ++i) std::memcpy(panel + i * 2 * kCols, &r[i], sizeof(vf));
    }
  }
}

// Values as pair panels [ep / kCols][tp / 2][kCols][2]: two rows interleaved.
void pack_values(const TensorRef& v, int64_t b, int64_t g, const TilePlan& p, bf16* to) {
  typedef uint16_t halves __attribute__((vector_size(64)));
  halves low, high;
  for (int i = 0; i < 32; ++i) {
    low[i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    high[i] = static_cast<uint16_t>(low[i] + 16);
  }
  const int64_t depth = round_up(p.keys, kStep);
  for (int64_t t = 0; t < depth; t += 2) {
    const bool here = t < p.keys, next = t + 1 < p.keys;
    const bf16* first = here ? row_of<const bf16>(v, b, g, t) : nullptr;
    const bf16* second = next ? row_of<const bf16>(v, b, g, t + 1) : nullptr;
    for (int64_t c = 0; c < p.ep; c += 2 * kLanes) {
      const halves a = here ? (halves)read_padded(first + c, p.e - c) : halves{};
      const halves z = next ? (halves)read_padded(second + c, p.e - c) : halves{};
      const auto put = [&](int64_t column, halves pairs) __attribute__((always_inline)) {
        bf16* panel = to + column / kCols * kCols * p.tp + t * kCols + column % kCols * 2;
        std::memcpy(panel, &pairs, sizeof(pairs));
      };
      put(c, __builtin_shuffle(a, z, low));
      if (c + kLanes < p.ep) put(c + kLanes, __builtin_shuffle(a, z, high));
    }
  }
}

// 2^x of two vectors, to 8e-5; of -inf it is 0. Step by step in turns: one after the other, too
// many of the instructions that the machine looks at wait for those before them.
[[gnu::always_inline]] inline void powers_of_two(vf& x, vf& y) {
  const vf r = (vf)_mm512_maskz_reduce_ps(0xffff, (__m512)x, 1);  // x - floor(x)
  const vf s = (vf)_mm512_maskz_reduce_ps(0xffff, (__m512)y, 1);
  vf p = r * 0.07802452f + 0.22606716f, q = s * 0.07802452f + 0.22606716f;
  p = p * r + 0.69583354f, q = q * s + 0.69583354f;
  p = p * r + 0.99992522f, q = q * s + 0.99992522f;
  x = (vf)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)x);
  y = (vf)_mm512_maskz_scalef_ps(0xffff, (__m512)q, (__m512)y);
}

// 2^(s * factor - base), rounded into p; the sums of the results before they are rounded, by lanes.
[[gnu::always_inline]] inline vf exp_into(const float* s, int64_t n, float factor, float base,
                                          bf16* p) {
  vf a{}, b{};
  for (int64_t j = 0; j < n; j += 2 * kLanes) {
    vf x = load(s + j) * factor - base, y = load(s + j + kLanes) * factor - base;
    powers_of_two(x, y);
    store_two(p + j, x, y);
    a += x;
    b += y;
  }
  return a + b;
}

// Query rows [row, row + m) of head h of item b, of which keys [c0, c0 + width) have scores.
struct Scored {
  int64_t b, h, row, m, keys, c0, width;
};

// Scales, caps and masks where that is not left to the exponential, whose factor is the result.
float finish_scores(const Params& w, const TensorRef* mask, const Scored& at, float* s,
                    int64_t stride) {
  const bool added = mask != nullptr && mask->dtype != DType::kBool;
  const bool now = w.softcap != 0.0f || added || !(w.scale > 0.0f);
  for (int64_t r = 0; r < at.m; ++r, s += stride) {
    const Span own = visible(w, at.row + r, at.keys);
    const int64_t from = at_most(at_least(own.from - at.c0, 0), at.width);
    const int64_t to = at_least(at_most(own.to - at.c0, at.width), from);
    if (now) {
      for (int64_t j = 0; j < at.width; j += kLanes) store(s + j, load(s + j) * w.scale);
      if (w.softcap != 0.0f) cap_scores(s, round_up(to, kLanes), w.softcap);
    }
    if (mask != nullptr) {
      mask_scores(*mask, at.b, at.h, at.row + r, at.c0 + from, at.c0 + to, s + from);
    }
    for (int64_t j = 0; j < from; ++j) s[j] = -__builtin_inff();
    for (int64_t j = to; j < at.width; ++j) s[j] = -__builtin_inff();
  }
  return (now ? 1.0f : w.scale) * kLog2E;
}

// The softmax of up to kLanes rows of scores times their sums, rounded into p; 1 / the sums. Ends
// of rows meet in vectors: one by one, rows would wait for them.
vf softmax_rows(const float* s, int64_t stride, int64_t m, int64_t width, float factor, bf16* p) {
  vf each[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    each[r] = r < m ? row_max_lanes(s + r * stride, width) : vf{};
  }
  const vf top = max_each(each);
  const vf base = top == -__builtin_inff() ? vf{} : top * factor;
  for (int r = 0; r < kLanes; ++r) {
    each[r] = r < m ? exp_into(s + r * stride, width, factor, base[r], p + r * stride) : vf{};
  }
  const vf total = sum_each(each);
  return total == 0.0f ? vf{} : 1.0f / total;
}

// All query rows, which are few, of heads [head0, head1) against keys and values of their group
// where they lie.
[[maybe_unused]] void few_attention(const Call& call, const TilePlan& p, const TileWork& work,
                                    const Params& w, int64_t b, int64_t group, int64_t head0,
                                    int64_t head1) {
  const TensorRef &q = call.in[0], &k = call.in[1], &v = call.in[2], &y = call.out[0];
  const int64_t first = visible(w, 0, p.keys).from / kKeys * kKeys;
  const int64_t last = at_least(visible(w, p.rows - 1, p.keys).to, first);
  const int64_t rows = (head1 - head0) * p.rows;
  const int64_t width = round_up(last - first, kKeys);
  for (int64_t i = 0; i < rows; ++i) {
    copy_padded(row_of<const bf16>(q, b, head0 + i / p.rows, i % p.rows), p.d, p.dp,
                work.q + i * p.dp);
  }
  for (int64_t t = first; t < last; t += kFewKeys) {
    for (int64_t i = 0; i < rows; ++i) {
      row_scores(work.q + i * p.dp, row_of<const bf16>(k, b, group, t), k.strides[2],
                 at_most(kFewKeys, last - t), p.d, work.s + i * p.stride + t - first);
    }
  }
  for (int64_t h = head0; h < head1; ++h) {
    const int64_t at = (h - head0) * p.rows * p.stride;
    const float factor = finish_scores(w, mask_of(call), {b, h, 0, p.rows, p.keys, first, width},
                                       work.s + at, p.stride);
    const vf scale = softmax_rows(work.s + at, p.stride, p.rows, width, factor, work.p + at);
    for (int64_t r = 0; r < p.rows; ++r) {
      row_values(work.p + at + r * p.stride, row_of<const bf16>(v, b, group, first), v.strides[2],
                 last - first, p.e, scale[r], row_of<bf16>(y, b, h, r));
    }
  }
}

// `m` query rows from `row` on of head h, against packed keys and values.
void tile_attention(const Call& call, const TilePlan& p, const TileWork& work,
                    Multiplier& multiplier, const Params& w, int64_t b, int64_t h, int64_t row,
                    int64_t m) {
  const TensorRef &q = call.in[0], &y = call.out[0];
  const TensorRef* mask = mask_of(call);
  const int64_t keys = p.keys;
  const int64_t first = visible(w, row, keys).from / kKeys * kKeys;
  const int64_t last = at_most(visible(w, row + m - 1, keys).to, keys);
  bf16* to = row_of<bf16>(y, b, h, row);
  if (first >= last) {  // no row sees a key
    for (int64_t r = 0; r < m; ++r) {
      std::memset(to + r * y.strides[2], 0, static_cast<size_t>(p.e) * 2);
    }
    return;
  }
  const int64_t width = round_up(last - first, kKeys), depth = round_up(last - first, kStep);
  const bf16* rows = row_of<const bf16>(q, b, h, row);
  int64_t rows_stride = q.strides[2];
  if (p.d != p.dp) {
    for (int64_t r = 0; r < m; ++r) {
      copy_padded(rows + r * rows_stride, p.d, p.dp, work.q + r * p.dp);
    }
    rows = work.q;
    rows_stride = p.dp;
  }
  const LeftTile queries = left_rows(rows, rows_stride, m, p.dp);
  for (int64_t c = 0; c < width; c += kCols) {
    multiplier.run(queries, work.k + (first + c) * p.dp, work.s + c, p.stride, {});
  }
  const float factor = finish_scores(w, mask, {b, h, row, m, keys, first, width}, work.s, p.stride);
  float scale[(kRows + kLanes - 1) / kLanes * kLanes];
  for (int64_t r = 0; r < m; r += kLanes) {
    const int64_t at = r * p.stride;
    store(scale + r,
          softmax_rows(work.s + at, p.stride, at_most(m - r, kLanes), width, factor, work.p + at));
  }
  for (int64_t c = 0; c < p.e; c += kCols) {
    multiplier.run(left_rows(work.p, p.stride, m, depth), work.v + c * p.tp + first * kCols, work.y,
                   kCols, {});
    const int64_t whole = at_most(p.e - c, kCols) / kLanes * kLanes;
    const int rest = static_cast<int>(at_most(p.e - c, kCols) - whole);
    for (int64_t r = 0; r < m; ++r) {
      const float* sums = work.y + r * kCols;
      bf16* row_to = to + r * y.strides[2] + c;
      for (int64_t j = 0; j < whole; j += kLanes) store(row_to + j, load(sums + j) * scale[r]);
      if (rest > 0) store_n(row_to + whole, load(sums + whole) * scale[r], rest);
    }
  }
}

// Where the i-th of `tiles` tiles begins: even ones, but where a part takes as long as a whole.
int64_t tile_row(int64_t row0, int64_t row1, int64_t i, int64_t tiles) {
  return kWholeParts ? at_most(row0 + i * kRows, row1) : row0 + (row1 - row0) * i / tiles;
}

int64_t tile_attention_scratch(const Call& call) {
  return tile_plan_of(call).worker_bytes * call.parallel.threads;
}

// As attention_f32, see Params; q, k, v and y are bfloat16, the mask is float32 or bool.
const char* run_tile_attention(const Call& call) {
  if (element_count(call.out[0]) == 0) return nullptr;
  const TilePlan plan = tile_plan_of(call);
  parallel_for(call, call.in[0].shape[0] * plan.groups * plan.cuts, [&](int64_t task, int worker) {
    TilePlan p = plan;
    TileWork work{};
    work.k = reinterpret_cast<bf16*>(call.scratch + worker * p.worker_bytes);
    work.v = work.k + p.k_size;
    work.p = work.v + p.v_size;
    work.q = work.p + p.p_size;
    work.s = reinterpret_cast<float*>(work.q + p.q_size);
    work.y = work.s + p.s_size;
    const int64_t cut = task % p.cuts, group = task / p.cuts % p.groups;
    const int64_t b = task / p.cuts / p.groups;
    const int64_t first = p.few ? p.heads * cut / p.cuts : 0;
    const int64_t heads = p.few ? p.heads * (cut + 1) / p.cuts - first : p.heads;
    const int64_t head0 = group * p.heads + first, head1 = head0 + heads;
    const int64_t row0 = p.few ? 0 : p.rows * cut / p.cuts;
    const int64_t row1 = p.few ? p.rows : p.rows * (cut + 1) / p.cuts;
    const Present there = present(call, p, b);
    p.keys = there.keys;  // hidden keys are not even packed
    if (const TensorRef* mask = mask_of(call)) {
      p.keys = shown_keys(*mask, {b, head0, head1, row0, row1}, at_most(p.keys, mask->shape[3]));
    }
    if constexpr (kFewRows > 0) {
      if (p.few) return few_attention(call, p, work, there.how, b, group, head0, head1);
    }
    p.keys = at_most(p.keys, at_least(visible(there.how, row1 - 1, p.keys).to, 0));
    p.tp = round_up(at_least(p.keys, 1), kKeys);
    const int64_t tiles = (row1 - row0 + kRows - 1) / kRows;
    pack_keys(call.in[1], b, group, p, work.k);
    pack_values(call.in[2], b, group, p, work.v);
    Multiplier multiplier;
    for (int64_t h = head0; h < head1; ++h) {
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t row = tile_row(row0, row1, i, tiles);
        tile_attention(call, p, work, multiplier, there.how, b, h, row,
                       tile_row(row0, row1, i + 1, tiles) - row);
      }
    }
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"attention_bf16", kPairTile, kParamFields, kParamCount, sizeof(Params), tile_attention_scratch,
     run_tile_attention},
};

}  // namespace
#endif

Table attention_bf16_table();
Table attention_bf16_table() {
#ifdef ZENITH_PAIRS
  return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0};
#else
  return {nullptr, 0, nullptr, 0};
#endif
}

}  // namespace zenith::ZENITH_ISA
