// Packs int8 weights into panels (Note [Panels of bytes]).
#include "cpu/kernels/int8/rows.h"

namespace zenith::ZENITH_ISA {
namespace {

struct PackParams {
  int64_t group, column_dilation;
};
const Field kPackFields[] = {ZENITH_FIELD(PackParams, group, kInt, 1),
                             ZENITH_FIELD(PackParams, column_dilation, kInt, 1)};

// A matrix [K, N], or a filter [M, C / group, kh, kw] (or without kh) whose depth is
// [kh, kw, C / group].
struct Weights {
  int64_t groups, n, channels, kh, kw;
  int64_t s_group, s_n, s_channel, s_row, s_col;
  RowPieces pieces;

  int64_t panels() const { return ceil_div(n, kCols); }
  int64_t elements() const { return groups * panels() * pieces.panel(); }
};

Weights weights_of(const TensorRef& t, const void* params) {
  const auto& p = *static_cast<const PackParams*>(params);
  if (t.rank == 2) {
    return {1,
            t.shape[1],
            t.shape[0],
            1,
            1,
            0,
            t.strides[1],
            t.strides[0],
            0,
            0,
            RowPieces(1, t.shape[0])};
  }
  const int last = t.rank - 1;
  const bool flat = t.rank == 3;
  const int64_t n = t.shape[0] / p.group, kh = flat ? 1 : t.shape[2], kw = t.shape[last];
  return {p.group,
          n,
          t.shape[1],
          kh,
          kw,
          n * t.strides[0],
          t.strides[0],
          t.strides[1],
          flat ? 0 : t.strides[2],
          t.strides[last],
          filter_pieces(kh, kw, p.column_dilation, t.shape[1])};
}

// visit(place in the tensor, place in the packed array) for every weight.
template <typename F>
void for_each_weight(const Weights& w, const F& visit) {
  const int64_t of_row = w.pieces.taps / w.kh;  // pieces
  for (int64_t g = 0; g < w.groups; ++g) {
    for (int64_t n = 0; n < w.n; ++n) {
      const int64_t panel = (g * w.panels() + n / kCols) * w.pieces.panel() + n % kCols * kGroup;
      for (int64_t i = 0; i < w.kh; ++i) {
        for (int64_t j = 0; j < w.kw; ++j) {
          const int64_t from = g * w.s_group + n * w.s_n + i * w.s_row + j * w.s_col;
          const int64_t at =
              of_row == 1 ? i * w.pieces.depth + j * w.channels : (i * w.kw + j) * w.pieces.depth;
          for (int64_t c = 0; c < w.channels; ++c) {
            const int64_t k = at + c;
            visit(from + c * w.s_channel, panel + k / kGroup * kCols * kGroup + k % kGroup);
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
    {"int8_weights", kPackFields, 2, sizeof(PackParams), pack_bytes, pack, unpack},
};

}  // namespace

Table int8_weights_table();
Table int8_weights_table() { return {nullptr, 0, kPackers, 1}; }

}  // namespace zenith::ZENITH_ISA
