// QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear: elementwise, over runs of float32.
#pragma once

#include "cpu/isa/bytes.h"
#include "cpu/kernels/quantize/types.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// Inputs: x [outer, axis, inner]; scale and zero point (may be missing) [outer, ceil(axis / block),
// inner] of any strides. y like x, both row-major. `precision` is that of a quantization's
// division: 0 for float32, or kF16 or kBF16. `saturate` is for floats of a byte. The types are
// codes; the zero point has the type of the integers, x's or y's.
struct LinearParams {
  int64_t block;
  int64_t precision;
  int64_t saturate;
  int64_t x_type, scale_type, y_type;
};
const Field kLinearFields[] = {
    ZENITH_FIELD(LinearParams, block, kInt, 1),      ZENITH_FIELD(LinearParams, precision, kInt, 1),
    ZENITH_FIELD(LinearParams, saturate, kInt, 1),   ZENITH_FIELD(LinearParams, x_type, kInt, 1),
    ZENITH_FIELD(LinearParams, scale_type, kInt, 1), ZENITH_FIELD(LinearParams, y_type, kInt, 1)};

constexpr int64_t kRun = 512;  // elements that go through the buffers at once
constexpr int64_t kTaskElements = 1 << 15;

// Scale or zero point of a run: one value, or one per element.
struct Factor {
  const TensorRef* t;
  int64_t code;
  float fixed;

  const float* read(int64_t o, int64_t a, int64_t i, int64_t n, float* buffer) const {
    if (t->rank < 0) return &fixed;
    const int64_t at = o * t->strides[0] + a * t->strides[1] + i * t->strides[2];
    read_floats(*t, code, at, t->strides[2] == 0 ? 1 : n, t->strides[2], buffer);
    return buffer;
  }
  int64_t step() const { return t->rank < 0 || t->strides[2] == 0 ? 0 : 1; }
};

template <typename T>
float rounded_to(float x) {
  T code;
  encode(x, code);
  return decode(code);
}

// With one scale: the quotient without a division. The residual of a first guess, taken exactly,
// corrects it to the number nearest to x / scale (Markstein, "Computation of elementary functions
// on the IBM RISC System/6000 processor", 1990). A guess beyond the range of every integer type is
// cut, so that infinities stay. Only where the steps do not leave the normal numbers.
#ifdef __FMA__
bool divides(float scale) { return scale > 1e-20f && scale < 1e20f; }
#else
bool divides(float) { return false; }
#endif
[[gnu::always_inline]] inline vf quotient(vf x, vf scale, vf inverse) {
  constexpr float kBeyond = 1e6f;
  vf guess = vmin(vmax(x * inverse, splat(-kBeyond)), splat(kBeyond)), rest = x;
  multiply_add(rest, -guess, scale);
  multiply_add(guess, rest, inverse);
  return guess;
}
void divide_run(float* x, int64_t n, float scale) {
  const vf by = splat(scale), inverse = splat(1.0f / scale);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, quotient(load(x + i), by, inverse));
  if (i < n) {
    const int some = static_cast<int>(n - i);
    store_n(x + i, quotient(load_n(x + i, some), by, inverse), some);
  }
}

// Bytes with one scale and zero point, in one pass; as quantize_run computes them.
template <typename T>
void quantize_bytes(const T* x, int64_t n, float scale, float zero, Range range, uint8_t* y) {
  const vf by = splat(scale), inverse = splat(1.0f / scale);
  const vf low = splat(range.low - zero), high = splat(range.high - zero);
  const vi shift = splat_i(static_cast<int32_t>(zero));
  const auto bytes = [&](vf v) {
    return rounded_bytes(quotient(v, by, inverse), low, high, shift);
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vu8 some = bytes(load(x + i));
    std::memcpy(y + i, &some, sizeof(some));
  }
  if (i < n) {
    const vu8 some = bytes(load_n(x + i, static_cast<int>(n - i)));
    std::memcpy(y + i, &some, static_cast<size_t>(n - i));
  }
}

// Elements [at, at + n) where that can be done; false where not.
bool quantize_bytes(const TensorRef& x, const TensorRef& y, const LinearParams& p, int64_t at,
                    int64_t n, float scale, float zero) {
  const bool bytes = p.y_type == code_of(DType::kU8) || p.y_type == code_of(DType::kI8);
  if (!bytes || p.precision != 0 || !divides(scale)) return false;
  const Range range = range_of(p.y_type);
  uint8_t* to = static_cast<uint8_t*>(y.data) + at;
  if (p.x_type == code_of(DType::kF32)) {
    quantize_bytes(static_cast<const float*>(x.data) + at, n, scale, zero, range, to);
  } else if (p.x_type == code_of(DType::kBF16)) {
    quantize_bytes(static_cast<const bf16*>(x.data) + at, n, scale, zero, range, to);
  } else {
    return false;
  }
  return true;
}

// kScaleStep and kZeroStep: 0 for one value per run, 1 for one per element.
template <int kScaleStep, int kZeroStep>
void quantize_run(float* x, int64_t n, const float* scale, const float* zero, Range range,
                  int64_t precision, bool whole) {
  const float s0 = scale[0], z0 = zero[0];
  if (precision != 0) {
    const bool half = precision == static_cast<int64_t>(DType::kF16);
    const auto rounded = [&](float v) {
      return half ? rounded_to<Half>(v) : rounded_to<BFloat>(v);
    };
    for (int64_t i = 0; i < n; ++i) {
      x[i] = rounded(rounded(x[i]) / rounded(scale[i * kScaleStep]));
    }
  } else if (kScaleStep == 0 && whole && divides(s0)) {
    divide_run(x, n, s0);
  } else {
    for (int64_t i = 0; i < n; ++i) x[i] = x[i] / (kScaleStep != 0 ? scale[i] : s0);
  }
  if (!whole) {
    for (int64_t i = 0; i < n; ++i) x[i] = x[i] + (kZeroStep != 0 ? zero[i] : z0);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float z = kZeroStep != 0 ? zero[i] : z0;
    const float low = range.low - z, high = range.high - z;
    const float q = __builtin_rintf(x[i]);
    const float bounded = q > low ? q : low;  // NaN becomes the lowest
    x[i] = (bounded < high ? bounded : high) + z;
  }
}

template <int kScaleStep, int kZeroStep>
void dequantize_run(float* x, int64_t n, const float* scale, const float* zero) {
  const float s0 = scale[0], z0 = zero[0];
  for (int64_t i = 0; i < n; ++i) {
    x[i] = (x[i] - (kZeroStep != 0 ? zero[i] : z0)) * (kScaleStep != 0 ? scale[i] : s0);
  }
}

template <bool kQuantize>
const char* run_linear(const Call& call) {
  const LinearParams& p = *static_cast<const LinearParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t axis = x.shape[1], inner = x.shape[2], rows = x.shape[0] * axis;
  const TensorRef missing{nullptr, DType::kF32, -1, {}, {}};
  const Factor scale{&call.in[1], p.scale_type, 1};
  // Without a zero point nothing may happen to -0: x + -0 and x - 0 are x.
  const Factor zero{call.n_in > 2 ? &call.in[2] : &missing, kQuantize ? p.y_type : p.x_type,
                    kQuantize ? -0.0f : 0.0f};
  const Range range = range_of(p.y_type);
  const bool whole = !is_float(p.y_type);
  const int64_t pieces = inner > kTaskElements ? (inner + kTaskElements - 1) / kTaskElements : 1;
  const int64_t grain = inner >= kTaskElements ? 1 : kTaskElements / (inner > 0 ? inner : 1);
  if (inner == 0) return nullptr;
  const int64_t groups = (rows + grain - 1) / grain;
  parallel_for(call, groups * pieces, [&](int64_t task, int) {
    float values[kRun], scales[kRun], zeros[kRun];
    const int64_t piece = task % pieces, first = task / pieces * grain;
    const int64_t last = first + grain < rows ? first + grain : rows;
    const int64_t begin = inner * piece / pieces, end = inner * (piece + 1) / pieces;
    for (int64_t row = first; row < last; ++row) {
      const int64_t o = row / axis, a = row % axis / p.block;
      if constexpr (kQuantize) {
        if (scale.step() + zero.step() == 0 &&
            quantize_bytes(x, y, p, row * inner + begin, end - begin,
                           *scale.read(o, a, begin, 1, scales),
                           *zero.read(o, a, begin, 1, zeros))) {
          continue;
        }
      }
      for (int64_t i = begin; i < end; i += kRun) {
        const int64_t n = end - i < kRun ? end - i : kRun;
        const float* s = scale.read(o, a, i, n, scales);
        const float* z = zero.read(o, a, i, n, zeros);
        read_floats(x, p.x_type, row * inner + i, n, 1, values);
        const int64_t kind = scale.step() * 2 + zero.step();
        if constexpr (kQuantize) {
          const auto run = kind == 0   ? quantize_run<0, 0>
                           : kind == 1 ? quantize_run<0, 1>
                           : kind == 2 ? quantize_run<1, 0>
                                       : quantize_run<1, 1>;
          run(values, n, s, z, range, p.precision, whole);
        } else {
          const auto run = kind == 0   ? dequantize_run<0, 0>
                           : kind == 1 ? dequantize_run<0, 1>
                           : kind == 2 ? dequantize_run<1, 0>
                                       : dequantize_run<1, 1>;
          run(values, n, s, z);
        }
        write_floats(values, n, y, p.y_type, row * inner + i, p.saturate != 0);
      }
    }
  });
  return nullptr;
}

// Input x float32, flat; outputs y uint8, its scale float32 and its zero point uint8.
struct Extremes {
  float low, high;
};
Extremes extremes(const float* x, int64_t n) {
  vf low{}, high{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vf v = load(x + i);
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  Extremes e{-max_lane(-low), max_lane(high)};
  for (; i < n; ++i) {
    e.low = x[i] < e.low ? x[i] : e.low;
    e.high = x[i] > e.high ? x[i] : e.high;
  }
  return e;
}

int64_t dynamic_scratch(const Call& call) {
  return (element_count(call.in[0]) / kTaskElements + 1) * static_cast<int64_t>(sizeof(Extremes));
}

const char* run_dynamic(const Call& call) {
  const TensorRef &tx = call.in[0], &ty = call.out[0];
  const float* x = static_cast<const float*>(tx.data);
  const int64_t n = element_count(tx), tasks = n / kTaskElements + 1;
  Extremes* parts = reinterpret_cast<Extremes*>(call.scratch);
  parallel_for(call, tasks, [&](int64_t task, int) {
    const int64_t from = n * task / tasks;
    parts[task] = extremes(x + from, n * (task + 1) / tasks - from);
  });
  Extremes all = parts[0];
  for (int64_t i = 1; i < tasks; ++i) {
    all.low = parts[i].low < all.low ? parts[i].low : all.low;
    all.high = parts[i].high > all.high ? parts[i].high : all.high;
  }
  const float scale = (all.high == all.low ? 1.0f : all.high - all.low) / 255.0f;
  float start = -all.low / scale;
  start = start > 0.0f ? start : 0.0f;
  const float zero = __builtin_rintf(start < 255.0f ? start : 255.0f);
  *static_cast<float*>(call.out[1].data) = scale;
  *static_cast<uint8_t*>(call.out[2].data) = static_cast<uint8_t>(zero);
  parallel_for(call, tasks, [&](int64_t task, int) {
    float values[kRun];
    const int64_t end = n * (task + 1) / tasks;
    for (int64_t i = n * task / tasks; i < end; i += kRun) {
      const int64_t count = end - i < kRun ? end - i : kRun;
      std::memcpy(values, x + i, static_cast<size_t>(count) * 4);
      quantize_run<0, 0>(values, count, &scale, &zero, {0, 255}, 0, true);
      write_floats(values, count, ty, code_of(DType::kU8), i, true);
    }
  });
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
