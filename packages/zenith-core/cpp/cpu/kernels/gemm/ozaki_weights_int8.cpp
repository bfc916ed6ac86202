// Packs the weights of products on integer tiles (ozaki_int8.cpp).
//
// Note [Exact inverse]: three digits do not give a weight back. The last 8 bits of it lie behind
// the digits, which decides among the floats near the digits' value; the weights for which that is
// not enough (those far smaller than the largest of their column) are listed.
#include "zenith/kernel.h"

#ifndef __AMX_INT8__

namespace zenith::ZENITH_ISA {
Table gemm_ozaki_weights_table();
Table gemm_ozaki_weights_table() { return {nullptr, 0, nullptr, 0}; }
}  // namespace zenith::ZENITH_ISA

#else

#include "cpu/kernels/gemm/ozaki.h"
#include "cpu/kernels/gemm/weights.h"

namespace zenith::ZENITH_ISA {
namespace {

// The float nearest to steps * step that ends in the byte `last`. Where the way there passes zero
// it is no such float: its weight is listed.
float restored(int32_t steps, float step, uint8_t last) {
  const float near = static_cast<float>(steps) * step;
  uint32_t bits;
  std::memcpy(&bits, &near, 4);
  bits += static_cast<uint32_t>(static_cast<int8_t>(last - (bits & 255)));
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// One column of one pass.
struct Column {
  alignas(64) float weights[kPassDepth];
  uint8_t last[kPassDepth];
  __mmask16 listed[kPassDepth / kLanes];
  int64_t count = 0;  // of those listed
  Scale scale{0};

  // What follows from n weights.
  void settle(int64_t n) {
    for (int64_t k = n; k % kLanes != 0; ++k) weights[k] = 0;
    scale = Scale(magnitude(weights, n));
    count = 0;
    for (int64_t k = 0; k < n; k += kLanes) {
      const vf w = load(weights + k);
      const vi steps = (vi)_mm512_maskz_cvtps_epi32(0xffff, (__m512)(w * scale.per_unit));
      // restored() is the weight if that is at most 128 floats from what the digits say.
      const vi away = (vi)w - (vi)(to_float(steps) * scale.step) + 128;
      const __mmask16 far = _mm512_cmpgt_epu32_mask((__m512i)away, _mm512_set1_epi32(255));
      listed[k / kLanes] = far;
      count += __builtin_popcount(far);
      _mm512_mask_cvtepi32_storeu_epi8(last + k, 0xffff, (__m512i)w);
    }
  }
};

// Calls body(column, pass, j, n) for every column j and pass, n of the depth.
template <typename F>
void each_column(const TensorRef& src, const Weights& w, const F& body) {
  constexpr int64_t kBlock = 64;  // rows of a matrix [K, N] lie on pages of their own
  const Depth depth(w.depth);
  Column columns[kBlock];
  for (int64_t first = 0; first < w.n; first += kBlock) {
    const int64_t cols = least(kBlock, w.n - first);
    for (int64_t pass = 0; pass < depth.passes; ++pass) {
      const int64_t k = depth.begin(pass) * kDeep;
      const int64_t n = least(w.depth, depth.begin(pass + 1) * kDeep) - k;
      const float* from = static_cast<const float*>(src.data) + k * w.step + first * w.col;
      // In the order in which they lie in memory, nearly.
      const bool along = w.step == 1;
      for (int64_t outer = 0; outer < (along ? cols : n); ++outer) {
        for (int64_t inner = 0; inner < (along ? n : cols); ++inner) {
          const int64_t i = along ? inner : outer, j = along ? outer : inner;
          columns[j].weights[i] = from[i * w.step + j * w.col];
        }
      }
      for (int64_t j = 0; j < cols; ++j) {
        columns[j].settle(n);
        body(columns[j], pass, first + j, n);
      }
    }
  }
}

// Of a target that is not there yet: without listed weights.
int64_t packed_bytes(const TensorRef& src, const void* params) {
  const Weights w(src, params);
  int64_t listed = 0;
  if (src.data != nullptr) {
    each_column(src, w, [&](const Column& c, int64_t, int64_t, int64_t) { listed += c.count; });
  }
  return Layout(w.depth, w.n).bytes(listed);
}

void pack(const TensorRef& src, void* dst, const void* params) {
  const Weights w(src, params);
  const Layout l(w.depth, w.n);
  char* to = static_cast<char*>(dst);
  std::memset(to, 0, static_cast<size_t>(l.count()));
  int64_t count = 0;
  Listed* list = reinterpret_cast<Listed*>(to + l.count() + 8);
  each_column(src, w, [&](const Column& c, int64_t pass, int64_t j, int64_t n) {
    const int64_t tile = j / kRows, lane = j % kRows, first = l.depth.begin(pass);
    const_cast<float*>(l.scales(to, tile))[pass * kRows + lane] = c.scale.step;
    int8_t digits[kPassSteps * kDigits * kDeep];
    write_digits(c.weights, n, c.scale.per_unit, kDeep, digits);
    // Four at a time side by side with those of the other columns.
    int8_t* at = const_cast<int8_t*>(l.digits(to, tile, first)) + lane * 4;
    for (int64_t k = 0; k < ceil_div(n, kDeep) * kDigits * kDeep; k += 4, at += kRows * 4) {
      std::memcpy(at, digits + k, 4);
    }
    std::memcpy(to + l.last_bytes() + j * w.depth + first * kDeep, c.last, static_cast<size_t>(n));
    for (int64_t k = 0; k < n; k += kLanes) {
      for (unsigned far = c.listed[k / kLanes]; far != 0; far &= far - 1) {
        const int64_t at_k = k + __builtin_ctz(far);
        list[count++] = {static_cast<uint32_t>(j), static_cast<uint32_t>(first * kDeep + at_k),
                         c.weights[at_k]};
      }
    }
  });
  std::memcpy(to + l.count(), &count, 8);
}

int64_t pass_of(const Depth& depth, int64_t k) {
  int64_t pass = 0;
  while (depth.begin(pass + 1) * kDeep <= k) ++pass;
  return pass;
}

void unpack(const void* src, const TensorRef& dst, const void* params) {
  const Weights w(dst, params);
  const Layout l(w.depth, w.n);
  const char* from = static_cast<const char*>(src);
  const uint8_t* last = reinterpret_cast<const uint8_t*>(from + l.last_bytes());
  float* to = static_cast<float*>(dst.data);
  for (int64_t j = 0; j < w.n; ++j) {
    const int64_t tile = j / kRows, lane = j % kRows;
    for (int64_t k = 0; k < w.depth; ++k) {
      const float step = l.scales(from, tile)[pass_of(l.depth, k) * kRows + lane];
      to[k * w.step + j * w.col] =
          restored(steps_at(l, from, tile, k, lane), step, last[j * w.depth + k]);
    }
  }
  int64_t count;
  std::memcpy(&count, from + l.count(), 8);
  const Listed* list = reinterpret_cast<const Listed*>(from + l.count() + 8);
  for (int64_t i = 0; i < count; ++i) {
    to[list[i].k * w.step + list[i].column * w.col] = list[i].value;
  }
}

const Packer kPackers[] = {
    {"ozaki_pack_f32", kPackFields, 1, sizeof(PackParams), packed_bytes, pack, unpack},
};

}  // namespace

Table gemm_ozaki_weights_table();
Table gemm_ozaki_weights_table() { return {nullptr, 0, kPackers, 1}; }

}  // namespace zenith::ZENITH_ISA
#endif
