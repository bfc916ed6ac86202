// What becomes of the exact sums of the int8 family:
//   value = (sum + offset[n]) * scale[n] + bias[n] [+ (q - add_zero) * add_scale]   then steps,
//   y     = value (float32 or bfloat16), or the 8-bit integer rint(value / y_scale) + y_zero.
// `offset` takes off the zero point of the left side: -x_zero * (sum of the weights of column n).
#pragma once

#include "cpu/isa/bf16.h"
#include "cpu/isa/epilogue.h"
#include "cpu/kernels/int8/round.h"
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
#define ZENITH_FINISH_FIELDS(P)                                                  \
  ZENITH_FIELD(P, epilogue, kInts, kMaxSteps), ZENITH_FIELD(P, x_zero, kInt, 1), \
      ZENITH_FIELD(P, add_scale, kFloat, 1), ZENITH_FIELD(P, add_zero, kInt, 1), \
      ZENITH_FIELD(P, y_inverse, kFloat, 1), ZENITH_FIELD(P, y_zero, kInt, 1)
constexpr int kFinishFieldCount = 6;

// gelu(x) within 2e-4, for results that become bytes: x * (1/2 + x * P(x^2)), where P is fitted to
// the largest error on [-4, 4] and makes 0 and x of what is beyond.
[[gnu::always_inline]] inline vf gelu_for_bytes(vf x) {
  const vf c = vmin(vmax(x, splat(-4)), splat(4)), t = c * c;
  vf p = t * 2.25884005e-08f - 1.58883665e-06f;
  p = p * t + 4.77640642e-05f;
  p = p * t - 8.12189013e-04f;
  p = p * t + 8.763697e-03f;
  p = p * t - 6.45544231e-02f;
  p = p * t + 3.97870272e-01f;
  return x * (c * p + 0.5f);
}
// Where a step of y is at least this, the error is a fifth of one.
constexpr float kLeastGeluStep = 1e-3f;

}  // namespace

// Two vectors of columns that become bytes, a row or two after the other, in steps of y (kPlain,
// kWhole: of RowPacker).
template <bool kPlain, bool kWhole, bool kAdds, bool kGelu>
struct ColumnPair {
  RowPacker<kPlain, kWhole> packer;
  vf factor[2], shift[2], scale8, inverse;
  uint8_t flip;

  // sum: with the offsets; more: what is added.
  [[gnu::always_inline]] void row(vi first, vi second, const uint8_t* more, vf (&to)[2]) const {
    to[0] = to_float(first) * factor[0] + shift[0];
    to[1] = to_float(second) * factor[1] + shift[1];
    if constexpr (kAdds) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) to[v] += to_float(packer.wide(more, v, flip)) * scale8;
    }
    if constexpr (kGelu) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) to[v] = gelu_for_bytes(to[v]) * inverse;
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
  uint8_t add_flip;  // of an int8 tensor, whose zero point moves along
  StepOperand add;   // float32; data is null without one
  float lo, hi;      // of a relu or relu6; part of the rounding where y is integers
  bool short_gelu;
  Epilogue rest;
  bool integers, halves;  // the type of y; float32 if neither
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
        add_flip(0),
        add{},
        lo(-__builtin_inff()),
        hi(__builtin_inff()),
        short_gelu(false),
        rest{},
        integers(item_size(call.out[0].dtype) == 1),
        halves(call.out[0].dtype == DType::kBF16),
        rounding(call.out[0].dtype, p.y_inverse, p.y_zero),
        y(static_cast<char*>(call.out[0].data)),
        ldy(row_stride(call.out[0])) {
    if (call.in[5].rank >= 0) {
      add8 = static_cast<const uint8_t*>(call.in[5].data);
      add8_row = row_stride(call.in[5]);
      if (call.in[5].dtype == DType::kI8) add_flip = 0x80, add_zero += 128;
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
    if (integers && rest.n == 0) rounding.clamp(lo, hi);
    short_gelu =
        rest.n == 1 && rest.codes[0] == kStepGelu && p.y_inverse <= 1 / kLeastGeluStep && lo < 0;
  }

  // Begins to fetch what tile() will write, and the integers it adds, of `rows` rows near (row,
  // col).
  void fetch(int64_t row, int64_t col, int64_t rows) const {
    const int64_t item = integers ? 1 : halves ? 2 : 4;
    const char* to = y + (row * ldy + col) * item;
    for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(to + r * ldy * item, 1, 3);
    if (add8 == nullptr) return;
    const uint8_t* from = add8 + row * add8_row + col;
    for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(from + r * add8_row, 0, 3);
  }

  // sums[rows][kLd] of the elements of y from (row, col) on; column `col` is `channel` of group g.
  // The sums are overwritten.
  template <int kLd>
  void tile(int32_t* sums, int64_t g, int64_t channel, int64_t row, int64_t col, int64_t rows,
            int64_t cols) const {
    const Span span{row, col, rows, cols, g * group_stride + channel};
    float* none = nullptr;
    if (integers && rest.n == 0) return run<kLd, Last::kBytes>(sums, span, none, 0);
    if (integers && short_gelu) return run<kLd, Last::kGeluBytes>(sums, span, none, 0);
    if (halves && rest.n == 0) return run<kLd, Last::kFloats>(sums, span, halves_at(row, col), ldy);
    const bool floats = !integers && !halves;
    float* to =
        floats ? reinterpret_cast<float*>(y) + row * ldy + col : reinterpret_cast<float*>(sums);
    const int64_t to_row = floats ? ldy : kLd;
    run<kLd, Last::kFloats>(sums, span, to, to_row);
    apply_epilogue(rest, row, col, rows, cols, to, to_row);
    if (floats) return;
    for (int64_t i = 0; i < rows; ++i) {
      if (halves) {
        convert_row(to + i * kLd, cols, halves_at(row + i, col));
        continue;
      }
      for (int64_t j = 0; j < cols; j += kLanes) {
        const int n = static_cast<int>(cols - j < kLanes ? cols - j : kLanes);
        rounding.store(load(to + i * kLd + j), bytes_at(row + i, col + j), n);
      }
    }
  }

  // Whether pack_tile() computes what tile() does.
  bool packs_tiles() const { return kPacksRows && integers && rest.n == 0 && add.data == nullptr; }

  // tile() of sums in registers, with the offsets, two vectors a row.
  template <int kRows>
  [[gnu::always_inline]] void pack_tile(const vi (&sums)[kRows][2], int64_t channel, int64_t row,
                                        int64_t col) const {
    const bool adds = add8 != nullptr;
    if (rounding.plain()) {
      adds ? pack_rows<true, true>(sums, channel, row, col)
           : pack_rows<true, false>(sums, channel, row, col);
    } else {
      adds ? pack_rows<false, true>(sums, channel, row, col)
           : pack_rows<false, false>(sums, channel, row, col);
    }
  }

 private:
  enum class Last { kFloats, kBytes, kGeluBytes };
  // Elements of y, and where their channels are among the constants.
  struct Span {
    int64_t row, col, rows, cols, channel;
  };

  uint8_t* bytes_at(int64_t row, int64_t col) const {
    return reinterpret_cast<uint8_t*>(y) + row * ldy + col;
  }

  bf16* halves_at(int64_t row, int64_t col) const {
    return reinterpret_cast<bf16*>(y) + row * ldy + col;
  }

  // to: where kFloats go, float or bf16.
  template <int kLd, Last kLast, typename T>
  void run(const int32_t* sums, const Span& span, T* to, int64_t to_row) const {
    int64_t j = 0;
    if constexpr (kPacksRows && kLast == Last::kBytes)
      j = rounding.plain() ? packed_columns<kLd, true>(sums, span)
                           : packed_columns<kLd, false>(sums, span);
    if constexpr (kPacksRows && kLast == Last::kGeluBytes) {
      for (; add8 == nullptr && add.data == nullptr && j + 2 * kLanes <= span.cols;
           j += 2 * kLanes) {
        two_columns<kLd, false, true, false, true>(sums, span, j);
      }
    }
    for (; j + kLanes <= span.cols; j += kLanes) {
      if (add8 != nullptr || add.data != nullptr) {
        column<kLd, kLast, true>(sums, span, j, kLanes, to, to_row);
      } else {
        column<kLd, kLast, false>(sums, span, j, kLanes, to, to_row);
      }
    }
    if (j < span.cols) {
      column<kLd, kLast, true>(sums, span, j, static_cast<int>(span.cols - j), to, to_row);
    }
  }

  // What is added to the scaled sums from channel `at` on, the same in every function that asks.
  [[gnu::always_inline]] vf shift_of(int64_t at, vf unit, vf scale8) const {
    return as_rounded(load(bias + at) * unit) - as_rounded(scale8 * add_zero);
  }

  [[gnu::always_inline]] static vi load_i(const int32_t* from) {
    return *reinterpret_cast<const vi_u*>(from);
  }

  // Of `n` columns whose constants are those of channel `at` on.
  template <bool kPlain, bool kWhole, bool kAdds, bool kGelu = false>
  [[gnu::always_inline]] ColumnPair<kPlain, kWhole, kAdds, kGelu> column_pair(int64_t at,
                                                                              int64_t n) const {
    const vf inverse = splat(rounding.inverse), unit = kGelu ? splat(1) : inverse;
    const vf scale8 = splat(kAdds ? add_scale : 0) * unit;
    return {RowPacker<kPlain, kWhole>(rounding, n),
            {load(scale + at) * unit, load(scale + at + kLanes) * unit},
            {shift_of(at, unit, scale8), shift_of(at + kLanes, unit, scale8)},
            scale8,
            inverse,
            add_flip};
  }

  // As many columns as go two vectors at a time; their number.
  template <int kLd, bool kPlain>
  int64_t packed_columns(const int32_t* sums, const Span& span) const {
    if (add.data != nullptr) return 0;
    int64_t j = 0;
    for (; j + 2 * kLanes <= span.cols; j += 2 * kLanes) {
      if (add8 == nullptr) {
        two_columns<kLd, kPlain, true, false>(sums, span, j);
      } else {
        two_columns<kLd, kPlain, true, true>(sums, span, j);
      }
    }
    if (span.cols - j <= kLanes || j + 2 * kLanes > kLd) return j;
    if (add8 == nullptr) {
      two_columns<kLd, false, false, false>(sums, span, j);
    } else {
      two_columns<kLd, false, false, true>(sums, span, j);
    }
    return span.cols;
  }

  template <bool kPlain, bool kAdds, int kRows>
  [[gnu::always_inline]] void pack_rows(const vi (&sums)[kRows][2], int64_t channel, int64_t row,
                                        int64_t col) const {
    const auto pair = column_pair<kPlain, true, kAdds>(channel, 2 * kLanes);
    const int64_t out_row = ldy, row8 = kAdds ? add8_row : 0;
    uint8_t* out = bytes_at(row, col);
    const uint8_t* more = kAdds ? add8 + row * row8 + col : nullptr;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i += 2) {
      constexpr int64_t kLast = kRows - 1;
      const int64_t next = i < kLast ? 1 : 0;  // the last of an odd number is taken twice
      vf upper[2], lower[2];
      pair.row(sums[i][0], sums[i][1], more, upper);
      if (next == 1) {
        pair.row(sums[i + 1][0], sums[i + 1][1], more + row8, lower);
      } else {
        lower[0] = upper[0], lower[1] = upper[1];
      }
      pair.packer.store_steps(upper, lower, out, out + next * out_row);
      out += 2 * out_row;
      if constexpr (kAdds) more += 2 * row8;
    }
  }

  // Two vectors of columns from j on, of all rows, in steps of y (kPlain, kWhole: of RowPacker).
  template <int kLd, bool kPlain, bool kWhole, bool kAdds, bool kGelu = false>
  [[gnu::always_inline]] void two_columns(const int32_t* sums, const Span& span, int64_t j) const {
    const int64_t first = span.channel + j;
    const auto pair =
        column_pair<kPlain, kWhole, kAdds, kGelu>(first, kWhole ? 2 * kLanes : span.cols - j);
    const vi off[2] = {load_i(offset + first), load_i(offset + first + kLanes)};
    const int64_t out_row = ldy, row8 = kAdds ? add8_row : 0, rows = span.rows;
    uint8_t* out = bytes_at(span.row, span.col + j);
    const uint8_t* more = kAdds ? add8 + span.row * row8 + span.col + j : nullptr;
    const auto values = [&](const int32_t* from, const uint8_t* bytes, vf(&row)[2])
                            __attribute__((always_inline)) {
                              pair.row((vi)((vu)load_i(from) + (vu)off[0]),
                                       (vi)((vu)load_i(from + kLanes) + (vu)off[1]), bytes, row);
                            };
    sums += j;
    for (int64_t i = 0; i < rows; i += 2) {
      const int64_t next = i + 1 < rows ? 1 : 0;  // the last of an odd number is taken twice
      vf upper[2], lower[2];
      values(sums, more, upper);
      values(sums + next * kLd, more + next * row8, lower);
      pair.packer.store_steps(upper, lower, out, out + next * out_row);
      sums += 2 * kLd, out += 2 * out_row;
      if constexpr (kAdds) more += 2 * row8;
    }
  }

  // n neighbouring columns from j on, of all rows.
  template <int kLd, Last kLast, bool kAdds, typename T>
  [[gnu::always_inline]] void column(const int32_t* sums, const Span& span, int64_t j, int n, T* to,
                                     int64_t to_row) const {
    const int64_t at = span.channel + j;
    // Copies: as far as the compiler can tell, bytes that are stored may be this object's.
    const Rounding round = rounding;
    // Bytes without further steps are computed in steps of y.
    const vf unit = splat(kLast == Last::kBytes ? round.inverse : 1.0f);
    const vi off = *reinterpret_cast<const vi_u*>(offset + at);
    const vf scale8 = splat(add8 == nullptr ? 0 : add_scale) * unit;
    const vf factor = load(scale + at) * unit, shift = shift_of(at, unit, scale8);
    const vf low = splat(lo), high = splat(hi);
    const int64_t out_row = ldy, row8 = add8_row, row32 = add.row;
    uint8_t* out = bytes_at(span.row, span.col + j);
    const uint8_t* more8 = add8 == nullptr ? nullptr : add8 + span.row * row8 + span.col + j;
    const float* more32 =
        add.data == nullptr ? nullptr : add.data + span.row * row32 + span.col + j;
    const uint8_t flip8 = add_flip;
    const int64_t rows = span.rows;
    sums += j;
    if constexpr (kLast == Last::kFloats) to += j;
    for (int64_t i = 0; i < rows; ++i, sums += kLd) {
      const vi sum = *reinterpret_cast<const vi_u*>(sums);
      vf v = to_float((vi)((vu)sum + (vu)off)) * factor + shift;
      if constexpr (kAdds) {
        if (more8 != nullptr) {
          v += to_float(wide_bytes(more8, n, flip8)) * scale8;
          more8 += row8;
        }
        if (more32 != nullptr) {
          v += (n == kLanes ? load(more32) : load_n(more32, n)) * unit;
          more32 += row32;
        }
      }
      if constexpr (kLast == Last::kFloats) {
        v = vmin(high, vmax(low, v));
        if (n == kLanes) {
          store(to, v);
        } else {
          store_n(to, v, n);
        }
        to += to_row;
      } else {
        if constexpr (kLast == Last::kGeluBytes) {
          round.store(gelu_for_bytes(v), out, n);
        } else {
          round.store_steps(v, out, n);
        }
        out += out_row;
      }
    }
  }
};

}  // namespace zenith::ZENITH_ISA
