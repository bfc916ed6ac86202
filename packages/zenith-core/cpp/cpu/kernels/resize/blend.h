// Resize of up to two neighbouring axes: x [outer, A, B, inner] -> y [outer, OA, OB, inner]. Both
// have stride 1 on inner, other strides are free. Rows of x are resized along B once, into a ring
// of as many lines as A has taps, and blended along A from there.
#pragma once

#include "cpu/isa/bf16.h"
#include "cpu/kernels/resize/tables.h"

namespace zenith::ZENITH_ISA {
namespace {

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

template <typename A, typename B>
constexpr bool kSame = __is_same(A, B);

// bfloat16, which is another type than uint16_t here.
struct Brain {
  bf16 bits;

  explicit operator float() const {
    float wide;
    convert_row(&bits, 1, &wide);
    return wide;
  }
};
inline vf load(const Brain* p) { return load(&p->bits); }
inline vf load_n(const Brain* p, int n) { return load_n(&p->bits, n); }
inline void store(Brain* p, vf v) { store(&p->bits, v); }
inline void store_n(Brain* p, vf v, int n) { store_n(&p->bits, v, n); }

template <typename T>
constexpr bool kInVectors = kSame<T, float> || kSame<T, Brain>;

// What sums are made in: float for floats and bytes, else double.
template <typename T>
struct SumOf {
  using type = double;
};
template <>
struct SumOf<float> {
  using type = float;
};
template <>
struct SumOf<Brain> {
  using type = float;
};
template <>
struct SumOf<uint8_t> {
  using type = float;
};
template <>
struct SumOf<int8_t> {
  using type = float;
};

// Integers: rounded to nearest, ties to even, and saturated.
template <typename T, typename W>
[[gnu::always_inline]] inline T result_of(W v) {
  if constexpr (kSame<T, float> || kSame<T, double>) {
    return static_cast<T>(v);
  } else if constexpr (kSame<T, Brain>) {
    Brain y;
    convert_row(&v, 1, &y.bits);
    return y;
  } else {
    constexpr bool kSigned = static_cast<T>(-1) < 0;
    constexpr int kBits = 8 * sizeof(T) - (kSigned ? 1 : 0);
    constexpr W kHigh = static_cast<W>((int64_t{1} << kBits) - 1);
    constexpr W kLow = kSigned ? -kHigh - 1 : 0;
    v = v < kLow ? kLow : v;
    v = v > kHigh ? kHigh : v;
    v = v == v ? v : 0;
    return static_cast<T>(kSame<W, float> ? static_cast<W>(__builtin_rintf(static_cast<float>(v)))
                                          : static_cast<W>(__builtin_rint(v)));
  }
}

// y[i] = sum over t of w[t] * lines[t][i]
template <typename Out, typename In>
void blend_vectors(const In* const* lines, const float* w, int64_t taps, Out* y, int64_t n) {
  constexpr int kVecs = 4;
  int64_t i = 0;
  for (; i + kVecs * kLanes <= n; i += kVecs * kLanes) {
    vf sum[kVecs] = {};
    for (int64_t t = 0; t < taps; ++t) {
      const vf by = splat(w[t]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[v] += by * load(lines[t] + i + v * kLanes);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(y + i + v * kLanes, sum[v]);
  }
  for (; i < n; i += kLanes) {
    const int count = static_cast<int>(least(kLanes, n - i));
    vf sum{};
    for (int64_t t = 0; t < taps; ++t) sum += splat(w[t]) * load_n(lines[t] + i, count);
    store_n(y + i, sum, count);
  }
}

template <int kTaps, typename Out, typename In, typename W>
void blend_few(const In* const* lines, const W* w, Out* __restrict y, int64_t n) {
  const In* from[kTaps];
  W by[kTaps];
  for (int t = 0; t < kTaps; ++t) from[t] = lines[t], by[t] = w[t];
  for (int64_t i = 0; i < n; ++i) {
    W v = by[0] * static_cast<W>(from[0][i]);
#pragma GCC unroll 8
    for (int t = 1; t < kTaps; ++t) v += by[t] * static_cast<W>(from[t][i]);
    y[i] = result_of<Out>(v);
  }
}

template <typename Out, typename In, typename W>
void blend(const In* const* lines, const W* w, int64_t taps, Out* __restrict y, int64_t n) {
  if constexpr (kInVectors<In> && kInVectors<Out>) return blend_vectors(lines, w, taps, y, n);
  if (taps == 2) return blend_few<2>(lines, w, y, n);
  if (taps == 4) return blend_few<4>(lines, w, y, n);
  constexpr int64_t kChunk = 64;
  for (int64_t at = 0; at < n; at += kChunk) {
    W v[kChunk] = {};
    const int64_t count = least(kChunk, n - at);
    for (int64_t t = 0; t < taps; ++t) {
      const In* from = lines[t] + at;
      const W by = w[t];
      if (count == kChunk) {
        for (int64_t i = 0; i < kChunk; ++i) v[i] += by * static_cast<W>(from[i]);
      } else {
        for (int64_t i = 0; i < count; ++i) v[i] += by * static_cast<W>(from[i]);
      }
    }
    for (int64_t i = 0; i < count; ++i) y[at + i] = result_of<Out>(v[i]);
  }
}

template <typename W>
struct Taps {
  Axis axis;
  const int32_t* index;
  const W* weight;
};

constexpr int64_t kMostTaps = 256;  // whose pointers are kept at once; longer sums go in parts

// One row of x resized along B: [OB][inner] to `to`, `pixel` elements from one to the next.
template <typename Out, typename In, typename W>
void resize_row(const In* x, int64_t step, int64_t inner, const Taps<W>& b, W fill,
                Out* __restrict to, int64_t pixel) {
  const int64_t taps = b.axis.taps;
  const int32_t* index = b.index;
  const W* weight = b.weight;
  for (int64_t o = 0; o < b.axis.after; ++o, index += taps, weight += taps, to += pixel) {
    if (index[0] < 0) {
      for (int64_t c = 0; c < inner; ++c) to[c] = result_of<Out>(fill);
    } else if (inner == 1) {
      W v = weight[0] * static_cast<W>(x[index[0] * step]);
      for (int64_t t = 1; t < taps; ++t) v += weight[t] * static_cast<W>(x[index[t] * step]);
      to[0] = result_of<Out>(v);
    } else if (taps == 1) {
      for (int64_t c = 0; c < inner; ++c) {
        to[c] = result_of<Out>(static_cast<W>(x[index[0] * step + c]));
      }
    } else if (taps <= kMostTaps) {
      const In* from[kMostTaps];
      for (int64_t t = 0; t < taps; ++t) from[t] = x + index[t] * step;
      blend(from, weight, taps, to, inner);
    } else {
      for (int64_t c = 0; c < inner; ++c) {
        W v = 0;
        for (int64_t t = 0; t < taps; ++t) v += weight[t] * static_cast<W>(x[index[t] * step + c]);
        to[c] = result_of<Out>(v);
      }
    }
  }
}

// The usual case along B: pairs of neighbours in a row of numbers.
template <typename Out, typename In, typename W>
void resize_pairs(const In* __restrict x, const Taps<W>& b, Out* __restrict to) {
  const int32_t* index = b.index;
  const W* weight = b.weight;
  for (int64_t o = 0; o < b.axis.after; ++o, index += 2, weight += 2) {
    to[o] = result_of<Out>(weight[0] * static_cast<W>(x[index[0]]) +
                           weight[1] * static_cast<W>(x[index[1]]));
  }
}

// Cut of the work and layout of scratch: tables of both axes, then one ring of lines per worker.
struct Plan {
  Axis a, b;
  int64_t outer, inner, line;  // line: OB * inner
  int64_t blocks, block_rows;
  int64_t weight_a, index_b, weight_b, rings, ring_bytes;  // offsets
  int64_t total;
};

template <typename W>
Plan make_plan(const Call& call) {
  const auto& p = *static_cast<const ResizeParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  Plan s{};
  s.a = make_axis(p, 0, x.shape[1], y.shape[1]);
  s.b = make_axis(p, 1, x.shape[2], y.shape[2]);
  s.outer = y.shape[0], s.inner = y.shape[3], s.line = y.shape[2] * y.shape[3];
  const int64_t wanted = call.parallel.threads == 1 ? 1 : call.parallel.threads * int64_t{4};
  s.blocks = s.outer >= wanted ? 1 : ceil_div(wanted, most(1, s.outer));
  s.blocks = most(1, least(s.blocks, s.a.after / 4));
  s.block_rows = ceil_div(s.a.after, s.blocks);
  constexpr int64_t kW = sizeof(W);
  s.weight_a = round_up(s.a.after * s.a.taps * 4, 64);
  s.index_b = s.weight_a + round_up(s.a.after * s.a.taps * kW, 64);
  s.weight_b = s.index_b + round_up(s.b.after * s.b.taps * 4, 64);
  s.rings = s.weight_b + round_up(s.b.after * s.b.taps * kW, 64);
  s.ring_bytes = round_up(s.a.taps * 24, 64) + round_up(s.a.taps * s.line * kW, 64);
  s.total = s.rings + s.ring_bytes * call.parallel.threads;
  return s;
}

// Tables of both axes, in scratch.
template <typename W>
void fill_tables(const Call& call, const Plan& s, Taps<W>* a, Taps<W>* b) {
  const auto& p = *static_cast<const ResizeParams*>(call.params);
  const auto fill = [&](int which, const Axis& axis, char* index, char* weight) {
    float roi[2] = {0, 1};
    if (call.in[1].data != nullptr && p.roi.v[which] >= 0) {
      const auto* from = static_cast<const float*>(call.in[1].data);
      roi[0] = from[p.roi.v[which] * call.in[1].strides[0]];
      roi[1] = from[(p.roi.v[which] + p.roi_axes) * call.in[1].strides[0]];
    }
    fill_axis(p, axis, roi, reinterpret_cast<int32_t*>(index), reinterpret_cast<W*>(weight));
    return Taps<W>{axis, reinterpret_cast<int32_t*>(index), reinterpret_cast<W*>(weight)};
  };
  *a = fill(0, s.a, call.scratch, call.scratch + s.weight_a);
  *b = fill(1, s.b, call.scratch + s.index_b, call.scratch + s.weight_b);
}

template <typename In, typename Out>
struct Blend {
  using W = typename SumOf<In>::type;

  const Call& call;
  const Plan& s;
  Taps<W> a, b;
  W fill;

  // The row of x, resized along B into `to`, whose pixels are `pixel` elements apart.
  template <typename To>
  void along_b(const In* x, To* to, int64_t pixel) const {
    const int64_t step = call.in[0].strides[2];
    const bool lines = s.inner == 1 && step == 1 && pixel == 1;
    if (lines && s.b.taps == 2 && b.index[0] >= 0 && !crops()) return resize_pairs(x, b, to);
    resize_row(x, step, s.inner, b, fill, to, pixel);
  }

  // A line of results from lines of rows resized along B; moves their pointers.
  template <typename From>
  void along_a(const From** lines, const W* weight, Out* to, int64_t pixel) const {
    if (pixel == s.inner) return blend(lines, weight, s.a.taps, to, s.line);
    for (int64_t i = 0; i < s.b.after; ++i, to += pixel) {
      blend(lines, weight, s.a.taps, to, s.inner);
      for (int64_t t = 0; t < s.a.taps; ++t) lines[t] += s.inner;
    }
  }

  bool crops() const {
    return static_cast<const ResizeParams*>(call.params)->coordinates == kCropAndResize;
  }

  void run_rows(int64_t image, int64_t first, int64_t last, char* ring) const {
    const TensorRef &x = call.in[0], &y = call.out[0];
    const auto* from = static_cast<const In*>(x.data) + image * x.strides[0];
    auto* to = static_cast<Out*>(y.data) + image * y.strides[0] + first * y.strides[1];
    const int64_t pixel = y.shape[2] == 1 ? s.inner : y.strides[2];
    const int64_t taps = s.a.taps;
    auto* held = reinterpret_cast<int64_t*>(ring);         // row of x in each line of the ring
    auto* at = reinterpret_cast<const W**>(held + taps);   // lines of the taps of one result
    auto* rows = reinterpret_cast<const In**>(at + taps);  // rows of x, where B stays as it is
    auto* lines = reinterpret_cast<W*>(ring + round_up(taps * 24, 64));
    const bool plain = !s.b.active && (s.inner == 1 ? x.strides[2] == 1 || x.shape[2] == 1
                                                    : x.strides[2] == s.inner || x.shape[2] == 1);
    for (int64_t t = 0; t < taps; ++t) held[t] = -1;
    for (int64_t o = first; o < last; ++o, to += y.strides[1]) {
      const int32_t* index = a.index + o * taps;
      const W* weight = a.weight + o * taps;
      if (index[0] < 0) {
        for (int64_t i = 0; i < s.line; ++i) {
          to[i / s.inner * pixel + i % s.inner] = result_of<Out>(fill);
        }
      } else if (!s.a.active) {
        along_b(from + index[0] * x.strides[1], to, pixel);
      } else if (plain) {
        for (int64_t t = 0; t < taps; ++t) rows[t] = from + index[t] * x.strides[1];
        along_a(rows, weight, to, pixel);
      } else {
        for (int64_t t = 0; t < taps; ++t) {
          // Taps are neighbours, so that no two rows in use share a line.
          const int64_t row = index[t], slot = row % taps;
          W* line = lines + slot * s.line;
          if (held[slot] != row) {
            along_b(from + row * x.strides[1], line, s.inner);
            held[slot] = row;
          }
          at[t] = line;
        }
        along_a(at, weight, to, pixel);
      }
    }
  }
};

template <typename In, typename Out>
const char* run_blend(const Call& call) {
  using W = typename SumOf<In>::type;
  if (element_count(call.out[0]) == 0) return nullptr;
  const Plan s = make_plan<W>(call);
  const float fill = static_cast<const ResizeParams*>(call.params)->extrapolation_value;
  Blend<In, Out> work{call, s, {}, {}, static_cast<W>(fill)};
  fill_tables(call, s, &work.a, &work.b);
  parallel_for(call, s.outer * s.blocks, [&](int64_t task, int worker) {
    const int64_t first = task % s.blocks * s.block_rows;
    work.run_rows(task / s.blocks, first, least(first + s.block_rows, s.a.after),
                  call.scratch + s.rings + worker * s.ring_bytes);
  });
  return nullptr;
}

template <typename In, typename Out>
int64_t blend_scratch(const Call& call) {
  return make_plan<typename SumOf<In>::type>(call).total;
}

#define ZENITH_RESIZE(name, In, Out) \
  {name,                             \
   "",                               \
   kResizeFields,                    \
   kResizeFieldCount,                \
   sizeof(ResizeParams),             \
   blend_scratch<In, Out>,           \
   run_blend<In, Out>}
#define ZENITH_RESIZE_INTEGER(name, T, W)                                        \
  ZENITH_RESIZE("resize_" name, T, T), ZENITH_RESIZE("resize_from_" name, T, W), \
      ZENITH_RESIZE("resize_to_" name, W, T)

}  // namespace
}  // namespace zenith::ZENITH_ISA
