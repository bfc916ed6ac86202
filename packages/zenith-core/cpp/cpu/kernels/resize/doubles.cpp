// Resize of the types whose sums are made in double: seldom met, so built small.
#include "cpu/kernels/resize/blend.h"

namespace zenith::ZENITH_ISA {
namespace {

const Kernel kKernels[] = {
    ZENITH_RESIZE("resize_float64", double, double),
    ZENITH_RESIZE_INTEGER("uint16", uint16_t, double),
    ZENITH_RESIZE_INTEGER("int16", int16_t, double),
    ZENITH_RESIZE_INTEGER("int32", int32_t, double),
};

}  // namespace

Table resize_doubles_table();
Table resize_doubles_table() {
  return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0};
}

}  // namespace zenith::ZENITH_ISA
