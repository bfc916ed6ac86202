// Layer and RMS normalisation of contiguous rows, alone or of a sum of two tensors.
#pragma once

#include "cpu/kernels/norm/sums.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kRowGrain = 1 << 13;  // elements worth a task
constexpr int64_t kRowsNear = 1 << 12;  // elements that are read three times in a row, from L1

// The last `axes` axes are one row of n elements, gapless in every operand; strides of the axes
// before are free. Inputs are x (or a and b), scale[n], and bias[n] or missing for layer norm.
// Outputs are y and, of a sum, a + b.
struct RowNormParams {
  float epsilon;
  int64_t axes;
};
const Field kRowNormFields[] = {ZENITH_FIELD(RowNormParams, epsilon, kFloat, 1),
                                ZENITH_FIELD(RowNormParams, axes, kInt, 1)};

// What is done to every row of n elements. bias may be null.
struct RowNorm {
  int64_t n;
  float epsilon;
  bool center;
  const float* scale;
  const float* bias;
};

template <typename T>
[[gnu::always_inline]] inline void scale_row(const RowNorm& p, const T* x, T* y, vf mean,
                                             vf inverse) {
  const auto scale = [&](int64_t at) {
    return (load(x + at) - mean) * inverse * load(p.scale + at);
  };
  if (p.n < kLanes) {
    const int n = static_cast<int>(p.n);
    const vf bias = p.bias == nullptr ? splat(-0.0f) : load_n(p.bias, n);  // v + -0 is v
    store_n(y, (load_n(x, n) - mean) * inverse * load_n(p.scale, n) + bias, n);
    return;
  }
  const auto rest = p.n - kLanes;  // where the last vector begins: it may overlap
  if (p.bias == nullptr) {
    for (int64_t i = 0; i < rest; i += kLanes) store(y + i, scale(i));
    store(y + rest, scale(rest));
  } else {
    for (int64_t i = 0; i < rest; i += kLanes) store(y + i, scale(i) + load(p.bias + i));
    store(y + rest, scale(rest) + load(p.bias + rest));
  }
}

// `count` <= kLanes rows side by side: each is a lane of the sums, so that no row waits for its own
// horizontal sum, root and division. No row's result depends on the others.
template <typename T>
[[gnu::noinline]] void norm_rows(const RowNorm& p, const T* const* x, T* const* y, int64_t count) {
  const float inverse_n = 1.0f / static_cast<float>(p.n);
  float mean[kLanes] = {}, inverse[kLanes];
  vf sums[kLanes] = {};
  if (p.center) {
    for (int64_t r = 0; r < count; ++r) sums[r] = lane_sums<false>(x[r], p.n, 0);
    store(mean, sum_each(sums) * inverse_n);
    for (int64_t r = count; r < kLanes; ++r) sums[r] = vf{};
  }
  for (int64_t r = 0; r < count; ++r) sums[r] = lane_sums<true>(x[r], p.n, mean[r]);
  store(inverse, 1.0f / vsqrt(sum_each(sums) * inverse_n + p.epsilon));
  for (int64_t r = 0; r < count; ++r) {
    scale_row(p, x[r], y[r], splat(mean[r]), splat(inverse[r]));
  }
}

// The rows of a tensor: all its axes but the last `axes`. Those that lie as one are one.
class Rows {
 public:
  Rows(const TensorRef& t, int64_t axes) : data_(t.data) {
    for (int d = 0; d < t.rank - static_cast<int>(axes); ++d) {
      if (t.shape[d] == 1) continue;
      if (rank_ > 0 && strides_[rank_ - 1] == t.shape[d] * t.strides[d]) {
        shape_[rank_ - 1] *= t.shape[d];
      } else {
        shape_[rank_++] = t.shape[d];
      }
      strides_[rank_ - 1] = t.strides[d];
    }
  }

  template <typename T>
  T* at(int64_t index) const {
    int64_t offset = 0;
    for (int d = rank_ - 1; d > 0; --d) {
      offset += index % shape_[d] * strides_[d];
      index /= shape_[d];
    }
    return static_cast<T*>(data_) + (rank_ > 0 ? offset + index * strides_[0] : 0);
  }

 private:
  void* data_;
  int rank_ = 0;
  int64_t shape_[kMaxRank], strides_[kMaxRank];
};

int64_t row_length(const TensorRef& y, int64_t axes) {
  int64_t n = 1;
  for (int d = y.rank - static_cast<int>(axes); d < y.rank; ++d) n *= y.shape[d];
  return n;
}

// Of rows in bfloat16: scale and bias in float32.
int64_t half_row_norm_scratch(const Call& call) {
  return 2 * 4 * row_length(call.out[0], static_cast<const RowNormParams*>(call.params)->axes);
}

template <typename T>
[[gnu::always_inline]] inline void add_row(const T* a, const T* b, int64_t n, T* total) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(total + i, load(a + i) + load(b + i));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    store_n(total + i, load_n(a + i, rest) + load_n(b + i, rest), rest);
  }
}

// T: float, or bf16 with all arithmetic in float32. A sum of two bf16 tensors (`add`) is rounded
// before it is normalised, since it is a result.
template <typename T>
[[gnu::noinline]] void norm_all_rows(const Call& call, bool center, bool add) {
  const RowNormParams& params = *static_cast<const RowNormParams*>(call.params);
  const TensorRef* weights = call.in + (add ? 2 : 1);
  const int64_t n = row_length(call.out[0], params.axes), size = element_count(call.out[0]);
  if (size == 0) return;
  RowNorm p{n, params.epsilon, center, nullptr, nullptr};
  const bool biased = center && call.n_in > (add ? 3 : 2) && weights[1].data != nullptr;
  if constexpr (sizeof(T) == 2) {
    float* wide = reinterpret_cast<float*>(call.scratch);
    convert_row(static_cast<const T*>(weights[0].data), n, wide);
    if (biased) convert_row(static_cast<const T*>(weights[1].data), n, wide + n);
    p.scale = wide;
    p.bias = biased ? wide + n : nullptr;
  } else {
    p.scale = static_cast<const float*>(weights[0].data);
    p.bias = biased ? static_cast<const float*>(weights[1].data) : nullptr;
  }
  const Rows x(call.in[0], params.axes), other(call.in[add ? 1 : 0], params.axes);
  const Rows y(call.out[0], params.axes), total(call.out[add ? 1 : 0], params.axes);
  const int64_t rows = size / n;
  const int64_t fitting = kRowsNear / n < 1 ? 1 : kRowsNear / n;
  const int64_t step = fitting < kLanes ? fitting : kLanes;
  const int64_t steps = kRowGrain / (n * step) < 1 ? 1 : kRowGrain / (n * step);
  const int64_t grain = steps * step;
  parallel_for(call, (rows + grain - 1) / grain, [&](int64_t task, int) {
    const int64_t end = (task + 1) * grain < rows ? (task + 1) * grain : rows;
    for (int64_t row = task * grain; row < end; row += step) {
      const int64_t count = end - row < step ? end - row : step;
      const T* from[kLanes];
      T* to[kLanes];
      for (int64_t r = 0; r < count; ++r) {
        from[r] = x.at<T>(row + r), to[r] = y.at<T>(row + r);
        if (!add) continue;
        T* sum = total.at<T>(row + r);
        add_row(from[r], other.at<const T>(row + r), n, sum);
        from[r] = sum;
      }
      norm_rows<T>(p, from, to, count);
    }
  });
}

template <bool CENTER, bool ADD, typename T>
const char* run_row_norm(const Call& call) {
  norm_all_rows<T>(call, CENTER, ADD);
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
