// Quantized tensors: to and from 8- and 16-bit integers, and exact products of bytes.
#include "cpu/kernels/quantize/linear.h"
#include "cpu/kernels/quantize/products.h"

namespace zenith::ZENITH_ISA {
namespace {

template <typename T, int N>
constexpr int count_of(const T (&)[N]) {
  return N;
}

const Kernel kKernels[] = {
    {"quantize_linear", "", kLinearFields, count_of(kLinearFields), sizeof(LinearParams), nullptr,
     run_linear<true>},
    {"dequantize_linear", "", kLinearFields, count_of(kLinearFields), sizeof(LinearParams), nullptr,
     run_linear<false>},
    {"dynamic_quantize", "", nullptr, 0, 0, dynamic_scratch, run_dynamic},
    {"matmul_i8", "", kMatMulFields, count_of(kMatMulFields), sizeof(MatMulParams), matmul_scratch,
     run_matmul},
    {"conv_i8", "", kConvFields, count_of(kConvFields), sizeof(ConvParams), conv_scratch, run_conv},
    {"depthwise_i8", "", kConvFields, count_of(kConvFields), sizeof(ConvParams), depthwise_scratch,
     run_depthwise},
};
const Packer kPackers[] = {
    {"integer_pack_i16", nullptr, 0, 0, pack_bytes, pack, unpack},
};

}  // namespace

Table quantize_table();
Table quantize_table() { return {kKernels, count_of(kKernels), kPackers, count_of(kPackers)}; }

}  // namespace zenith::ZENITH_ISA
