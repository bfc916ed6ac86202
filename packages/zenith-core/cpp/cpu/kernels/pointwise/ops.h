// Operations of the pointwise program: what they are called with and how they are looked up.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {

enum Op : int32_t {
#define ZENITH_OP(name) kOp_##name,
#include "cpu/kernels/pointwise/ops.inc"
#undef ZENITH_OP
  kOpCount
};

// Types of registers. Arithmetic knows integers, f32 and f64 (bool counts as u8); the others are
// only cast and selected. A float8 is a byte, and so is each element of a 4 or 2 bit type.
enum Type : int32_t {
  kF32,
  kI64,
  kI32,
  kU8,
  kF64,
  kF16,
  kBF16,
  kI8,
  kBool,
  kU32,
  kU64,
  kI16,
  kU16,
  kF8E4M3FN,
  kF8E4M3FNUZ,
  kF8E5M2,
  kF8E5M2FNUZ,
  kF8E8M0FNU,
  kF4E2M1FN,
  kI4,
  kU4,
  kI2,
  kU2,
  kTypeCount
};

// One step on one tile. n >= kLanes elements. dst may be one of the sources, never a part of one.
struct Args {
  const void* a;
  const void* b;
  const void* c;
  void* dst;
  int64_t n;
  bool scalar_a, scalar_b, scalar_c;  // the pointer is to one element, which stands for all
  float p, q;                         // alpha, beta and the like
};
using OpFn = void (*)(const Args& args);

// scalars: bit i set when source i may be a scalar or is unused; the others must be tiles.
struct OpEntry {
  OpFn fn;
  uint32_t scalars;
};

// Null fn where the operation does not exist for the type.
OpEntry arithmetic_op(Op op, Type type);
OpEntry function_op(Op op, Type type);
OpEntry cast_op(Type from, Type to);

}  // namespace zenith::ZENITH_ISA
