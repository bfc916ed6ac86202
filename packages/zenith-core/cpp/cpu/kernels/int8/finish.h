// What becomes of the exact sums of the int8 family:
//   value = (sum + offset[n]) * scale[n] + bias[n] [+ (q - add_zero) * add_scale]   then steps,
//   y     = value, or the 8-bit integer rint(value / y_scale) + y_zero.
// `offset` takes off the zero point of the left side: -x_zero * (sum of the weights of column n).
#pragma once

#include "cpu/isa/epilogue.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// Inputs of every kernel of the family: 0 x, 1 weights, 2 offset int32, 3 scale and 4 bias float32,
// all three [groups, columns of a group and at least kPadding more], 5 an 8-bit tensor to add like
// y (or missing), then the operands of the steps.
constexpr int kFirstOperand = 6;
constexpr int64_t kPadding = 64;

struct FinishParams {
  StepCodes epilogue;
  int64_t x_zero;
  float add_scale;
  int64_t add_zero;
  float y_inverse;  // 1 / y_scale
  int64_t y_zero;
};
#define ZENITH_FINISH_FIELDS(P)                                                        \
  ZENITH_FIELD(P, epilogue, kInts, kMaxSteps), ZENITH_FIELD(P, x_zero, kInt, 1),       \
      ZENITH_FIELD(P, add_scale, kFloat, 1), ZENITH_FIELD(P, add_zero, kInt, 1),       \
      ZENITH_FIELD(P, y_inverse, kFloat, 1), ZENITH_FIELD(P, y_zero, kInt, 1)
constexpr int kFinishFieldCount = 6;

typedef uint8_t vu8 __attribute__((vector_size(ZENITH_VEC_BYTES / 4)));
typedef int8_t vi8 __attribute__((vector_size(ZENITH_VEC_BYTES / 4)));

[[gnu::always_inline]] inline vf floats_of_bytes(const uint8_t* p, int n, bool is_signed) {
  vu8 bytes{};
  if (n == kLanes) {
    std::memcpy(&bytes, p, kLanes);
  } else {
    std::memcpy(&bytes, p, static_cast<size_t>(n));
  }
  return is_signed ? to_float(__builtin_convertvector((vi8)bytes, vi))
                   : to_float(__builtin_convertvector(bytes, vi));
}

// Numbers to 8-bit integers. NaN becomes the lowest.
struct Rounding {
  float inverse, zero, low, high;
  bool is_signed;

  Rounding(DType dtype, float inverse_scale, int64_t zero_point)
      : inverse(inverse_scale),
        zero(static_cast<float>(zero_point)),
        low((dtype == DType::kI8 ? -128.0f : 0.0f) - zero),
        high(low + 255.0f),
        is_signed(dtype == DType::kI8) {}

  [[gnu::always_inline]] void store(vf value, uint8_t* to, int n) const {
    // Numbers below 2^22 are rounded to even by adding 1.5 * 2^23, whose last bits they then are.
    constexpr float kRound = 12582912.0f;
    vf v = value * inverse;
    v = vmin(vmax(v, splat(low)), splat(high));
    const vi rounded = (vi)(v + kRound + zero) - (vi)splat(kRound);
    const vu8 bytes = __builtin_convertvector(rounded, vu8);
    if (n == kLanes) {
      std::memcpy(to, &bytes, kLanes);
    } else {
      std::memcpy(to, &bytes, static_cast<size_t>(n));
    }
  }
};

struct Finish {
  const int32_t* offset;
  const float* scale;
  const float* bias;
  int64_t group_stride;  // of the three
  const uint8_t* add8;   // at the output's first element, or null
  int64_t add8_row;
  float add_scale, add_zero;
  bool add_signed;
  StepOperand add;  // float32; data is null without one
  float lo, hi;
  Epilogue rest;
  bool integers;
  Rounding rounding;
  char* y;
  int64_t ldy;

  // Distance between neighbouring rows of [..., N]: the innermost axis that has two.
  static int64_t row_stride(const TensorRef& t) {
    for (int axis = t.rank - 2; axis >= 0; --axis) {
      if (t.shape[axis] > 1) return t.strides[axis];
    }
    return t.shape[t.rank - 1];
  }
  static StepOperand operand_of(const TensorRef& t) {
    const int last = t.rank - 1;
    const bool repeats = t.rank == 1 || t.shape[last] == 1;
    return {static_cast<const float*>(t.data), t.rank == 1 ? 0 : row_stride(t),
            repeats && t.shape[last] == 1 ? 0 : t.strides[last]};
  }

  Finish(const Call& call, const FinishParams& p)
      : offset(static_cast<const int32_t*>(call.in[2].data)),
        scale(static_cast<const float*>(call.in[3].data)),
        bias(static_cast<const float*>(call.in[4].data)),
        group_stride(call.in[2].strides[0]),
        add8(nullptr),
        add8_row(0),
        add_scale(p.add_scale),
        add_zero(static_cast<float>(p.add_zero)),
        add_signed(false),
        add{},
        lo(-__builtin_inff()),
        hi(__builtin_inff()),
        rest{},
        integers(call.out[0].dtype != DType::kF32),
        rounding(call.out[0].dtype, p.y_inverse, p.y_zero),
        y(static_cast<char*>(call.out[0].data)),
        ldy(row_stride(call.out[0])) {
    if (call.in[5].rank >= 0) {
      add8 = static_cast<const uint8_t*>(call.in[5].data);
      add8_row = row_stride(call.in[5]);
      add_signed = call.in[5].dtype == DType::kI8;
    }
    const StepCodes& codes = p.epilogue;
    const TensorRef* operand = call.in + kFirstOperand;
    int64_t i = 0;
    if (i < codes.n && codes.v[i] == kStepAdd) {
      const StepOperand found = operand_of(*operand);
      if (found.col == 1) {
        add = found;
        ++i, ++operand;
      }
    }
    if (i < codes.n && (codes.v[i] == kStepRelu || codes.v[i] == kStepRelu6)) {
      lo = 0;
      if (codes.v[i] == kStepRelu6) hi = 6;
      ++i;
    }
    for (; i < codes.n; ++i) {
      const int at = rest.n++;
      rest.codes[at] = codes.v[i];
      if (codes.v[i] <= kStepMul) rest.operands[at] = operand_of(*operand++);
    }
  }

  // sums[rows][kLd] of the elements of y from (row, col) on; column `col` is `channel` of group g.
  // The sums are overwritten.
  template <int kLd>
  void tile(int32_t* sums, int64_t g, int64_t channel, int64_t row, int64_t col, int64_t rows,
            int64_t cols) const {
    if (rest.n == 0 && integers) return run<kLd, false>(sums, g, channel, row, col, rows, cols);
    float* to = reinterpret_cast<float*>(y) + row * ldy + col;
    int64_t to_row = ldy;
    if (integers) {
      to = reinterpret_cast<float*>(sums);
      to_row = kLd;
    }
    run<kLd, true>(sums, g, channel, row, col, rows, cols, to, to_row);
    apply_epilogue(rest, row, col, rows, cols, to, to_row);
    if (!integers) return;
    for (int64_t i = 0; i < rows; ++i) {
      uint8_t* bytes = reinterpret_cast<uint8_t*>(y) + (row + i) * ldy + col;
      for (int64_t j = 0; j < cols; j += kLanes) {
        const int n = static_cast<int>(cols - j < kLanes ? cols - j : kLanes);
        rounding.store(load(to + i * kLd + j), bytes + j, n);
      }
    }
  }

  template <int kLd, bool kFloats>
  void run(const int32_t* sums, int64_t g, int64_t channel, int64_t row, int64_t col, int64_t rows,
           int64_t cols, float* to = nullptr, int64_t to_row = 0) const {
    const int64_t first = g * group_stride + channel;
    const vf low = splat(lo), high = splat(hi);
    for (int64_t j = 0; j < cols; j += kLanes) {
      const int n = static_cast<int>(cols - j < kLanes ? cols - j : kLanes);
      const vi off = *reinterpret_cast<const vi_u*>(offset + first + j);
      const vf factor = load(scale + first + j), shift = load(bias + first + j);
      for (int64_t i = 0; i < rows; ++i) {
        const vi sum = *reinterpret_cast<const vi_u*>(sums + i * kLd + j);
        vf v = to_float((vi)((vu)sum + (vu)off)) * factor + shift;
        if (add8 != nullptr) {
          const uint8_t* from = add8 + (row + i) * add8_row + col + j;
          v += (floats_of_bytes(from, n, add_signed) - add_zero) * add_scale;
        }
        if (add.data != nullptr) {
          const float* from = add.data + (row + i) * add.row + col + j;
          v += n == kLanes ? load(from) : load_n(from, n);
        }
        v = vmin(high, vmax(low, v));  // NaN stays NaN: it is the second operand
        if constexpr (kFloats) {
          float* at = to + i * to_row + j;
          if (n == kLanes) {
            store(at, v);
          } else {
            store_n(at, v, n);
          }
        } else {
          rounding.store(v, reinterpret_cast<uint8_t*>(y) + (row + i) * ldy + col + j, n);
        }
      }
    }
  }

  typedef uint32_t vu __attribute__((vector_size(ZENITH_VEC_BYTES)));
};

}  // namespace
}  // namespace zenith::ZENITH_ISA
