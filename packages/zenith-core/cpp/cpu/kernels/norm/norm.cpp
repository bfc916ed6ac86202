// Normalisations. Mean first, then the mean of squared differences: never E[x^2] - E[x]^2.
#include "cpu/kernels/norm/group_norm.h"
#include "cpu/kernels/norm/layer_norm.h"

namespace zenith::ZENITH_ISA {
namespace {

const Kernel kKernels[] = {
    {"layer_norm_f32", "", kRowNormFields, 2, sizeof(RowNormParams), nullptr,
     run_row_norm<true, false>},
    {"rms_norm_f32", "", kRowNormFields, 2, sizeof(RowNormParams), nullptr,
     run_row_norm<false, false>},
    {"add_layer_norm_f32", "", kRowNormFields, 2, sizeof(RowNormParams), nullptr,
     run_row_norm<true, true>},
    {"add_rms_norm_f32", "", kRowNormFields, 2, sizeof(RowNormParams), nullptr,
     run_row_norm<false, true>},
    {"group_norm_f32", "", kGroupNormFields, 2, sizeof(GroupNormParams), group_norm_scratch,
     run_group_norm},
};

}  // namespace

Table norm_table();
Table norm_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
