// Group and instance normalisation of [N, C, P], row-major or channels-last.
#pragma once

#include "cpu/kernels/norm/layer_norm.h"

namespace zenith::ZENITH_ISA {
namespace {

// in: x[N, C, P], scale[C], bias[C]; out: y like x. Strides of (C, P) are (P, 1), or (1, anything)
// with the same choice in x and y; the stride of N is free. `groups` divides C.
struct GroupNormParams {
  float epsilon;
  int64_t groups;
};
const Field kGroupNormFields[] = {ZENITH_FIELD(GroupNormParams, epsilon, kFloat, 1),
                                  ZENITH_FIELD(GroupNormParams, groups, kInt, 1)};

constexpr int64_t kPositions = 64;  // summed before adding to a total: keeps rounding errors small

// Channels-last: total[c] = sum over p of f(x[p][c], c) for `width` channels.
template <typename F>
[[gnu::always_inline]] inline void sum_columns(const float* x, int64_t step, int64_t positions,
                                               int64_t width, float* total, const F& f) {
  for (int64_t c = 0; c < width; ++c) total[c] = 0;
  for (int64_t p0 = 0; p0 < positions; p0 += kPositions, x += kPositions * step) {
    const int64_t n = positions - p0 < kPositions ? positions - p0 : kPositions;
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      vf a{}, b{};
      int64_t i = 0;
      for (; i + 2 <= n; i += 2) {
        a += f(load(x + i * step + c), c, vf{});
        b += f(load(x + (i + 1) * step + c), c, vf{});
      }
      if (i < n) a += f(load(x + i * step + c), c, vf{});
      store(total + c, load(total + c) + (a + b));
    }
    for (; c < width; ++c) {
      float s = 0;
      for (int64_t i = 0; i < n; ++i) s += f(x[i * step + c], c, 0.0f);
      total[c] += s;
    }
  }
}

// Replaces each group's `size` channel sums by scale_by times their sum.
void merge_groups(float* sums, int64_t width, int64_t size, float scale_by) {
  for (int64_t c = 0; c < width; c += size) {
    float s = 0;
    for (int64_t i = 0; i < size; ++i) s += sums[c + i];
    for (int64_t i = 0; i < size; ++i) sums[c + i] = s * scale_by;
  }
}

// `width` channels (whole groups) of one sample, channels-last. mean and spread: width floats.
void norm_columns(const float* x, int64_t x_step, float* y, int64_t y_step, int64_t positions,
                  int64_t width, int64_t size, const float* scale, const float* bias, float epsilon,
                  float* mean, float* spread) {
  const float part = 1.0f / (static_cast<float>(size) * static_cast<float>(positions));
  sum_columns(x, x_step, positions, width, mean, [](auto v, int64_t, auto) { return v; });
  merge_groups(mean, width, size, part);
  sum_columns(x, x_step, positions, width, spread, [mean](auto v, int64_t c, auto zero) {
    auto m = zero;
    __builtin_memcpy(&m, mean + c, sizeof(m));
    return (v - m) * (v - m);
  });
  merge_groups(spread, width, size, part);
  for (int64_t c = 0; c < width; ++c) {
    spread[c] = scale[c] / __builtin_sqrtf(spread[c] + epsilon);
  }
  for (int64_t p = 0; p < positions; ++p, x += x_step, y += y_step) {
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      store(y + c, (load(x + c) - load(mean + c)) * load(spread + c) + load(bias + c));
    }
    for (; c < width; ++c) y[c] = (x[c] - mean[c]) * spread[c] + bias[c];
  }
}

// One group of one sample, row-major: `size` channels of `positions` elements.
void norm_group(const float* x, float* y, int64_t positions, int64_t size, const float* scale,
                const float* bias, float epsilon) {
  const int64_t n = size * positions;
  const float part = 1.0f / static_cast<float>(n);
  const float mean = sum_of(x, n, [](auto v) { return v; }) * part;
  const float squares = sum_of(x, n, [mean](auto v) { return (v - mean) * (v - mean); });
  const float r = 1.0f / __builtin_sqrtf(squares * part + epsilon);
  for (int64_t c = 0; c < size; ++c, x += positions, y += positions) {
    const float by = r * scale[c];
    int64_t i = 0;
    for (; i + kLanes <= positions; i += kLanes) {
      store(y + i, (load(x + i) - mean) * by + bias[c]);
    }
    for (; i < positions; ++i) y[i] = (x[i] - mean) * by + bias[c];
  }
}

int64_t group_norm_scratch(const Call& call) {
  return call.in[0].shape[1] * 2 * 4 * call.parallel.threads;
}

const char* run_group_norm(const Call& call) {
  const GroupNormParams& params = *static_cast<const GroupNormParams*>(call.params);
  const TensorRef &tx = call.in[0], &ty = call.out[0];
  if (element_count(ty) == 0) return nullptr;
  const int64_t channels = tx.shape[1], positions = tx.shape[2];
  const int64_t size = channels / params.groups;
  const bool last = tx.strides[2] != 1 || tx.strides[1] == 1;  // channels-last
  // Groups side by side in one task: enough for whole vectors when channels lie side by side.
  const int64_t side = !last || size >= 4 * kLanes ? 1 : (4 * kLanes + size - 1) / size;
  const int64_t cuts = (params.groups + side - 1) / side;
  parallel_for(call, tx.shape[0] * cuts, [&](int64_t task, int worker) {
    const int64_t n = task / cuts, group = task % cuts * side;
    const int64_t c = group * size;
    const int64_t some = params.groups - group < side ? params.groups - group : side;
    const float* x = static_cast<const float*>(tx.data) + n * tx.strides[0] + c * tx.strides[1];
    float* y = static_cast<float*>(ty.data) + n * ty.strides[0] + c * ty.strides[1];
    const float* scale = static_cast<const float*>(call.in[1].data) + c;
    const float* bias = static_cast<const float*>(call.in[2].data) + c;
    if (last) {
      float* mean = reinterpret_cast<float*>(call.scratch) + worker * channels * 2;
      norm_columns(x, tx.strides[2], y, ty.strides[2], positions, some * size, size, scale, bias,
                   params.epsilon, mean, mean + channels);
    } else {
      norm_group(x, y, positions, size, scale, bias, params.epsilon);
    }
  });
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
