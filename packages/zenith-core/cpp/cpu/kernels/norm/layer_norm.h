// Layer and RMS normalisation of contiguous rows, alone or of a sum of two tensors.
#pragma once

#include "cpu/isa/bf16.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kRowGrain = 1 << 13;  // elements worth a task

// The last `axes` axes are one row of n elements, gapless in every operand; strides of the axes
// before are free. Inputs are x (or a and b), scale[n], and bias[n] or missing for layer norm.
// Outputs are y and, of a sum, a + b.
struct RowNormParams {
  float epsilon;
  int64_t axes;
};
const Field kRowNormFields[] = {ZENITH_FIELD(RowNormParams, epsilon, kFloat, 1),
                                ZENITH_FIELD(RowNormParams, axes, kInt, 1)};

// Sum over i < n of f(x[i]) where f also takes vectors; four accumulators.
template <typename F>
[[gnu::always_inline]] inline float sum_of(const float* x, int64_t n, const F& f) {
  vf a{}, b{}, c{}, d{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a += f(load(x + i));
    b += f(load(x + i + kLanes));
    c += f(load(x + i + 2 * kLanes));
    d += f(load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) a += f(load(x + i));
  float s = sum((a + b) + (c + d));
  for (; i < n; ++i) s += f(x[i]);
  return s;
}

template <bool CENTER>
[[gnu::always_inline]] inline void norm_row(const float* x, const float* scale, const float* bias,
                                            float* y, int64_t n, float epsilon) {
  const float inverse_n = 1.0f / static_cast<float>(n);
  float mean = 0;
  if constexpr (CENTER) mean = sum_of(x, n, [](auto v) { return v; }) * inverse_n;
  const float squares = sum_of(x, n, [mean](auto v) { return (v - mean) * (v - mean); });
  const float r = 1.0f / __builtin_sqrtf(squares * inverse_n + epsilon);
  int64_t i = 0;
  if (bias != nullptr) {
    for (; i + kLanes <= n; i += kLanes) {
      store(y + i, (load(x + i) - mean) * r * load(scale + i) + load(bias + i));
    }
    for (; i < n; ++i) y[i] = (x[i] - mean) * r * scale[i] + bias[i];
  } else {
    for (; i + kLanes <= n; i += kLanes) {
      store(y + i, (load(x + i) - mean) * r * load(scale + i));
    }
    for (; i < n; ++i) y[i] = (x[i] - mean) * r * scale[i];
  }
}

// Offset of row `index` of t, counting over all axes but the last `axes`.
int64_t row_offset(const TensorRef& t, int axes, int64_t index) {
  int64_t at = 0;
  for (int d = t.rank - axes - 1; d >= 0; --d) {
    at += index % t.shape[d] * t.strides[d];
    index /= t.shape[d];
  }
  return at;
}

int64_t row_length(const TensorRef& y, int64_t axes) {
  int64_t n = 1;
  for (int d = y.rank - static_cast<int>(axes); d < y.rank; ++d) n *= y.shape[d];
  return n;
}

// Of rows in bfloat16: a row of sums in float32 for each worker, its normalised form beside it, and
// scale and bias.
int64_t half_row_norm_scratch(const Call& call) {
  const int64_t n = row_length(call.out[0], static_cast<const RowNormParams*>(call.params)->axes);
  return (2 + 2 * call.parallel.threads) * n * 4;
}

// T: float, or bf16 with all arithmetic in float32. A sum of two bf16 tensors is rounded before it
// is normalised, since it is a result.
template <bool CENTER, bool ADD, typename T>
const char* run_row_norm(const Call& call) {
  constexpr bool kHalf = sizeof(T) == 2;
  const RowNormParams& p = *static_cast<const RowNormParams*>(call.params);
  const TensorRef& y = call.out[0];
  const int axes = static_cast<int>(p.axes);
  const int64_t n = row_length(y, axes);
  const int64_t size = element_count(y);
  if (size == 0) return nullptr;
  const TensorRef* weights = call.in + (ADD ? 2 : 1);
  const bool biased = CENTER && call.n_in > (ADD ? 3 : 2);
  float* work = reinterpret_cast<float*>(call.scratch);
  const float* scale = static_cast<const float*>(weights[0].data);
  const float* bias = biased ? static_cast<const float*>(weights[1].data) : nullptr;
  if constexpr (kHalf) {
    convert_row(static_cast<const T*>(weights[0].data), n, work);
    scale = work;
    if (biased) {
      convert_row(static_cast<const T*>(weights[1].data), n, work + n);
      bias = work + n;
    }
    work += 2 * n;
  }
  const int64_t rows = size / n;
  const int64_t grain = n < kRowGrain ? kRowGrain / n : 1;
  const auto at = [axes](const TensorRef& t, int64_t row) {
    return static_cast<T*>(t.data) + row_offset(t, axes, row);
  };
  parallel_for(call, (rows + grain - 1) / grain, [&](int64_t task, int worker) {
    const int64_t end = (task + 1) * grain < rows ? (task + 1) * grain : rows;
    for (int64_t row = task * grain; row < end; ++row) {
      const T* x = at(call.in[0], row);
      if constexpr (ADD) {
        const T* other = at(call.in[1], row);
        T* total = at(call.out[1], row);
        int64_t i = 0;
        for (; i + kLanes <= n; i += kLanes) store(total + i, load(x + i) + load(other + i));
        if (i < n) {
          const int rest = static_cast<int>(n - i);
          store_n(total + i, load_n(x + i, rest) + load_n(other + i, rest), rest);
        }
        x = total;
      }
      T* to = at(y, row);
      if constexpr (kHalf) {
        float* wide = work + worker * 2 * n;
        convert_row(x, n, wide);
        norm_row<CENTER>(wide, scale, bias, wide + n, n, p.epsilon);
        convert_row(wide + n, n, to);
      } else {
        norm_row<CENTER>(x, scale, bias, to, n, p.epsilon);
      }
    }
  });
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
