// What the files of the gemm family share.
#pragma once

#include "cpu/isa/epilogue.h"

namespace zenith::ZENITH_ISA {

int64_t matmul_scratch(const Call& call);
const char* run_matmul(const Call& call);

namespace {

// Of linear_f32 and matmul_f32: the step codes; operands are the inputs from 2 on.
struct ProductParams {
  StepCodes epilogue;
};
[[maybe_unused]] const Field kProductFields[] = {
    ZENITH_FIELD(ProductParams, epilogue, kInts, kMaxSteps)};
[[maybe_unused]] const char* const kTileName = kLanes == 16 ? "8x48" : kLanes == 8 ? "4x24" : "6x8";

}  // namespace
}  // namespace zenith::ZENITH_ISA
