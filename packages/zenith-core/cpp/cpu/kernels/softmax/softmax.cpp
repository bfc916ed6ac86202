// Softmax and log-softmax along any axis: rows when the axis is the last one, else columns side by
// side in vectors.
#include "cpu/isa/vecmath.h"
#include "cpu/kernels/softmax/exp_down.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// in: x, out: y of the same shape; both with stride 1 on the last axis, other strides free.
struct Params {
  int64_t axis;
};
const Field kFields[] = {ZENITH_FIELD(Params, axis, kInt, 1)};

constexpr int64_t kGrain = 1 << 14;  // elements worth a task

// The iteration space: `outer` axes, then the softmax axis, then `inner` neighbours (1 when the
// softmax axis is the last).
struct Space {
  int n_outer;
  int64_t shape[kMaxRank], x_outer[kMaxRank], y_outer[kMaxRank];
  int64_t outer, n, x_step, y_step, inner;
};

Space space_of(const TensorRef& x, const TensorRef& y, int axis) {
  Space s{};
  s.outer = 1;
  s.inner = 1;
  s.n = x.shape[axis];
  s.x_step = x.strides[axis];
  s.y_step = y.strides[axis];
  // Axes behind the softmax axis join the inner one as long as both tensors are gapless there.
  int last = x.rank - 1;
  for (; last > axis; --last) {
    const bool innermost = last == x.rank - 1;
    if (!innermost && (x.strides[last] != s.inner || y.strides[last] != s.inner)) break;
    s.inner *= x.shape[last];
  }
  for (int d = 0; d <= last; ++d) {
    if (d == axis) continue;
    s.shape[s.n_outer] = x.shape[d];
    s.x_outer[s.n_outer] = x.strides[d];
    s.y_outer[s.n_outer++] = y.strides[d];
    s.outer *= x.shape[d];
  }
  return s;
}

void softmax_row(const float* x, float* y, int64_t n, bool log) {
  const vf lowest = splat(-__builtin_inff());
  const int rest = static_cast<int>(n % kLanes);
  const int64_t whole = n - rest;
  vf tail = lowest;
  for (int i = 0; i < rest; ++i) tail[i] = x[whole + i];
  vf m0 = tail, m1 = lowest, m2 = lowest, m3 = lowest;
  int64_t j = 0;
  for (; j + 4 * kLanes <= whole; j += 4 * kLanes) {
    m0 = vmax(m0, load(x + j));
    m1 = vmax(m1, load(x + j + kLanes));
    m2 = vmax(m2, load(x + j + 2 * kLanes));
    m3 = vmax(m3, load(x + j + 3 * kLanes));
  }
  for (; j < whole; j += kLanes) m1 = vmax(m1, load(x + j));
  const float top = max_lane(vmax(vmax(m0, m1), vmax(m2, m3)));

  // An element is at most `top`, so e^(x - top) <= 1; NaN, and a row of -inf, make the sum NaN.
  vf a{}, b{};
  for (j = 0; j + 2 * kLanes <= whole; j += 2 * kLanes) {
    const vf e = exp_down(load(x + j) - top), f = exp_down(load(x + j + kLanes) - top);
    if (!log) {
      store(y + j, e);
      store(y + j + kLanes, f);
    }
    a += e;
    b += f;
  }
  if (j < whole) {
    const vf e = exp_down(load(x + j) - top);
    if (!log) store(y + j, e);
    a += e;
  }
  tail = exp_down(tail - top);
  const float total = sum(a + b + tail);

  if (log) {
    const float shift = __builtin_logf(total);
    for (j = 0; j < whole; j += kLanes) store(y + j, (load(x + j) - top) - shift);
    for (; j < n; ++j) y[j] = (x[j] - top) - shift;
    return;
  }
  const float scale = 1.0f / total;
  for (j = 0; j < whole; j += kLanes) store(y + j, load(y + j) * scale);
  for (int i = 0; i < rest; ++i) y[whole + i] = tail[i] * scale;
}

// `lanes` neighbouring columns, at most one vector. WHOLE: exactly one.
template <bool WHOLE>
[[gnu::always_inline]] inline void softmax_columns(const float* x, int64_t x_step, float* y,
                                                   int64_t y_step, int64_t n, int lanes, bool log) {
  const auto get = [lanes](const float* p) { return WHOLE ? load(p) : load_n(p, lanes); };
  const auto put = [lanes](float* p, vf v) { WHOLE ? store(p, v) : store_n(p, v, lanes); };
  vf top = splat(-__builtin_inff());
  for (int64_t j = 0; j < n; ++j) top = vmax(top, get(x + j * x_step));
  vf total{};
  for (int64_t j = 0; j < n; ++j) {
    const vf e = exp_down(get(x + j * x_step) - top);
    if (!log) put(y + j * y_step, e);
    total += e;
  }
  if (log) {
    const vf shift = vlog(total);
    for (int64_t j = 0; j < n; ++j) put(y + j * y_step, (get(x + j * x_step) - top) - shift);
  } else {
    const vf scale = 1.0f / total;
    for (int64_t j = 0; j < n; ++j) put(y + j * y_step, get(y + j * y_step) * scale);
  }
}

const char* run(const Call& call, bool log) {
  const TensorRef &tx = call.in[0], &ty = call.out[0];
  if (element_count(ty) == 0) return nullptr;
  const int axis = static_cast<int>(static_cast<const Params*>(call.params)->axis);
  const Space s = space_of(tx, ty, axis);
  const int64_t groups = (s.inner + kLanes - 1) / kLanes;  // of columns
  const int64_t items = s.outer * groups;
  const int64_t per_item = s.n * (s.inner < kLanes ? s.inner : kLanes);
  const int64_t grain = per_item < kGrain ? kGrain / per_item : 1;
  parallel_for(call, (items + grain - 1) / grain, [&](int64_t task, int) {
    const int64_t end = (task + 1) * grain < items ? (task + 1) * grain : items;
    for (int64_t item = task * grain; item < end; ++item) {
      const int64_t column = item % groups * kLanes;
      const float* x = static_cast<const float*>(tx.data) + column;
      float* y = static_cast<float*>(ty.data) + column;
      int64_t index = item / groups;
      for (int d = s.n_outer - 1; d >= 0; --d) {
        x += index % s.shape[d] * s.x_outer[d];
        y += index % s.shape[d] * s.y_outer[d];
        index /= s.shape[d];
      }
      const int64_t left = s.inner - column;
      if (axis == tx.rank - 1) {
        softmax_row(x, y, s.n, log);
      } else if (left >= kLanes) {
        softmax_columns<true>(x, s.x_step, y, s.y_step, s.n, kLanes, log);
      } else {
        softmax_columns<false>(x, s.x_step, y, s.y_step, s.n, static_cast<int>(left), log);
      }
    }
  });
  return nullptr;
}

const char* run_softmax(const Call& call) { return run(call, false); }
const char* run_log_softmax(const Call& call) { return run(call, true); }

const Kernel kKernels[] = {
    {"softmax_f32", "", kFields, 1, sizeof(Params), nullptr, run_softmax},
    {"log_softmax_f32", "", kFields, 1, sizeof(Params), nullptr, run_log_softmax},
};

}  // namespace

Table softmax_table();
Table softmax_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
