// Attention of bfloat16 with products on tile registers: scores of 32 query rows at a time in
// float32, their softmax rounded to bfloat16 for the second product. Where there are no such
// registers, half.cpp is the kernel of this name.
#include "cpu/isa/bf16.h"
#include "cpu/isa/short_functions.h"
#include "cpu/kernels/attention/attention.h"

#ifdef __AMX_TILE__
#include "cpu/kernels/attention/scores.h"
#include "cpu/kernels/gemm/tile_bf16.h"
#endif

namespace zenith::ZENITH_ISA {

#ifdef __AMX_TILE__
namespace {

constexpr int64_t kTaskRows = 64;  // least query rows that are worth packing keys for

// Sizes ending in p are rounded up to whole tiles. A task is a group's heads times some query rows.
struct TilePlan : Sizes {
  int64_t dp, tp, ep, cuts;
  int64_t k_size, v_size, p_size, q_size;  // bfloat16 numbers of one worker
  int64_t s_size, y_size;                  // float32 numbers
  int64_t worker_bytes;
};

TilePlan tile_plan_of(const Call& call) {
  TilePlan p{};
  static_cast<Sizes&>(p) = sizes_of(call);
  p.dp = round_up(at_least(p.d, 1), kStep);
  p.tp = round_up(at_least(p.keys, 1), kStep);
  p.ep = round_up(at_least(p.e, 1), kCols);
  const int64_t tasks = at_least(call.in[0].shape[0] * p.groups, 1);
  const int64_t want = call.parallel.threads == 1 ? 1 : 4 * call.parallel.threads;
  p.cuts = at_least(at_most((want + tasks - 1) / tasks, p.rows / kTaskRows), 1);
  p.k_size = p.tp * p.dp;
  p.v_size = p.tp * p.ep;
  p.p_size = kRows * p.tp;
  p.q_size = kRows * p.dp;
  p.s_size = kRows * p.tp;
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

// A vector V of the numbers from `from` on, of which n are there; others are zero. Copies of a
// length that is not constant are calls, which would take most of the time of packing.
template <typename V>
[[gnu::always_inline]] inline V read_padded(const bf16* from, int64_t n) {
  V v{};
  if (n >= static_cast<int64_t>(sizeof(V) / 2)) {
    std::memcpy(&v, from, sizeof(V));
  } else if (n > 0) {
    std::memcpy(&v, from, static_cast<size_t>(n) * 2);
  }
  return v;
}

// Keys as pair panels [tp / 32][dp / 2][32][2]: their 32-bit pairs transposed.
void pack_keys(const TensorRef& k, int64_t b, int64_t g, const TilePlan& p, bf16* to) {
  for (int64_t first = 0; first < p.tp; first += kLanes) {
    for (int64_t c = 0; c < p.dp; c += 2 * kLanes) {
      vf r[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const bool here = first + i < p.keys;
        r[i] = here ? read_padded<vf>(row_of<const bf16>(k, b, g, first + i) + c, p.d - c) : vf{};
      }
      transpose(r);
      bf16* panel = to + first / kCols * kCols * p.dp + c * kCols + first % kCols * 2;
      for (int i = 0; i < kLanes; ++i) std::memcpy(panel + i * 2 * kCols, &r[i], sizeof(vf));
    }
  }
}

// Values as pair panels [ep / 32][tp / 2][32][2]: two rows interleaved.
void pack_values(const TensorRef& v, int64_t b, int64_t g, const TilePlan& p, bf16* to) {
  for (int64_t t = 0; t < p.tp; t += 2) {
    const bool here = t < p.keys, next = t + 1 < p.keys;
    const bf16* low = here ? row_of<const bf16>(v, b, g, t) : nullptr;
    const bf16* high = next ? row_of<const bf16>(v, b, g, t + 1) : nullptr;
    for (int64_t c = 0; c < p.ep; c += kLanes) {
      const vh a = here ? read_padded<vh>(low + c, p.e - c) : vh{};
      const vh z = next ? read_padded<vh>(high + c, p.e - c) : vh{};
      const vu pairs = __builtin_convertvector(a, vu) | __builtin_convertvector(z, vu) << 16;
      bf16* panel = to + c / kCols * kCols * p.tp + t * kCols + c % kCols * 2;
      std::memcpy(panel, &pairs, sizeof(vu));
    }
  }
}

// 2^(s * factor - base), rounded into p; the sum of the results before they are rounded.
float exp_into(const float* s, int64_t n, float factor, float base, bf16* p) {
  vf a{}, b{};
  for (int64_t j = 0; j < n; j += 2 * kLanes) {
    const vf x = power_of_two(load(s + j) * factor - base);
    const vf y = power_of_two(load(s + j + kLanes) * factor - base);
    store(p + j, x);
    store(p + j + kLanes, y);
    a += x;
    b += y;
  }
  return sum_lanes(a + b);
}

// The softmax of one row of scores of the keys [c0, c0 + width), rounded into p; 1 / its sum.
float softmax_row(const Params& w, const TensorRef* mask, int64_t b, int64_t h, int64_t row,
                  int64_t keys, int64_t c0, int64_t width, float* s, bf16* p) {
  const Span own = visible(w, row, keys);
  const int64_t from = at_most(at_least(own.from - c0, 0), width);
  const int64_t to = at_least(at_most(own.to - c0, width), from);
  float factor = w.scale;
  if (w.softcap != 0.0f || mask != nullptr || !(factor > 0.0f)) {
    for (int64_t j = 0; j < width; j += kLanes) store(s + j, load(s + j) * factor);
    factor = 1.0f;
    if (w.softcap != 0.0f) cap_scores(s, round_up(to, kLanes), w.softcap);
    if (mask != nullptr) mask_scores(*mask, b, h, row, c0 + from, c0 + to, s + from);
  }
  for (int64_t j = 0; j < from; ++j) s[j] = -__builtin_inff();
  for (int64_t j = to; j < width; ++j) s[j] = -__builtin_inff();
  const float top = row_max(s, width);
  factor *= kLog2E;
  const float total = exp_into(s, width, factor, top == -__builtin_inff() ? 0.0f : top * factor, p);
  return total == 0.0f ? 0.0f : 1.0f / total;
}

// `m` query rows from `row` on of head h, against packed keys and values.
void tile_attention(const Call& call, const TilePlan& p, const TileWork& work,
                    Multiplier& multiplier, const Params& w, int64_t b, int64_t h, int64_t row,
                    int64_t m) {
  const TensorRef &q = call.in[0], &y = call.out[0];
  const TensorRef* mask = mask_of(call);
  const int64_t keys = p.keys;
  const int64_t first = visible(w, row, keys).from / kStep * kStep;
  const int64_t last = at_most(visible(w, row + m - 1, keys).to, keys);
  bf16* to = row_of<bf16>(y, b, h, row);
  if (first >= last) {  // no row sees a key
    for (int64_t r = 0; r < m; ++r) {
      std::memset(to + r * y.strides[2], 0, static_cast<size_t>(p.e) * 2);
    }
    return;
  }
  const int64_t width = round_up(last - first, kStep);
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
    multiplier.run(queries, work.k + (first + c) * p.dp, work.s + c, p.tp, {});
  }
  float scale[kRows];
  for (int64_t r = 0; r < m; ++r) {
    scale[r] = softmax_row(w, mask, b, h, row + r, keys, first, width, work.s + r * p.tp,
                           work.p + r * p.tp);
  }
  for (int64_t c = 0; c < p.e; c += kCols) {
    multiplier.run(left_rows(work.p, p.tp, m, width), work.v + c * p.tp + first * kCols, work.y,
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
    const int64_t row0 = p.rows * cut / p.cuts, row1 = p.rows * (cut + 1) / p.cuts;
    const Present there = present(call, p, b);
    p.keys = there.keys;  // hidden keys are not even packed
    if (const TensorRef* mask = mask_of(call)) {
      p.keys = shown_keys(*mask, {b, group * p.heads, (group + 1) * p.heads, row0, row1},
                          at_most(p.keys, mask->shape[3]));
    }
    p.tp = round_up(at_least(p.keys, 1), kStep);
    pack_keys(call.in[1], b, group, p, work.k);
    pack_values(call.in[2], b, group, p, work.v);
    Multiplier multiplier;
    for (int64_t h = group * p.heads; h < (group + 1) * p.heads; ++h) {
      for (int64_t row = row0; row < row1; row += kRows) {
        tile_attention(call, p, work, multiplier, there.how, b, h, row, at_most(kRows, row1 - row));
      }
    }
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"attention_bf16", "32x32", kParamFields, kParamCount, sizeof(Params), tile_attention_scratch,
     run_tile_attention},
};

}  // namespace
#endif

Table attention_bf16_table();
Table attention_bf16_table() {
#ifdef __AMX_TILE__
  return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0};
#else
  return {nullptr, 0, nullptr, 0};
#endif
}

}  // namespace zenith::ZENITH_ISA
