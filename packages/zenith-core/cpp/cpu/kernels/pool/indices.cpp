// Max pooling of any type, with the places of the maxima where they are asked for, and its inverse.
#include "cpu/kernels/pool/pool.h"

namespace zenith::ZENITH_ISA {
namespace {

template <typename T>
constexpr T lowest() {
  if constexpr (__is_same(T, float) || __is_same(T, double)) {
    return static_cast<T>(-__builtin_inf());
  } else {
    return static_cast<T>(-1) < 0 ? static_cast<T>(-128) : static_cast<T>(0);
  }
}

// The larger one of each lane; NaN if either is.
template <typename V>
[[gnu::always_inline]] inline V larger_lanes(V a, V b) {
  return (a > b) | (a != a) ? a : b;
}

// Elements of a window: counts and distances of its axes, outermost first.
struct Window {
  int64_t count[3], step[3];
};

// y[0, kBytes) = largest of a window, NaN if one is, held in a register.
template <typename T, int kBytes>
[[gnu::always_inline]] inline void max_of_vector(const T* x, const Window& window, T* y) {
  typedef T v __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
  v largest = v{} + lowest<T>();
  for (int64_t d = 0; d < window.count[0]; ++d, x += window.step[0]) {
    const T* row = x;
    for (int64_t h = 0; h < window.count[1]; ++h, row += window.step[1]) {
      const T* from = row;
      for (int64_t w = 0; w < window.count[2]; ++w, from += window.step[2]) {
        const v next = *reinterpret_cast<const v*>(from);
        largest = larger_lanes(next, largest);
      }
    }
  }
  *reinterpret_cast<v*>(y) = largest;
}

// Channels [0, channels) of one output pixel, a vector at a time. The last one ends with the
// channels and computes some again; of fewer channels than a vector, smaller ones are used.
template <typename T, int kBytes = kVecBytes>
void max_of_channels(const T* x, const Window& window, T* y, int64_t channels) {
  constexpr int64_t kStep = kBytes / sizeof(T);
  if (channels < kStep) {
    constexpr int kSmaller = kBytes > 16 ? 16 : sizeof(T);
    if constexpr (kStep > 1) max_of_channels<T, kSmaller>(x, window, y, channels);
    return;
  }
  int64_t c = 0;
  for (; c + kStep <= channels; c += kStep) max_of_vector<T, kBytes>(x + c, window, y + c);
  c = channels - kStep;
  if (channels % kStep != 0) max_of_vector<T, kBytes>(x + c, window, y + c);
}

// x, y and indices are channels-last, channels with stride 1. An index counts elements of the whole
// of x in row-major [N, C, D, H, W]; the first of equal maxima wins.
template <typename T>
const char* run_max(const Call& call) {
  const auto& p = *static_cast<const PoolParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  const int64_t channels = y.shape[4], positions = x.shape[1] * x.shape[2] * x.shape[3];
  const bool major = p.column_major != 0;
  const int64_t count[3] = {major ? 1 : x.shape[2] * x.shape[3], major ? x.shape[1] : x.shape[3],
                            major ? x.shape[1] * x.shape[2] : 1};
  const bool places = call.n_out > 1 && call.out[1].data != nullptr;
  for_each_box(call, [&](int64_t image, const int64_t (&out)[3], const Box& box) {
    T* to = static_cast<T*>(y.data) + offset_of(y, image, out);
    if (!places) {
      Window window{};
      for (int i = 0; i < 3; ++i) {
        window.count[i] = box.count[i];
        window.step[i] = p.dilations.v[i] * x.strides[i + 1];
      }
      const int64_t from = box.size() > 0 ? offset_of(x, image, box.at) : 0;
      return max_of_channels(static_cast<const T*>(x.data) + from, window, to, channels);
    }
    int64_t* place = static_cast<int64_t*>(call.out[1].data) + offset_of(call.out[1], image, out);
    for (int64_t c = 0; c < channels; ++c) place[c] = 0, to[c] = lowest<T>();
    bool first = true;
    for (int64_t d = 0; d < box.count[0]; ++d) {
      for (int64_t h = 0; h < box.count[1]; ++h) {
        for (int64_t w = 0; w < box.count[2]; ++w, first = false) {
          const int64_t at[3] = {box.at[0] + d * p.dilations.v[0], box.at[1] + h * p.dilations.v[1],
                                 box.at[2] + w * p.dilations.v[2]};
          const T* from = static_cast<const T*>(x.data) + offset_of(x, image, at);
          const int64_t here = at[0] * count[0] + at[1] * count[1] + at[2] * count[2];
          for (int64_t c = 0; c < channels; ++c) {
            const bool take = first || from[c] > to[c] || (from[c] != from[c] && to[c] == to[c]);
            to[c] = take ? from[c] : to[c];
            place[c] = take ? (image * channels + c) * positions + here : place[c];
          }
        }
      }
    }
  });
  return nullptr;
}

struct UnpoolParams {
  Ints<kMaxRank> shape;  // the tensor that the indices count elements of
};
const Field kUnpoolFields[] = {ZENITH_FIELD(UnpoolParams, shape, kInts, kMaxRank)};

// x and indices row-major, y row-major and at least as long as `shape` on every axis.
const char* run_unpool(const Call& call) {
  const auto& p = *static_cast<const UnpoolParams*>(call.params);
  const TensorRef &x = call.in[0], &y = call.out[0];
  const auto* from = static_cast<const float*>(x.data);
  const auto* index = static_cast<const int64_t*>(call.in[1].data);
  auto* to = static_cast<float*>(y.data);
  std::memset(to, 0, static_cast<size_t>(element_count(y)) * 4);
  int64_t size = 1;
  for (int i = 0; i < y.rank; ++i) size *= p.shape.v[i];
  for (int64_t i = 0; i < element_count(x); ++i) {
    int64_t rest = index[i], at = 0;
    if (rest < 0 || rest >= size) return "MaxUnpool: an index lies outside the output";
    for (int axis = y.rank - 1; axis >= 0; --axis) {
      const int64_t place = rest % p.shape.v[axis];
      if (place >= y.shape[axis]) return "MaxUnpool: an index lies outside the output";
      at += place * y.strides[axis];
      rest /= p.shape.v[axis];
    }
    to[at] = from[i];
  }
  return nullptr;
}

#define ZENITH_POOL(name, run) \
  {name, "", kPoolFields, kPoolFieldCount, sizeof(PoolParams), nullptr, run}
const Kernel kKernels[] = {
    ZENITH_POOL("max_pool_float32", run_max<float>),
    ZENITH_POOL("max_pool_float64", run_max<double>),
    ZENITH_POOL("max_pool_int8", run_max<int8_t>),
    ZENITH_POOL("max_pool_uint8", run_max<uint8_t>),
    {"max_unpool_f32", "", kUnpoolFields, 1, sizeof(UnpoolParams), nullptr, run_unpool},
};

}  // namespace

Table pool_indices_table();
Table pool_indices_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
