// The register tile of depthwise convolution: a few pixels of one output row times two vectors of
// channels, one after the other along the channels, with the sums in registers.
#include "cpu/kernels/conv/depthwise.h"
#include "cpu/kernels/conv/sums.h"

namespace zenith::ZENITH_ISA {
namespace {

// kRows results of channels [c, channels), as far as kVecs vectors go; returns where it stopped.
// kWhole: the last vector is not partial.
template <int kRows, int kVecs, bool kWhole>
[[gnu::noinline]] int64_t depthwise_channels(const DepthwiseTile& at, int64_t c, int64_t channels) {
  const int64_t taps = at.kh * at.kw;
  for (; kWhole ? c + kVecs * kLanes <= channels : c < channels; c += kVecs * kLanes) {
    vf sum[kRows][kVecs];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      const vf bias = load(at.end.bias + c + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) sum[i][j] = bias;
    }
    const float* line = at.weights + c * taps + at.from * kLanes;
    for (int64_t r = 0; r < at.kh; ++r, line += at.kw * kLanes) {
      if (at.rows[r] == nullptr) continue;
      const float* x = at.rows[r] + at.from * at.tap + c;
      const float* w = line;
#pragma GCC unroll 1
      for (int64_t t = at.from; t < at.to; ++t, x += at.tap, w += kLanes) {
        vf tap[kVecs];
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) tap[j] = load(w + j * taps * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
          for (int j = 0; j < kVecs; ++j) {
            const float* value = x + i * at.pixel + j * kLanes;
            if constexpr (kWhole) {
              multiply_add(sum[i][j], tap[j], value);
            } else {
              multiply_add(sum[i][j], tap[j], load_n(value, static_cast<int>(channels - c)));
            }
          }
        }
      }
    }
    TileEnd end = at.end;
    if (end.add != nullptr) end.add += c;
    const int64_t cols = kWhole ? kVecs * kLanes : channels - c;
    store_tile<kRows, kVecs>(sum, end, at.y + c, at.ldy, cols);
  }
  return c;
}

// kPixels results whose taps are kWidth neighbours: a value is loaded once for all of them.
template <int kWidth, int kStride>
[[gnu::noinline]] int64_t depthwise_neighbours(const DepthwiseTile& at, int64_t channels) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    vf sum[kPixels][1];
    const vf bias = load(at.end.bias + c);
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) sum[i][0] = bias;
    const float* weights = at.weights + c * at.kh * kWidth;
    for (int64_t r = 0; r < at.kh; ++r, weights += kWidth * kLanes) {
      if (at.rows[r] == nullptr) continue;
      const float* x = at.rows[r] + c;
      vf w[kWidth];
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) w[j] = load(weights + j * kLanes);
#pragma GCC unroll 32
      for (int i = 0; i < (kPixels - 1) * kStride + kWidth; ++i, x += at.tap) {
        const vf value = load(x);
#pragma GCC unroll 8
        for (int j = 0; j < kWidth; ++j) {
          const int p = (i - j) / kStride;
          if (i >= j && (i - j) % kStride == 0 && p < kPixels) {
            multiply_add(sum[p][0], w[j], value);
          }
        }
      }
    }
    TileEnd end = at.end;
    if (end.add != nullptr) end.add += c;
    store_tile<kPixels, 1>(sum, end, at.y + c, at.ldy, kLanes);
  }
  return c;
}

using DepthwiseFn = int64_t (*)(const DepthwiseTile&, int64_t, int64_t);
template <int kVecs, bool kWhole>
constexpr DepthwiseFn kDepthwise[] = {
    depthwise_channels<1, kVecs, kWhole>,       depthwise_channels<2, kVecs, kWhole>,
    depthwise_channels<3, kVecs, kWhole>,       depthwise_channels<4, kVecs, kWhole>,
    depthwise_channels<5, kVecs, kWhole>,       depthwise_channels<6, kVecs, kWhole>,
    depthwise_channels<kPixels, kVecs, kWhole>,
};

}  // namespace

void run_depthwise(const DepthwiseTile& at, int64_t count, int64_t channels) {
  // A single pixel has few sums: more channels at once hide the latency of the multiply-adds.
  int64_t done = count == 1 ? depthwise_channels<1, 4, true>(at, 0, channels) : 0;
  if (count == kPixels && at.to - at.from == at.kw && at.tap == at.pixel) {
    if (at.kw == 3) done = depthwise_neighbours<3, 1>(at, channels);
    if (at.kw == 5) done = depthwise_neighbours<5, 1>(at, channels);
    if (at.kw == 7) done = depthwise_neighbours<7, 1>(at, channels);
  } else if (count == kPixels && at.to - at.from == at.kw && 2 * at.tap == at.pixel) {
    if (at.kw == 3) done = depthwise_neighbours<3, 2>(at, channels);
    if (at.kw == 5) done = depthwise_neighbours<5, 2>(at, channels);
  }
  if (done + 2 * kLanes <= channels) done = kDepthwise<2, true>[count - 1](at, done, channels);
  if (done < channels) done = kDepthwise<1, true>[count - 1](at, done, channels);
  if (done < channels) kDepthwise<1, false>[count - 1](at, done, channels);
}

}  // namespace zenith::ZENITH_ISA
