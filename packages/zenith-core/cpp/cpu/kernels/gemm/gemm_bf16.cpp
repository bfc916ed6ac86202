// Products of bfloat16.
#include "cpu/kernels/gemm/gemm.h"

namespace zenith::ZENITH_ISA {

Table gemm_bf16_table();
Table gemm_bf16_table() { return {nullptr, 0, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
