// Weights of the convolutions that multiply by register tiles, packed when the plan is built, or
// by a step of the plan where they are computed.
#include "cpu/kernels/conv/tile.h"

namespace zenith::ZENITH_ISA {
namespace {

struct PackParams {
  int64_t group;
};
const Field kPackFields[] = {ZENITH_FIELD(PackParams, group, kInt, 1)};

// Weights of any convolution as [group, m, c, kd, kh, kw]: of one group, m are results.
struct Weights {
  int64_t group, m, c, taps[3];
  int64_t sg, sm, sc, st[3];  // strides

  int64_t depth() const { return taps[0] * taps[1] * taps[2] * c; }
  int64_t floats() const { return group * packed_floats(depth(), m); }
};

// Conv has [M, C/group, *k], ConvTranspose [C, M/group, *k], with 1 to 3 axes in k.
template <bool kTransposed>
Weights weights_of(const TensorRef& t, const void* params) {
  Weights w{};
  w.group = static_cast<const PackParams*>(params)->group;
  const int64_t first = t.shape[0] / w.group;
  w.sg = first * t.strides[0];
  w.m = kTransposed ? t.shape[1] : first;
  w.c = kTransposed ? first : t.shape[1];
  w.sm = t.strides[kTransposed ? 1 : 0];
  w.sc = t.strides[kTransposed ? 0 : 1];
  for (int i = 0; i < 3; ++i) {
    const int axis = i + t.rank - 3;
    w.taps[i] = axis < 2 ? 1 : t.shape[axis];
    w.st[i] = axis < 2 ? 0 : t.strides[axis];
  }
  return w;
}

// Panel `panel` of group g: calls visit(place in the tensor, place in the packed array).
template <typename F>
void for_each_weight(const Weights& w, int64_t g, int64_t panel, const F& visit) {
  const int64_t width = least(kPanel, round_up(w.m - panel, kLanes));
  const int64_t base = g * packed_floats(w.depth(), w.m) + panel * w.depth();
  for (int64_t m = panel; m < least(w.m, panel + kPanel); ++m) {
    int64_t to = base + m - panel;
    for (int64_t d = 0; d < w.taps[0]; ++d) {
      for (int64_t i = 0; i < w.taps[1]; ++i) {
        for (int64_t j = 0; j < w.taps[2]; ++j) {
          int64_t from = g * w.sg + m * w.sm + d * w.st[0] + i * w.st[1] + j * w.st[2];
          for (int64_t c = 0; c < w.c; ++c, to += width, from += w.sc) visit(from, to);
        }
      }
    }
  }
}

void pack_panel(const Weights& w, int64_t g, int64_t panel, const float* from, float* packed) {
  const int64_t width = least(kPanel, round_up(w.m - panel, kLanes));
  if (panel + width > w.m) {
    float* to = packed + g * packed_floats(w.depth(), w.m) + panel * w.depth();
    std::memset(to, 0, static_cast<size_t>(width * w.depth()) * 4);
  }
  for_each_weight(w, g, panel, [&](int64_t a, int64_t b) { packed[b] = from[a]; });
}

template <bool kTransposed>
int64_t pack_bytes(const TensorRef& t, const void* params) {
  return weights_of<kTransposed>(t, params).floats() * 4;
}

template <bool kTransposed>
void pack(const TensorRef& t, void* to, const void* params) {
  const Weights w = weights_of<kTransposed>(t, params);
  for (int64_t g = 0; g < w.group; ++g) {
    for (int64_t panel = 0; panel < w.m; panel += kPanel) {
      pack_panel(w, g, panel, static_cast<const float*>(t.data), static_cast<float*>(to));
    }
  }
}

template <bool kTransposed>
void unpack(const void* from, const TensorRef& t, const void* params) {
  const Weights w = weights_of<kTransposed>(t, params);
  const auto* packed = static_cast<const float*>(from);
  auto* to = static_cast<float*>(t.data);
  for (int64_t g = 0; g < w.group; ++g) {
    for (int64_t panel = 0; panel < w.m; panel += kPanel) {
      for_each_weight(w, g, panel, [&](int64_t a, int64_t b) { to[a] = packed[b]; });
    }
  }
}

// The same as a step: weights with any strides -> enough bytes for the packed ones.
template <bool kTransposed>
const char* run_pack(const Call& call) {
  const Weights w = weights_of<kTransposed>(call.in[0], call.params);
  const int64_t panels = ceil_div(w.m, kPanel);
  parallel_for(call, w.group * panels, [&](int64_t task, int) {
    pack_panel(w, task / panels, task % panels * kPanel, static_cast<const float*>(call.in[0].data),
               static_cast<float*>(call.out[0].data));
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"pack_conv_weights_f32", "", kPackFields, 1, sizeof(PackParams), nullptr, run_pack<false>},
    {"pack_conv_transpose_weights_f32", "", kPackFields, 1, sizeof(PackParams), nullptr,
     run_pack<true>},
};
const Packer kPackers[] = {
    {"conv_weights_f32", kPackFields, 1, sizeof(PackParams), pack_bytes<false>, pack<false>,
     unpack<false>},
    {"conv_transpose_weights_f32", kPackFields, 1, sizeof(PackParams), pack_bytes<true>, pack<true>,
     unpack<true>},
};

}  // namespace

Table conv_weights_table();
Table conv_weights_table() { return {kKernels, 2, kPackers, 2}; }

}  // namespace zenith::ZENITH_ISA
