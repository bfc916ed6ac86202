// ArgMax, ArgMin, CumSum and CumProd: along one axis of a strided tensor.
#include "cpu/kernels/reduce/reduce.h"

namespace zenith::ZENITH_ISA {
namespace {

// The lines along one axis: their number and where each begins in x and in y. y may lack the axis.
struct Lines {
  int64_t count, length;
  int64_t x_stride, y_stride;
  int rank;
  int64_t size[kMaxRank], x[kMaxRank], y[kMaxRank];
};

Lines lines_of(const TensorRef& x, const TensorRef& y, int64_t axis) {
  Lines l{};
  l.count = 1;
  l.length = x.shape[axis];
  l.x_stride = x.strides[axis];
  int own = 0;
  for (int d = 0; d < x.rank; ++d) {
    if (d == axis) {
      if (y.rank == x.rank) l.y_stride = y.strides[own++];
      continue;
    }
    l.size[l.rank] = x.shape[d];
    l.x[l.rank] = x.strides[d];
    l.y[l.rank++] = y.strides[own++];
    l.count *= x.shape[d];
  }
  return l;
}

template <typename F>
void for_lines(const Call& call, const Lines& l, const F& body) {
  constexpr int64_t kTaskElements = 16384;
  const int64_t per_task = 1 + (kTaskElements - 1) / (l.length > 0 ? l.length : 1);
  parallel_for(call, (l.count + per_task - 1) / per_task, [&](int64_t task, int) {
    const int64_t end = (task + 1) * per_task < l.count ? (task + 1) * per_task : l.count;
    for (int64_t line = task * per_task; line < end; ++line) {
      int64_t x = 0, y = 0, index = line;
      for (int d = l.rank - 1; d >= 0; --d) {
        x += index % l.size[d] * l.x[d];
        y += index % l.size[d] * l.y[d];
        index /= l.size[d];
      }
      body(x, y);
    }
  });
}

// The extreme value first, then where it is: both passes are plain loops. NaN is the extreme.
template <typename R, typename T>
int64_t find(const T* x, int64_t stride, int64_t n, bool last) {
  T best = x[0];
  if (stride == 1) {
    reduce_run<R, T>(x, n, best);
  } else {
    for (int64_t i = 1; i < n; ++i) best = R::join(best, x[i * stride]);
  }
  const bool nan = best != best;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = last ? n - 1 - i : i;
    const T v = x[at * stride];
    if (nan ? v != v : v == best) return at;
  }
  return 0;
}

template <typename T>
const char* arg_reduce(const Call& call) {
  const ScanParams& params = *static_cast<const ScanParams*>(call.params);
  const Lines l = lines_of(call.in[0], call.out[0], params.axis);
  const T* x = static_cast<const T*>(call.in[0].data);
  int64_t* y = static_cast<int64_t*>(call.out[0].data);
  if (l.length == 0) return l.count == 0 ? nullptr : "arg_reduce over an empty axis";
  for_lines(call, l, [&](int64_t from, int64_t to) {
    y[to] = params.largest != 0 ? find<Max, T>(x + from, l.x_stride, l.length, params.last != 0)
                                : find<Min, T>(x + from, l.x_stride, l.length, params.last != 0);
  });
  return nullptr;
}

// T wraps around in A (unsigned), or is summed in double.
template <typename R, typename T, typename A>
const char* cumulate(const Call& call) {
  const ScanParams& params = *static_cast<const ScanParams*>(call.params);
  const Lines l = lines_of(call.in[0], call.out[0], params.axis);
  const T* x = static_cast<const T*>(call.in[0].data);
  T* y = static_cast<T*>(call.out[0].data);
  const bool reverse = params.reverse != 0, exclusive = params.exclusive != 0;
  for_lines(call, l, [&](int64_t from, int64_t to) {
    A sum = static_cast<A>(R::kStart);
    for (int64_t i = 0; i < l.length; ++i) {
      const int64_t at = reverse ? l.length - 1 - i : i;
      const A next = R::join(sum, static_cast<A>(x[from + at * l.x_stride]));
      y[to + at * l.y_stride] = static_cast<T>(exclusive ? sum : next);
      sum = next;
    }
  });
  return nullptr;
}

template <typename R>
const char* cumulate_any(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::kF32:
      return cumulate<R, float, double>(call);
    case DType::kF64:
      return cumulate<R, double, double>(call);
    case DType::kI64:
      return cumulate<R, int64_t, uint64_t>(call);
    case DType::kI32:
      return cumulate<R, int32_t, uint32_t>(call);
    case DType::kU64:
      return cumulate<R, uint64_t, uint64_t>(call);
    case DType::kU32:
      return cumulate<R, uint32_t, uint32_t>(call);
    default:
      return "no cumulative sum or product for this dtype";
  }
}

}  // namespace

const char* run_arg_reduce(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::kF32:
      return arg_reduce<float>(call);
    case DType::kF64:
      return arg_reduce<double>(call);
    case DType::kI64:
      return arg_reduce<int64_t>(call);
    case DType::kI32:
      return arg_reduce<int32_t>(call);
    case DType::kI16:
      return arg_reduce<int16_t>(call);
    case DType::kI8:
      return arg_reduce<int8_t>(call);
    case DType::kU64:
      return arg_reduce<uint64_t>(call);
    case DType::kU32:
      return arg_reduce<uint32_t>(call);
    case DType::kU16:
      return arg_reduce<uint16_t>(call);
    case DType::kU8:
      return arg_reduce<uint8_t>(call);
    default:
      return "no arg_reduce for this dtype";
  }
}

const char* run_cumsum(const Call& call) { return cumulate_any<Sum>(call); }
const char* run_cumprod(const Call& call) { return cumulate_any<Prod>(call); }

}  // namespace zenith::ZENITH_ISA
