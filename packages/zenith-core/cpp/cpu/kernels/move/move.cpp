// Data movement: copies between tensors of any strides. Transpose, concat, slice, expand and pad
// are views plus this one kernel.
#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

template <typename T>
void copy_elements(const TensorRef& src, const TensorRef& dst) {
  const T* from = static_cast<const T*>(src.data);
  T* to = static_cast<T*>(dst.data);
  int64_t index[kMaxRank] = {};
  const int64_t n = element_count(dst);
  for (int64_t i = 0; i < n; ++i) {
    int64_t a = 0, b = 0;
    for (int d = 0; d < dst.rank; ++d) {
      a += index[d] * src.strides[d];
      b += index[d] * dst.strides[d];
    }
    to[b] = from[a];
    for (int d = dst.rank - 1; d >= 0 && ++index[d] == dst.shape[d]; --d) index[d] = 0;
  }
}

const char* run_copy(const Call& call) {
  switch (item_size(call.out[0].dtype)) {
    case 1: copy_elements<uint8_t>(call.in[0], call.out[0]); break;
    case 2: copy_elements<uint16_t>(call.in[0], call.out[0]); break;
    case 4: copy_elements<uint32_t>(call.in[0], call.out[0]); break;
    case 8: copy_elements<uint64_t>(call.in[0], call.out[0]); break;
    default: return "unknown dtype";
  }
  return nullptr;
}

const Kernel kKernels[] = {
    {"copy", "", nullptr, 0, 0, nullptr, run_copy},
};

}  // namespace

Table move_table();
Table move_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
