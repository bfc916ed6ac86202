// Packs int8 weights into panels (Note [Panels of bytes]).
#include "cpu/kernels/int8/rows.h"

namespace zenith::ZENITH_ISA {
namespace {

struct PackParams {
  int64_t group;
};
const Field kPackFields[] = {ZENITH_FIELD(PackParams, group, kInt, 1)};

// A matrix [K, N], or a filter [M, C / group, *kernel] whose depth is [*kernel, C / group].
struct Weights {
  int64_t groups, n, channels, taps[3];
  int64_t s_group, s_n, s_channel, s_tap[3];

  int64_t depth() const { return taps[0] * taps[1] * taps[2] * channels; }
  int64_t elements() const { return groups * packed_elements(depth(), n); }
};

Weights weights_of(const TensorRef& t, const void* params) {
  Weights w{1, 0, 0, {1, 1, 1}, 0, 0, 0, {0, 0, 0}};
  if (t.rank == 2) {
    w.channels = t.shape[0], w.n = t.shape[1];
    w.s_channel = t.strides[0], w.s_n = t.strides[1];
    return w;
  }
  w.groups = static_cast<const PackParams*>(params)->group;
  w.n = t.shape[0] / w.groups, w.channels = t.shape[1];
  w.s_group = w.n * t.strides[0], w.s_n = t.strides[0], w.s_channel = t.strides[1];
  for (int axis = 2; axis < t.rank; ++axis) {
    w.taps[axis - 2] = t.shape[axis];
    w.s_tap[axis - 2] = t.strides[axis];
  }
  return w;
}

// visit(place in the tensor, place in the packed array) for every weight.
template <typename F>
void for_each_weight(const Weights& w, const F& visit) {
  for (int64_t g = 0; g < w.groups; ++g) {
    for (int64_t n = 0; n < w.n; ++n) {
      const int64_t panel = g * packed_elements(w.depth(), w.n) +
                            n / kCols * panel_elements(w.depth()) + n % kCols * kGroup;
      int64_t k = 0;
      for (int64_t a = 0; a < w.taps[0]; ++a) {
        for (int64_t b = 0; b < w.taps[1]; ++b) {
          for (int64_t c = 0; c < w.taps[2]; ++c) {
            int64_t from =
                g * w.s_group + n * w.s_n + a * w.s_tap[0] + b * w.s_tap[1] + c * w.s_tap[2];
            for (int64_t i = 0; i < w.channels; ++i, ++k, from += w.s_channel) {
              visit(from, panel + k / kGroup * kCols * kGroup + k % kGroup);
            }
          }
        }
      }
    }
  }
}

int64_t pack_bytes(const TensorRef& t, const void* params) {
  return weights_of(t, params).elements() * static_cast<int64_t>(sizeof(Right));
}

void pack(const TensorRef& t, void* to, const void* params) {
  const int8_t* from = static_cast<const int8_t*>(t.data);
  Right* packed = static_cast<Right*>(to);
  std::memset(to, 0, static_cast<size_t>(pack_bytes(t, params)));
  for_each_weight(weights_of(t, params), [&](int64_t a, int64_t b) { packed[b] = from[a]; });
}

void unpack(const void* from, const TensorRef& t, const void* params) {
  const Right* packed = static_cast<const Right*>(from);
  int8_t* to = static_cast<int8_t*>(t.data);
  for_each_weight(weights_of(t, params),
                  [&](int64_t a, int64_t b) { to[a] = static_cast<int8_t>(packed[b]); });
}

const Packer kPackers[] = {
    {"int8_weights", kPackFields, 1, sizeof(PackParams), pack_bytes, pack, unpack},
};

}  // namespace

Table int8_weights_table();
Table int8_weights_table() { return {nullptr, 0, kPackers, 1}; }

}  // namespace zenith::ZENITH_ISA
