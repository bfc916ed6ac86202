// The register tile of depthwise convolution; overlays have their base's (Note [Overlays]).
#pragma once

#include "cpu/kernels/conv/tile.h"

namespace zenith {
namespace ZENITH_ISA {
constexpr int kPixels = kLanes == 16 ? 7 : 6;
}

// One tile: where its taps are, and where its results go.
struct DepthwiseTile {
  const float** rows;  // the first column of taps in each row of the kernel, null outside x
  int64_t kh, kw;
  int64_t from, to;    // columns of taps inside x
  int64_t tap, pixel;  // floats between two taps, and between those of two results
  const float* weights;
  TileEnd end;
  float* y;
  int64_t ldy;
};

namespace ZENITH_BASE {
// `count` results, at most kPixels, of channels [0, channels).
void run_depthwise(const DepthwiseTile& at, int64_t count, int64_t channels);
}  // namespace ZENITH_BASE
namespace ZENITH_ISA {
using ZENITH_BASE::run_depthwise;
}

}  // namespace zenith
