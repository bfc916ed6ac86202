// DFT and STFT: transforms of lines of a strided tensor.
#include "cpu/kernels/move/numbers.h"
#include "cpu/kernels/signal/fft.h"

namespace zenith::ZENITH_ISA {
namespace {

// Inputs: x with any strides, a last axis of 1 (real) or 2 (complex), and a window of `length`
// numbers or missing. Lines along `axis` are cut or filled up with zeros to `length`. The output is
// of the same rank; it takes as many points as its axis has. inverse 2: the input is the first half
// of a symmetric spectrum and the output real.
struct DftParams {
  int64_t axis;
  int64_t length;
  int64_t inverse;
};
const Field kDftFields[] = {
    ZENITH_FIELD(DftParams, axis, kInt, 1),
    ZENITH_FIELD(DftParams, length, kInt, 1),
    ZENITH_FIELD(DftParams, inverse, kInt, 1),
};

int64_t padded(int64_t doubles) { return (doubles * 8 + 63) / 64 * 64; }

int64_t dft_scratch(const Call& call) {
  const int64_t n = static_cast<const DftParams*>(call.params)->length;
  if (n < 1) return 0;
  return padded(Transform::table_doubles(n)) +
         call.parallel.threads * padded(Transform::worker_doubles(n));
}

template <typename T>
const char* dft(const Call& call) {
  const auto& p = *static_cast<const DftParams*>(call.params);
  const TensorRef &x = call.in[0], &out = call.out[0];
  const int axis = static_cast<int>(p.axis), last = x.rank - 1;
  const int64_t n = p.length, bins = out.shape[axis];
  if (element_count(out) == 0) return nullptr;
  if (n < 1 || bins > n) return "the length of a transform does not fit its output";
  const bool windowed = call.n_in > 1 && call.in[1].rank >= 0;
  if (windowed && call.in[1].shape[0] < n) return "the window is shorter than the frame";
  const int64_t window_step = windowed ? call.in[1].strides[0] : 0;
  const T* window = windowed ? static_cast<const T*>(call.in[1].data) : nullptr;
  const bool complex = x.shape[last] == 2, complex_out = out.shape[last] == 2;
  const int64_t wanted = p.inverse == 2 ? n / 2 + 1 : n;
  const int64_t given = x.shape[axis] < wanted ? x.shape[axis] : wanted;
  const Transform transform(n, reinterpret_cast<double*>(call.scratch));
  char* workers = call.scratch + padded(Transform::table_doubles(n));
  const int64_t step = x.strides[axis], to_step = out.strides[axis];
  const int64_t to_im = out.strides[last];
  int64_t lines = 1;
  for (int d = 0; d < last; ++d) lines *= d == axis ? 1 : out.shape[d];
  const int64_t per_task = n >= 4096 ? 1 : 4096 / n;
  parallel_for(call, (lines + per_task - 1) / per_task, [&](int64_t task, int worker) {
    auto* memory =
        reinterpret_cast<double*>(workers + worker * padded(Transform::worker_doubles(n)));
    const int64_t end = (task + 1) * per_task < lines ? (task + 1) * per_task : lines;
    for (int64_t line = task * per_task; line < end; ++line) {
      int64_t from = 0, to = 0, index = line;
      for (int d = last - 1; d >= 0; --d) {
        if (d == axis) continue;
        from += index % out.shape[d] * x.strides[d];
        to += index % out.shape[d] * out.strides[d];
        index /= out.shape[d];
      }
      const T* source = static_cast<const T*>(x.data) + from;
      // An inverse is a transform with real and imaginary parts exchanged, before and after.
      double* re = p.inverse != 0 ? memory + n : memory;
      double* im = p.inverse != 0 ? memory : memory + n;
      for (int64_t k = 0; k < n; ++k) re[k] = im[k] = 0;
      for (int64_t k = 0; k < given; ++k) {
        const double w = windowed ? static_cast<double>(get(window[k * window_step])) : 1.0;
        re[k] = static_cast<double>(get(source[k * step])) * w;
        if (complex) im[k] = static_cast<double>(get(source[k * step + x.strides[last]])) * w;
      }
      if (p.inverse == 2) {
        im[0] = 0;
        if (n % 2 == 0) im[n / 2] = 0;
        for (int64_t k = n / 2 + 1; k < n; ++k) {
          re[k] = re[n - k];
          im[k] = -im[n - k];
        }
      }
      const Parts done = transform.run(memory);
      const double* y_re = p.inverse != 0 ? done.im : done.re;
      const double* y_im = p.inverse != 0 ? done.re : done.im;
      const double scale = p.inverse != 0 ? 1.0 / static_cast<double>(n) : 1.0;
      T* target = static_cast<T*>(out.data) + to;
      for (int64_t k = 0; k < bins; ++k) {
        put(target + k * to_step, y_re[k] * scale);
        if (complex_out) put(target + k * to_step + to_im, y_im[k] * scale);
      }
    }
  });
  return nullptr;
}

const char* run_dft(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::kF32:
      return dft<float>(call);
    case DType::kF64:
      return dft<double>(call);
    case DType::kF16:
      return dft<Half>(call);
    case DType::kBF16:
      return dft<Brain>(call);
    default:
      return "a transform of this dtype";
  }
}

const Kernel kKernels[] = {
    {"dft", "", kDftFields, sizeof(kDftFields) / sizeof(*kDftFields), sizeof(DftParams),
     dft_scratch, run_dft},
};

}  // namespace

Table signal_table();
Table signal_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
