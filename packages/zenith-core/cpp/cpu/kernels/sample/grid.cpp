// GridSample: x [N, D, H, W, C] read at grid [N, OD, OH, OW, axes] -> y [N, OD, OH, OW, C],
// channels with stride 1, y dense, the grid's strides free. Images have D = 1 and two axes in the
// grid.
#include "cpu/kernels/sample/sample.h"

namespace zenith::ZENITH_ISA {
namespace {

enum Mode : int64_t { kLinear, kNearest, kCubic };
enum Padding : int64_t { kZeros, kBorder, kReflection };

struct GridParams {
  int64_t mode;
  int64_t padding;
  int64_t align_corners;
};
const Field kGridFields[] = {
    ZENITH_FIELD(GridParams, mode, kInt, 1),
    ZENITH_FIELD(GridParams, padding, kInt, 1),
    ZENITH_FIELD(GridParams, align_corners, kInt, 1),
};

constexpr int kMostTaps = 4;  // along one axis

// Back and forth between two borders.
float reflect(float v, float low, float high) {
  const float range = high - low;
  if (!(range > 0)) return low;
  const float away = v < low ? low - v : v > high ? v - high : 0;
  if (away == 0) return v;
  const float turns = __builtin_floorf(away / range), rest = away - turns * range;
  const bool even = __builtin_floorf(turns / 2) * 2 == turns;
  return (v < low) == even ? low + rest : high - rest;
}

// Elements along one axis and their weights; -1 is a zero outside.
struct AxisTaps {
  int64_t at[kMostTaps];
  float weight[kMostTaps];
  int count;
};

AxisTaps taps_of(const GridParams& p, float v, int64_t size) {
  const auto n = static_cast<float>(size);
  const bool align = p.align_corners != 0;
  const float low = align ? 0 : -0.5f, high = align ? n - 1 : n - 0.5f;
  float x = align ? (v + 1) / 2 * (n - 1) : ((v + 1) * n - 1) / 2;
  x = tame(x);
  if (p.mode == kNearest) x = __builtin_rintf(x);
  if (x < low || x > high) {
    // Cubic taps are clamped one by one, as PyTorch and ONNX Runtime do.
    if (p.padding == kBorder && p.mode != kCubic) x = x < 0 ? 0 : x > n - 1 ? n - 1 : x;
    if (p.padding == kReflection) x = reflect(x, low, high);
  }
  AxisTaps taps{};
  const float left = p.mode == kNearest ? __builtin_truncf(x) : __builtin_floorf(x);
  const float t = x - left;
  auto first = static_cast<int64_t>(left);
  if (p.mode == kNearest) {
    taps.count = 1, taps.weight[0] = 1;
  } else if (p.mode == kLinear) {
    taps.count = 2, taps.weight[0] = 1 - t, taps.weight[1] = t;
  } else {
    constexpr float kA = -0.75f;
    const float far = t + 1, back = 1 - t, end = 2 - t;
    taps.count = 4, --first;
    taps.weight[0] = ((kA * far - 5 * kA) * far + 8 * kA) * far - 4 * kA;
    taps.weight[1] = ((kA + 2) * t - (kA + 3)) * t * t + 1;
    taps.weight[2] = ((kA + 2) * back - (kA + 3)) * back * back + 1;
    taps.weight[3] = ((kA * end - 5 * kA) * end + 8 * kA) * end - 4 * kA;
  }
  for (int i = 0; i < taps.count; ++i) {
    int64_t at = first + i;
    if (at < 0 || at >= size) {
      if (p.padding == kZeros) {
        at = -1;
      } else if (p.padding == kBorder) {
        at = at < 0 ? 0 : size - 1;
      } else {
        at = static_cast<int64_t>(reflect(static_cast<float>(at), low, high));
        at = at < 0 ? 0 : at >= size ? size - 1 : at;
      }
    }
    taps.at[i] = at;
  }
  return taps;
}

const char* run_grid(const Call& call) {
  const auto& p = *static_cast<const GridParams*>(call.params);
  const TensorRef &x = call.in[0], &grid = call.in[1], &y = call.out[0];
  const int64_t channels = y.shape[4], axes = grid.shape[4];
  for_each_line(call, y.shape[0] * y.shape[1] * y.shape[2], [&](int64_t line, int) {
    const int64_t h = line % y.shape[2], d = line / y.shape[2] % y.shape[1];
    const int64_t image = line / y.shape[2] / y.shape[1];
    const float* from = static_cast<const float*>(x.data) + image * x.strides[0];
    float* to = static_cast<float*>(y.data) + line * y.shape[3] * channels;
    const float* at = static_cast<const float*>(grid.data) + image * grid.strides[0] +
                      d * grid.strides[1] + h * grid.strides[2];
    for (int64_t w = 0; w < y.shape[3]; ++w, at += grid.strides[3], to += channels) {
      // The grid gives x, y and then z.
      const AxisTaps across = taps_of(p, at[0], x.shape[3]);
      const AxisTaps down = taps_of(p, at[grid.strides[4]], x.shape[2]);
      AxisTaps deep{{0}, {1}, 1};
      if (axes == 3) deep = taps_of(p, at[2 * grid.strides[4]], x.shape[1]);
      int64_t offset[kMostTaps * kMostTaps * kMostTaps];
      float weight[kMostTaps * kMostTaps * kMostTaps];
      int taps = 0;
      for (int k = 0; k < deep.count; ++k) {
        for (int i = 0; i < down.count; ++i) {
          for (int j = 0; j < across.count; ++j) {
            if (deep.at[k] < 0 || down.at[i] < 0 || across.at[j] < 0) continue;
            offset[taps] =
                deep.at[k] * x.strides[1] + down.at[i] * x.strides[2] + across.at[j] * x.strides[3];
            weight[taps++] = deep.weight[k] * down.weight[i] * across.weight[j];
          }
        }
      }
      sum_pixels(from, offset, weight, taps, to, channels);
    }
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"grid_sample_f32", "", kGridFields, 3, sizeof(GridParams), nullptr, run_grid},
};

}  // namespace

Table sample_grid_table();
Table sample_grid_table() { return {kKernels, 1, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
