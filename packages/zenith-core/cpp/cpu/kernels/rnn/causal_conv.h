// A convolution over the past of each channel that hands on its last inputs,
// ai.onnx:CausalConvWithState.
#pragma once

#include "cpu/isa/vecmath.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// Inputs, all float32: x [B, C, L], w [C, k] with stride 1 on k, bias [C] and past [B, C, k - 1],
// which may be missing. Outputs y [B, C, L] and the last k - 1 inputs [B, C, k - 1]. The last axis
// of x, past and the outputs has stride 1.
struct CausalConvParams {
  int64_t silu;
};
const Field kCausalConvFields[] = {ZENITH_FIELD(CausalConvParams, silu, kInt, 1)};

int64_t padded_bytes(const Call& call) {
  return ((call.in[0].shape[2] + call.in[1].shape[1]) * 4 + 63) / 64 * 64;
}
int64_t causal_conv_scratch(const Call& call) { return call.parallel.threads * padded_bytes(call); }

const char* run_causal_conv(const Call& call) {
  const TensorRef &x = call.in[0], &w = call.in[1], &y = call.out[0], &last = call.out[1];
  const int64_t channels = x.shape[1], length = x.shape[2], taps = w.shape[1];
  const bool silu = static_cast<const CausalConvParams*>(call.params)->silu != 0;
  const auto given = [&](int i) { return i < call.n_in && call.in[i].rank >= 0; };
  const auto row = [](const TensorRef& t, int64_t b, int64_t c) {
    return static_cast<float*>(t.data) + b * t.strides[0] + c * t.strides[1];
  };
  parallel_for(call, x.shape[0] * channels, [&](int64_t task, int worker) {
    const int64_t b = task / channels, c = task % channels;
    float* padded = reinterpret_cast<float*>(call.scratch + worker * padded_bytes(call));
    const size_t before = static_cast<size_t>(taps - 1) * 4;
    if (given(3)) {
      std::memcpy(padded, row(call.in[3], b, c), before);
    } else {
      std::memset(padded, 0, before);
    }
    std::memcpy(padded + taps - 1, row(x, b, c), static_cast<size_t>(length) * 4);
    const float* weights = static_cast<const float*>(w.data) + c * w.strides[0];
    const float bias =
        given(2) ? static_cast<const float*>(call.in[2].data)[c * call.in[2].strides[0]] : 0.0f;
    float* to = row(y, b, c);
    for (int64_t i = 0; i < length; i += kLanes) {
      const int n = length - i < kLanes ? static_cast<int>(length - i) : kLanes;
      vf total = splat(bias);
      for (int64_t k = 0; k < taps; ++k) {
        const float* at = padded + i + k;
        total += weights[k] * (n == kLanes ? load(at) : load_n(at, n));
      }
      if (silu) total = vsilu(total);
      if (n == kLanes) {
        store(to + i, total);
      } else {
        store_n(to + i, total, n);
      }
    }
    std::memcpy(row(last, b, c), padded + length, before);
  });
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
