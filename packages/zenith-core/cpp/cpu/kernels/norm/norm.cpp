// Normalisations. Mean first, then the mean of squared differences: never E[x^2] - E[x]^2.
#include "cpu/kernels/norm/group_norm.h"
#include "cpu/kernels/norm/layer_norm.h"

namespace zenith::ZENITH_ISA {
namespace {

#define ZENITH_ROW_NORM(name, center, add)                                             \
  {name "_f32",                                                                        \
   "",                                                                                 \
   kRowNormFields,                                                                     \
   2,                                                                                  \
   sizeof(RowNormParams),                                                              \
   nullptr,                                                                            \
   run_row_norm<center, add, float>},                                                  \
  {                                                                                    \
    name "_bf16", "", kRowNormFields, 2, sizeof(RowNormParams), half_row_norm_scratch, \
        run_row_norm<center, add, bf16>                                                \
  }

const Kernel kKernels[] = {
    ZENITH_ROW_NORM("layer_norm", true, false),
    ZENITH_ROW_NORM("rms_norm", false, false),
    ZENITH_ROW_NORM("add_layer_norm", true, true),
    ZENITH_ROW_NORM("add_rms_norm", false, true),
    {"group_norm_f32", "", kGroupNormFields, 3, sizeof(GroupNormParams), group_norm_scratch,
     run_group_norm<float>},
    {"group_norm_bf16", "", kGroupNormFields, 3, sizeof(GroupNormParams), group_norm_scratch,
     run_group_norm<bf16>},
};

}  // namespace

Table norm_table();
Table norm_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
