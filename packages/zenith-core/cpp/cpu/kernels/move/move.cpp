// Data movement: copies between tensors of any strides. Transpose, concat, slice, expand and tile
// are views plus this one kernel; a fill is a copy from a scalar repeated by strides of 0.
#include "cpu/kernels/move/move.h"

namespace zenith::ZENITH_ISA {
namespace {

const char* run_copy(const Call& call) {
  const TensorRef &src = call.in[0], &dst = call.out[0];
  if (src.data == dst.data) return nullptr;  // state that is updated where it lies
  const Nest nest = make_nest(dst.rank, dst.shape, src.strides, dst.strides, item_size(dst.dtype));
  copy_parallel(call, nest, static_cast<char*>(dst.data), static_cast<const char*>(src.data));
  return nullptr;
}

constexpr uint64_t kZero = 0;

// Pad: inputs x and, for mode 0, the scalar to fill with (missing: zero).
// begin: elements before the input on each axis; negative crops. What lies after follows from the
// output's shape. Inputs 2 and 3, if given, are pads and axes as the model computed them; then
// begin does not count.
enum PadMode { kConstant, kReflect, kEdge, kWrap };
struct PadParams {
  Ints<kMaxRank> begin;
  int64_t mode;
};
const Field kPadFields[] = {
    ZENITH_FIELD(PadParams, begin, kInts, kMaxRank),
    ZENITH_FIELD(PadParams, mode, kInt, 1),
};

// The input coordinate that output coordinate i (relative to the input) shows; -1 for the fill.
int64_t pad_source(int64_t i, int64_t n, int64_t mode) {
  if (i >= 0 && i < n) return i;
  if (mode == kConstant) return -1;
  if (mode == kEdge || n == 1) return i < 0 ? 0 : n - 1;
  const int64_t period = mode == kWrap ? n : 2 * (n - 1);
  int64_t m = i % period;
  if (m < 0) m += period;
  return m < n ? m : period - m;
}

const char* run_pad(const Call& call) {
  PadParams p = *static_cast<const PadParams*>(call.params);
  const TensorRef &x = call.in[0], &out = call.out[0];
  if (is_given(call, 2)) {
    const int64_t count = call.in[2].shape[0] / 2;
    for (int d = 0; d < out.rank; ++d) p.begin.v[d] = 0;
    for (int64_t i = 0; i < count; ++i) {
      int64_t axis = is_given(call, 3) ? integer_at(call.in[3], i) : i;
      if (axis < 0) axis += out.rank;
      if (axis < 0 || axis >= out.rank) return "an axis of the pads does not exist";
      const int64_t before = integer_at(call.in[2], i), after = integer_at(call.in[2], count + i);
      if (x.shape[axis] + before + after != out.shape[axis]) return "pads contradict the output";
      p.begin.v[axis] = before;
    }
  }
  const int64_t item = item_size(out.dtype);
  const char* fill = is_given(call, 1) ? static_cast<const char*>(call.in[1].data)
                                       : reinterpret_cast<const char*>(&kZero);
  if (element_count(out) == 0) return nullptr;
  for (int d = 0; d < out.rank; ++d) {
    if (p.mode != kConstant && x.shape[d] == 0) return "an empty axis has nothing to pad with";
  }
  const int last = out.rank - 1;
  const int64_t n = out.rank > 0 ? x.shape[last] : 1;
  const int64_t step = out.rank > 0 ? x.strides[last] * item : item;
  const int64_t before = out.rank > 0 ? p.begin.v[last] : 0;
  for_rows(call, out, [&](const Rows& rows) {
    char* to = rows.of(out);
    const char* from = static_cast<const char*>(x.data);
    for (int d = 0; d < last; ++d) {
      const int64_t i = pad_source(rows.index[d] - p.begin.v[d], x.shape[d], p.mode);
      if (i < 0) {
        copy_row(item, to, rows.step, fill, 0, rows.n);
        return;
      }
      from += i * x.strides[d] * item;
    }
    // Output coordinates [lo, hi) are the input's own.
    const int64_t lo = at_most(before < 0 ? 0 : before, rows.n);
    int64_t hi = at_most(before + n, rows.n);
    if (hi < lo) hi = lo;
    if (p.mode == kConstant) {
      copy_row(item, to, rows.step, fill, 0, lo);
      copy_row(item, to + hi * rows.step, rows.step, fill, 0, rows.n - hi);
    } else {
      for (int64_t i = 0; i < rows.n; ++i) {
        if (i == lo && lo < hi) i = hi;
        if (i == rows.n) break;
        const int64_t at = pad_source(i - before, n, p.mode);
        copy_row(item, to + i * rows.step, rows.step, from + at * step, step, 1);
      }
    }
    copy_row(item, to + lo * rows.step, rows.step, from + (lo - before) * step, step, hi - lo);
  });
  return nullptr;
}

// Trilu: input x and, if the model computes it, k. Keeps column j of row i where j - i >= k (upper)
// or j - i <= k, else zero.
struct TriluParams {
  int64_t k;
  int64_t upper;
};
const Field kTriluFields[] = {
    ZENITH_FIELD(TriluParams, k, kInt, 1),
    ZENITH_FIELD(TriluParams, upper, kInt, 1),
};

const char* run_trilu(const Call& call) {
  const TriluParams& p = *static_cast<const TriluParams*>(call.params);
  const TensorRef &x = call.in[0], &out = call.out[0];
  const int64_t item = item_size(out.dtype);
  const char* zero = reinterpret_cast<const char*>(&kZero);
  // The diagonal is clamped to where it still matters, so that nothing overflows.
  const int64_t rows_n = out.shape[out.rank - 2], columns = out.shape[out.rank - 1];
  const int64_t given = is_given(call, 1) ? integer_at(call.in[1], 0) : p.k;
  const int64_t high = at_most(given, columns), k = high < -rows_n ? -rows_n : high;
  const int64_t step = x.strides[x.rank - 1] * item;
  for_rows(call, out, [&](const Rows& rows) {
    char* to = rows.of(out);
    int64_t edge = rows.index[out.rank - 2] + k + (p.upper != 0 ? 0 : 1);
    edge = edge < 0 ? 0 : at_most(edge, columns);
    const int64_t lo = p.upper != 0 ? edge : 0, hi = p.upper != 0 ? columns : edge;
    copy_row(item, to, rows.step, zero, 0, lo);
    copy_row(item, to + lo * rows.step, rows.step, rows.of(x) + lo * step, step, hi - lo);
    copy_row(item, to + hi * rows.step, rows.step, zero, 0, columns - hi);
  });
  return nullptr;
}

// Eye: input is the scalar one; output [rows, columns] with it at j - i == k, else zero.
struct EyeParams {
  int64_t k;
};
const Field kEyeFields[] = {ZENITH_FIELD(EyeParams, k, kInt, 1)};

const char* run_eye(const Call& call) {
  const int64_t k = static_cast<const EyeParams*>(call.params)->k;
  const TensorRef& out = call.out[0];
  const char* one = static_cast<const char*>(call.in[0].data);
  for_rows(call, out, [&](const Rows& rows) {
    char* to = rows.of(out);
    copy_row(rows.item, to, rows.step, reinterpret_cast<const char*>(&kZero), 0, rows.n);
    if (k < -rows.index[0] || k >= rows.n - rows.index[0]) return;
    copy_row(rows.item, to + (rows.index[0] + k) * rows.step, rows.step, one, 0, 1);
  });
  return nullptr;
}

// Dims: writes integers that are known when the plan is bound (shapes and what follows from them).
constexpr int kMaxDims = 64;
struct DimsParams {
  Ints<kMaxDims> values;
};
const Field kDimsFields[] = {ZENITH_FIELD(DimsParams, values, kInts, kMaxDims)};

template <typename T>
void write_dims(const TensorRef& out, const Ints<kMaxDims>& values) {
  T* to = static_cast<T*>(out.data);
  const int64_t step = out.rank > 0 ? out.strides[0] : 1;
  for (int64_t i = 0; i < values.n; ++i) to[i * step] = static_cast<T>(values.v[i]);
}

const char* run_dims(const Call& call) {
  const Ints<kMaxDims>& values = static_cast<const DimsParams*>(call.params)->values;
  if (element_count(call.out[0]) != values.n) return "output and values differ in length";
  switch (call.out[0].dtype) {
    case DType::kI64:
      write_dims<int64_t>(call.out[0], values);
      break;
    case DType::kI32:
      write_dims<int32_t>(call.out[0], values);
      break;
    default:
      return "dims are int64 or int32";
  }
  return nullptr;
}

#define ZENITH_FIELDS(list) list, sizeof(list) / sizeof(*list)
const Kernel kKernels[] = {
    {"copy", "", nullptr, 0, 0, nullptr, run_copy},
    {"pad", "", ZENITH_FIELDS(kPadFields), sizeof(PadParams), nullptr, run_pad},
    {"trilu", "", ZENITH_FIELDS(kTriluFields), sizeof(TriluParams), nullptr, run_trilu},
    {"eye", "", ZENITH_FIELDS(kEyeFields), sizeof(EyeParams), nullptr, run_eye},
    {"range", "", nullptr, 0, 0, nullptr, run_range},
    {"slice", "", nullptr, 0, 0, nullptr, run_slice},
    {"tile", "", nullptr, 0, 0, nullptr, run_tile},
    {"dims", "", ZENITH_FIELDS(kDimsFields), sizeof(DimsParams), nullptr, run_dims},
};

}  // namespace

Table move_table();
Table move_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
