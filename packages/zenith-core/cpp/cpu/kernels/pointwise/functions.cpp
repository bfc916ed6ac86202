// Functions and activations: f32 on vectors (vecmath.h), the basic ones also for f64.
#include "cpu/isa/vecmath.h"
#include "cpu/kernels/pointwise/loops.h"

namespace zenith::ZENITH_ISA {
namespace {

// An f32 operation from an expression in x, p and q.
#define ZENITH_VECTOR(name, expr) \
  vf name([[maybe_unused]] vf x, [[maybe_unused]] vf p, [[maybe_unused]] vf q) { return expr; }

ZENITH_VECTOR(reciprocal_v, 1.0f / x)
ZENITH_VECTOR(sqrt_v, vsqrt(x))
ZENITH_VECTOR(exp_v, vexp(x))
ZENITH_VECTOR(log_v, vlog(x))
ZENITH_VECTOR(erf_v, verf(x))
ZENITH_VECTOR(tanh_v, vtanh(x))
ZENITH_VECTOR(sin_v, vsin(x))
ZENITH_VECTOR(cos_v, vcos(x))
ZENITH_VECTOR(sigmoid_v, vsigmoid(x))
ZENITH_VECTOR(silu_v, vsilu(x))
ZENITH_VECTOR(gelu_v, vgelu(x))
ZENITH_VECTOR(gelu_tanh_v, vgelu_tanh(x))
ZENITH_VECTOR(mish_v, vmish(x))
ZENITH_VECTOR(softplus_v, vsoftplus(x))
ZENITH_VECTOR(softsign_v, x / (1.0f + vabs(x)))
ZENITH_VECTOR(hardswish_v, x* vclamp(x * 0.16666667f + 0.5f, 0.0f, 1.0f))
ZENITH_VECTOR(hardsigmoid_v, vclamp(p* x + q, 0.0f, 1.0f))
ZENITH_VECTOR(leakyrelu_v, x < 0.0f ? p * x : x)
ZENITH_VECTOR(thresholdedrelu_v, x > p ? x : splat(0.0f))
ZENITH_VECTOR(elu_v, x < 0.0f ? p * vexpm1(x) : x)
ZENITH_VECTOR(celu_v, x < 0.0f ? p * vexpm1(x / p) : x)
ZENITH_VECTOR(selu_v, q*(x < 0.0f ? p * vexpm1(x) : x))
ZENITH_VECTOR(swish_v, x / (1.0f + vexp(-(p * x))))
#undef ZENITH_VECTOR

// One element at a time, for T = float or double. The compiler vectorises the roundings.
#define ZENITH_LIBM(name)                                      \
  float name##_f32(float x) { return __builtin_##name##f(x); } \
  double name##_f64(double x) { return __builtin_##name(x); }
ZENITH_LIBM(floor)
ZENITH_LIBM(ceil)
ZENITH_LIBM(rint)
ZENITH_LIBM(tan)
ZENITH_LIBM(asin)
ZENITH_LIBM(acos)
ZENITH_LIBM(atan)
ZENITH_LIBM(sinh)
ZENITH_LIBM(cosh)
ZENITH_LIBM(asinh)
ZENITH_LIBM(acosh)
ZENITH_LIBM(atanh)
#undef ZENITH_LIBM
#define ZENITH_LIBM(name) \
  double name##_f64(double x) { return __builtin_##name(x); }
ZENITH_LIBM(sqrt)
ZENITH_LIBM(exp)
ZENITH_LIBM(log)
ZENITH_LIBM(erf)
ZENITH_LIBM(tanh)
ZENITH_LIBM(sin)
ZENITH_LIBM(cos)
#undef ZENITH_LIBM
double reciprocal_f64(double x) { return 1.0 / x; }
double sigmoid_f64(double x) { return 1.0 / (1.0 + __builtin_exp(-x)); }

// p, q: whether -inf and +inf count.
template <typename T>
void is_inf(const Args& args) {
  const T* a = static_cast<const T*>(args.a);
  uint8_t* y = static_cast<uint8_t*>(args.dst);
  const T low = args.p != 0 ? -__builtin_inff() : __builtin_nanf("");
  const T high = args.q != 0 ? __builtin_inff() : __builtin_nanf("");
  for (int64_t i = 0; i < args.n; ++i) y[i] = a[i] == low || a[i] == high;
}

OpFn function_f32(Op op) {
  switch (op) {
    case kOp_isinf:
      return is_inf<float>;
    case kOp_floor:
      return unary<float, float, floor_f32>;
    case kOp_ceil:
      return unary<float, float, ceil_f32>;
    case kOp_round:
      return unary<float, float, rint_f32>;
    case kOp_tan:
      return unary<float, float, tan_f32>;
    case kOp_asin:
      return unary<float, float, asin_f32>;
    case kOp_acos:
      return unary<float, float, acos_f32>;
    case kOp_atan:
      return unary<float, float, atan_f32>;
    case kOp_sinh:
      return unary<float, float, sinh_f32>;
    case kOp_cosh:
      return unary<float, float, cosh_f32>;
    case kOp_asinh:
      return unary<float, float, asinh_f32>;
    case kOp_acosh:
      return unary<float, float, acosh_f32>;
    case kOp_atanh:
      return unary<float, float, atanh_f32>;
    case kOp_sqrt:
      return vectors<sqrt_v>;
    case kOp_reciprocal:
      return vectors<reciprocal_v>;
    case kOp_exp:
      return vectors<exp_v>;
    case kOp_log:
      return vectors<log_v>;
    case kOp_erf:
      return vectors<erf_v>;
    case kOp_tanh:
      return vectors<tanh_v>;
    case kOp_sin:
      return vectors<sin_v>;
    case kOp_cos:
      return vectors<cos_v>;
    case kOp_sigmoid:
      return vectors<sigmoid_v>;
    case kOp_silu:
      return vectors<silu_v>;
    case kOp_gelu:
      return vectors<gelu_v>;
    case kOp_gelu_tanh:
      return vectors<gelu_tanh_v>;
    case kOp_mish:
      return vectors<mish_v>;
    case kOp_softplus:
      return vectors<softplus_v>;
    case kOp_softsign:
      return vectors<softsign_v>;
    case kOp_hardswish:
      return vectors<hardswish_v>;
    case kOp_hardsigmoid:
      return vectors<hardsigmoid_v>;
    case kOp_leakyrelu:
      return vectors<leakyrelu_v>;
    case kOp_thresholdedrelu:
      return vectors<thresholdedrelu_v>;
    case kOp_elu:
      return vectors<elu_v>;
    case kOp_celu:
      return vectors<celu_v>;
    case kOp_selu:
      return vectors<selu_v>;
    case kOp_swish:
      return vectors<swish_v>;
    default:
      return nullptr;
  }
}

OpFn function_f64(Op op) {
  switch (op) {
    case kOp_isinf:
      return is_inf<double>;
    case kOp_floor:
      return unary<double, double, floor_f64>;
    case kOp_ceil:
      return unary<double, double, ceil_f64>;
    case kOp_round:
      return unary<double, double, rint_f64>;
    case kOp_tan:
      return unary<double, double, tan_f64>;
    case kOp_asin:
      return unary<double, double, asin_f64>;
    case kOp_acos:
      return unary<double, double, acos_f64>;
    case kOp_atan:
      return unary<double, double, atan_f64>;
    case kOp_sinh:
      return unary<double, double, sinh_f64>;
    case kOp_cosh:
      return unary<double, double, cosh_f64>;
    case kOp_asinh:
      return unary<double, double, asinh_f64>;
    case kOp_acosh:
      return unary<double, double, acosh_f64>;
    case kOp_atanh:
      return unary<double, double, atanh_f64>;
    case kOp_sqrt:
      return unary<double, double, sqrt_f64>;
    case kOp_reciprocal:
      return unary<double, double, reciprocal_f64>;
    case kOp_exp:
      return unary<double, double, exp_f64>;
    case kOp_log:
      return unary<double, double, log_f64>;
    case kOp_erf:
      return unary<double, double, erf_f64>;
    case kOp_tanh:
      return unary<double, double, tanh_f64>;
    case kOp_sin:
      return unary<double, double, sin_f64>;
    case kOp_cos:
      return unary<double, double, cos_f64>;
    case kOp_sigmoid:
      return unary<double, double, sigmoid_f64>;
    default:
      return nullptr;
  }
}

}  // namespace

OpEntry function_op(Op op, Type type) {
  if (type == kF32) return {function_f32(op), 6};
  if (type == kF64) return {function_f64(op), 6};
  return {nullptr, 0};
}

}  // namespace zenith::ZENITH_ISA
