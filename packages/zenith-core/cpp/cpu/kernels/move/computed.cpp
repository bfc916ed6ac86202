// Moves whose parameters are computed by the model itself, so that they are read from operands:
// Slice, Tile and Range. The output's shape is fixed before; data that contradicts it is an
// error.
#include "cpu/kernels/move/move.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr const char* kOtherShape = "the parameters contradict the shape of the output";

int64_t clamp(int64_t v, int64_t lo, int64_t hi) { return v < lo ? lo : v > hi ? hi : v; }

}  // namespace

// inputs: x, starts, axes or missing, steps or missing.
const char* run_slice(const Call& call) {
  const TensorRef &x = call.in[0], &starts = call.in[1], &out = call.out[0];
  int64_t strides[kMaxRank], offset = 0;
  bool kept[kMaxRank];
  for (int d = 0; d < x.rank; ++d) {
    strides[d] = x.strides[d];
    kept[d] = true;
  }
  if (element_count(out) == 0) return nullptr;
  const int64_t count = starts.rank > 0 ? starts.shape[0] : 1;
  for (int64_t i = 0; i < count; ++i) {
    int64_t axis = is_given(call, 2) ? integer_at(call.in[2], i) : i;
    if (axis < 0) axis += x.rank;
    if (axis < 0 || axis >= x.rank) return "an axis of the slice does not exist";
    if (!kept[axis]) return "an axis is sliced twice";
    const int64_t step = is_given(call, 3) ? integer_at(call.in[3], i) : 1;
    if (step == 0) return "a step of 0";
    const int64_t n = x.shape[axis], length = out.shape[axis];
    int64_t start = integer_at(starts, i);
    if (start < 0) start += n;
    start = step > 0 ? clamp(start, 0, n) : clamp(start, 0, n - 1);
    // Bounds by division: the step may be anything.
    const int64_t room = step > 0 ? n - 1 - start : start;
    if (room < 0) return kOtherShape;
    if (length > 1) {
      if (step == INT64_MIN || room / magnitude(step) < length - 1) return kOtherShape;
      strides[axis] = x.strides[axis] * step;
    }
    offset += start * x.strides[axis];
    kept[axis] = false;
  }
  for (int d = 0; d < x.rank; ++d) {
    if (kept[d] && out.shape[d] != x.shape[d]) return kOtherShape;
  }
  const int64_t item = item_size(out.dtype);
  const Nest nest = make_nest(out.rank, out.shape, strides, out.strides, item);
  copy_parallel(call, nest, static_cast<char*>(out.data),
                static_cast<const char*>(x.data) + offset * item);
  return nullptr;
}

// input: x. Output axis d repeats x's axis d as often as it has room for.
const char* run_tile(const Call& call) {
  const TensorRef &x = call.in[0], &out = call.out[0];
  if (element_count(out) == 0) return nullptr;
  for (int d = 0; d < out.rank; ++d) {
    if (x.shape[d] == 0 || out.shape[d] % x.shape[d] != 0) return kOtherShape;
  }
  const int last = out.rank - 1;
  const int64_t item = item_size(out.dtype);
  const int64_t n = out.rank > 0 ? x.shape[last] : 1;
  const int64_t step = out.rank > 0 ? x.strides[last] * item : item;
  for_rows(call, out, [&](const Rows& rows) {
    char* to = rows.of(out);
    int64_t from = 0;
    for (int d = 0; d < last; ++d) from += rows.index[d] % x.shape[d] * x.strides[d];
    const char* src = static_cast<const char*>(x.data) + from * item;
    for (int64_t at = 0; at < rows.n; at += n) {
      copy_row(item, to + at * rows.step, rows.step, src, n == 1 ? 0 : step, n);
    }
  });
  return nullptr;
}

namespace {

// inputs: start and delta, scalars of the output's dtype. Narrow floats count in float32 and round
// once; integers wrap around.
template <typename T, typename Wide>
const char* range_of(const Call& call) {
  const TensorRef& out = call.out[0];
  const Wide start = static_cast<Wide>(get(*static_cast<const T*>(call.in[0].data)));
  const Wide delta = static_cast<Wide>(get(*static_cast<const T*>(call.in[1].data)));
  T* to = static_cast<T*>(out.data);
  for (int64_t i = 0; i < out.shape[0]; ++i) {
    put(to + i * out.strides[0], start + static_cast<Wide>(i) * delta);
  }
  return nullptr;
}

}  // namespace

const char* run_range(const Call& call) {
  switch (call.out[0].dtype) {
    case DType::kF32:
      return range_of<float, double>(call);
    case DType::kF64:
      return range_of<double, double>(call);
    case DType::kF16:
      return range_of<Half, float>(call);
    case DType::kBF16:
      return range_of<Brain, float>(call);
    case DType::kI16:
      return range_of<int16_t, uint64_t>(call);
    case DType::kI32:
      return range_of<int32_t, uint64_t>(call);
    case DType::kI64:
      return range_of<int64_t, uint64_t>(call);
    default:
      return "range has no such dtype";
  }
}

}  // namespace zenith::ZENITH_ISA
