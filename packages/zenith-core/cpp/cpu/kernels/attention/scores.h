// Rows of scores: which keys a query sees, masks, and the softmax. Shared by the kernels of
// attention.
#pragma once

#include "cpu/isa/lanes.h"
#include "cpu/isa/vecmath.h"
#include "cpu/kernels/attention/attention.h"
#include "cpu/kernels/softmax/exp_down.h"

#if defined(__AVX512BW__) && ZENITH_VEC_BYTES == 64
#include <immintrin.h>
#endif

namespace zenith::ZENITH_ISA {
namespace {

struct Span {
  int64_t from, to;
};

// Keys that query row `row` may see by position: none if from >= to. Both ends grow with the row.
[[maybe_unused]] Span visible(const Params& w, int64_t row, int64_t keys) {
  const int64_t p = w.offset + row;
  Span s{0, keys};
  if (w.causal != 0) s.to = at_most(s.to, p + 1);
  if (w.right >= 0 && w.right < keys) s.to = at_most(s.to, p + w.right + 1);
  if (w.left >= 0) s.from = at_least(0, p - w.left);
  return s;
}

[[maybe_unused]] void cap_scores(float* s, int64_t n, float cap) {
  const float inverse = 1.0f / cap;
  for (int64_t j = 0; j < n; j += kLanes) store(s + j, cap * vtanh(load(s + j) * inverse));
}

// -inf where m[j] is 0.
[[maybe_unused]] void hide_scores(const uint8_t* m, int64_t n, float* s) {
  int64_t j = 0;
#if defined(__AVX512BW__) && ZENITH_VEC_BYTES == 64
  const __m512 hidden = (__m512)splat(-__builtin_inff());
  for (; j + 64 <= n; j += 64) {  // mostly none of them is
    const __m512i there = _mm512_loadu_si512(m + j);
    const uint64_t gone = _mm512_testn_epi8_mask(there, there);
    for (int i = 0; i < 64 && gone >> i != 0; i += kLanes) {
      _mm512_mask_storeu_ps(s + j + i, static_cast<__mmask16>(gone >> i), hidden);
    }
  }
#endif
  for (; j < n; ++j) s[j] = m[j] != 0 ? s[j] : -__builtin_inff();
}

// Adds row (b, h, row) of the mask to the scores of keys [from, to).
[[maybe_unused]] void mask_scores(const TensorRef& mask, int64_t b, int64_t h, int64_t row,
                                  int64_t from, int64_t to, float* s) {
  const int64_t at = b * mask.strides[0] + h * mask.strides[1] + row * mask.strides[2];
  const int64_t step = mask.strides[3];
  if (mask.dtype == DType::kBool) {
    const uint8_t* m = static_cast<const uint8_t*>(mask.data) + at;
    if (step == 1) {
      hide_scores(m + from, to - from, s);
    } else {
      for (int64_t j = from; j < to; ++j) {
        if (m[j * step] == 0) s[j - from] = -__builtin_inff();
      }
    }
    return;
  }
  const float* m = static_cast<const float*>(mask.data) + at;
  if (step == 1) {
    for (int64_t j = from; j < to; ++j) s[j - from] += m[j];
  } else {
    for (int64_t j = from; j < to; ++j) s[j - from] += m[j * step];
  }
}

// Query rows of some heads of one item of the batch.
struct Queries {
  int64_t batch, head0, head1, row0, row1;
};

[[maybe_unused]] bool shows(const TensorRef& mask, int64_t at) {
  if (mask.dtype == DType::kBool) return static_cast<const uint8_t*>(mask.data)[at] != 0;
  return static_cast<const float*>(mask.data)[at] != -__builtin_inff();
}

// One past the last key that the mask shows to any row of the task. In a cache with room for more
// keys than there are, and in padded batches, that is far less than all; looking costs what is
// hidden only.
[[maybe_unused]] int64_t shown_keys(const TensorRef& mask, const Queries& task, int64_t keys) {
  const int64_t heads = mask.strides[1] == 0 ? 1 : task.head1 - task.head0;
  const int64_t rows = mask.strides[2] == 0 ? 1 : task.row1 - task.row0;
  int64_t shown = 0;
  for (int64_t i = 0; i < heads * rows; ++i) {
    const int64_t at = task.batch * mask.strides[0] + (task.head0 + i / rows) * mask.strides[1] +
                       (task.row0 + i % rows) * mask.strides[2];
    int64_t last = keys;
    while (last > shown && !shows(mask, at + (last - 1) * mask.strides[3])) --last;
    shown = last;
  }
  return shown;
}

// The largest of each lane.
[[maybe_unused]] vf row_max_lanes(const float* s, int64_t n) {
  vf a = splat(-__builtin_inff()), b = a;
  for (int64_t j = 0; j < n; j += 2 * kLanes) {
    a = vmax(a, load(s + j));
    b = vmax(b, load(s + j + kLanes));
  }
  return vmax(a, b);
}

[[maybe_unused]] float row_max(const float* s, int64_t n) { return max_lanes(row_max_lanes(s, n)); }

// s -> e^(s - base); the sum of the results.
[[maybe_unused]] float row_exp(float* s, int64_t n, float base) {
  vf a{}, b{};
  for (int64_t j = 0; j < n; j += 2 * kLanes) {
    const vf x = exp_down(load(s + j) - base), y = exp_down(load(s + j + kLanes) - base);
    store(s + j, x);
    store(s + j + kLanes, y);
    a += x;
    b += y;
  }
  return sum_lanes(a + b);
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
