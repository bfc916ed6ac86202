// Functions and activations: f32 on vectors (vecmath.h), f64 by the C library.
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

// An f64 operation from an expression in x, p and q.
#define ZENITH_DOUBLE(name, expr) \
  double name(double x, [[maybe_unused]] double p, [[maybe_unused]] double q) { return expr; }
double clamp_unit(double x) { return x < 0.0 ? 0.0 : (x > 1.0 ? 1.0 : x); }
double softplus_f64(double x) {
  return (x > 0.0 ? x : 0.0) + __builtin_log1p(__builtin_exp(-__builtin_fabs(x)));
}
// 1 / (1 + e^-x) without overflow; for very small results e^x itself.
double sigmoid_of(double x) {
  const double e = __builtin_exp(-__builtin_fabs(x));
  return x < 0.0 ? e / (1.0 + e) : 1.0 / (1.0 + e);
}
ZENITH_DOUBLE(reciprocal_d, 1.0 / x)
ZENITH_DOUBLE(sigmoid_d, sigmoid_of(x))
ZENITH_DOUBLE(silu_d, x* sigmoid_of(x))
ZENITH_DOUBLE(swish_d, x* sigmoid_of(p* x))
ZENITH_DOUBLE(gelu_d, 0.5 * x * __builtin_erfc(x * -0.70710678118654752440))
ZENITH_DOUBLE(gelu_tanh_d,
              0.5 * x * (1.0 + __builtin_tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x))))
ZENITH_DOUBLE(mish_d, x* __builtin_tanh(softplus_f64(x)))
ZENITH_DOUBLE(softplus_d, softplus_f64(x))
ZENITH_DOUBLE(softsign_d, x / (1.0 + __builtin_fabs(x)))
ZENITH_DOUBLE(hardswish_d, x* clamp_unit(x * (1.0 / 6.0) + 0.5))
ZENITH_DOUBLE(hardsigmoid_d, clamp_unit(p* x + q))
ZENITH_DOUBLE(leakyrelu_d, x < 0.0 ? p * x : x)
ZENITH_DOUBLE(thresholdedrelu_d, x > p ? x : 0.0)
ZENITH_DOUBLE(elu_d, x < 0.0 ? p * __builtin_expm1(x) : x)
ZENITH_DOUBLE(celu_d, x < 0.0 ? p * __builtin_expm1(x / p) : x)
ZENITH_DOUBLE(selu_d, q*(x < 0.0 ? p * __builtin_expm1(x) : x))
#undef ZENITH_DOUBLE

template <auto F>
void doubles(const Args& args) {
  const double* a = static_cast<const double*>(args.a);
  double* y = static_cast<double*>(args.dst);
  const double p = args.p, q = args.q;
#pragma GCC ivdep
  for (int64_t i = 0; i < args.n; ++i) y[i] = F(a[i], p, q);
}

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
    case kOp_reciprocal:
      return doubles<reciprocal_d>;
    case kOp_sigmoid:
      return doubles<sigmoid_d>;
    case kOp_silu:
      return doubles<silu_d>;
    case kOp_gelu:
      return doubles<gelu_d>;
    case kOp_gelu_tanh:
      return doubles<gelu_tanh_d>;
    case kOp_mish:
      return doubles<mish_d>;
    case kOp_softplus:
      return doubles<softplus_d>;
    case kOp_softsign:
      return doubles<softsign_d>;
    case kOp_hardswish:
      return doubles<hardswish_d>;
    case kOp_hardsigmoid:
      return doubles<hardsigmoid_d>;
    case kOp_leakyrelu:
      return doubles<leakyrelu_d>;
    case kOp_thresholdedrelu:
      return doubles<thresholdedrelu_d>;
    case kOp_elu:
      return doubles<elu_d>;
    case kOp_celu:
      return doubles<celu_d>;
    case kOp_selu:
      return doubles<selu_d>;
    case kOp_swish:
      return doubles<swish_d>;
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
