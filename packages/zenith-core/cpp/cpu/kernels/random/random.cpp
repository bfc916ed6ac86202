// Random numbers by a counter: Philox 4x32-10 (Salmon et al., 2011). Number i of a stream depends
// on the seed and on i only, not on threads or the instruction set. A step without a seed of its
// own takes another stream every time it runs.
//
// The counter runs in chunks of 16 blocks of four words; word w of block b of a chunk makes number
// w * 16 + b (or the words 2w and 2w + 1, where a number needs two).
#include "cpu/isa/vecmath.h"
#include "cpu/kernels/move/numbers.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int kBlocks = 16;
struct Words {
  uint32_t v[4][kBlocks];
};

uint64_t runs = 0;  // of steps without a seed, in this process

struct Stream {
  uint64_t seed;
  uint64_t run;
};

Stream stream_of(int64_t seed, int64_t fresh) {
  const uint64_t run = fresh != 0 ? __atomic_add_fetch(&runs, 1, __ATOMIC_RELAXED) : 0;
  return {static_cast<uint64_t>(seed), run};
}

void generate(const Stream& stream, int64_t chunk, Words* words) {
  uint32_t c[4][kBlocks];
  const uint64_t first = static_cast<uint64_t>(chunk) * kBlocks;
  for (int b = 0; b < kBlocks; ++b) {
    const uint64_t counter = first + static_cast<uint64_t>(b);
    c[0][b] = static_cast<uint32_t>(counter);
    c[1][b] = static_cast<uint32_t>(counter >> 32);
    c[2][b] = static_cast<uint32_t>(stream.run);
    c[3][b] = static_cast<uint32_t>(stream.run >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(stream.seed), k1 = static_cast<uint32_t>(stream.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int b = 0; b < kBlocks; ++b) {
      const uint64_t p = uint64_t{0xD2511F53u} * c[0][b], q = uint64_t{0xCD9E8D57u} * c[2][b];
      c[0][b] = static_cast<uint32_t>(q >> 32) ^ c[1][b] ^ k0;
      c[2][b] = static_cast<uint32_t>(p >> 32) ^ c[3][b] ^ k1;
      c[1][b] = static_cast<uint32_t>(q);
      c[3][b] = static_cast<uint32_t>(p);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  std::memcpy(words->v, c, sizeof(c));
}

// In [0, 1): 24 bits, and 53.
float unit(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }
double unit(uint32_t high, uint32_t low) {
  const uint64_t bits = (static_cast<uint64_t>(high) << 32 | low) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

constexpr int kSingles = 4 * kBlocks, kDoubles = 2 * kBlocks;  // numbers of one chunk

void uniform_chunk(const Stream& stream, int64_t chunk, float* to) {
  Words words;
  generate(stream, chunk, &words);
  for (int w = 0; w < 4; ++w) {
    for (int b = 0; b < kBlocks; ++b) to[w * kBlocks + b] = unit(words.v[w][b]);
  }
}
void uniform_chunk(const Stream& stream, int64_t chunk, double* to) {
  Words words;
  generate(stream, chunk, &words);
  for (int w = 0; w < 2; ++w) {
    for (int b = 0; b < kBlocks; ++b) {
      to[w * kBlocks + b] = unit(words.v[2 * w][b], words.v[2 * w + 1][b]);
    }
  }
}

// Box-Muller: the words (0, 1) and (2, 3) of a block make two numbers each.
void normal_chunk(const Stream& stream, int64_t chunk, float* to) {
  Words words;
  generate(stream, chunk, &words);
  for (int pair = 0; pair < 2; ++pair) {
    float u[kBlocks], angle[kBlocks];
    for (int b = 0; b < kBlocks; ++b) {  // in (0, 1], small ones in full resolution
      const int32_t half = static_cast<int32_t>(words.v[2 * pair][b] >> 1);
      u[b] = static_cast<float>(half) * 0x1p-31f + 0x1p-32f;
      angle[b] = unit(words.v[2 * pair + 1][b]) * 6.28318530718f;
    }
    for (int b = 0; b < kBlocks; b += kLanes) {
      const vf radius = vsqrt(-2.0f * vlog(load(u + b)));
      store(to + 2 * pair * kBlocks + b, radius * vcos(load(angle + b)));
      store(to + (2 * pair + 1) * kBlocks + b, radius * vsin(load(angle + b)));
    }
  }
}
void normal_chunk(const Stream& stream, int64_t chunk, double* to) {
  Words words;
  generate(stream, chunk, &words);
  double u[kBlocks];
  for (int b = 0; b < kBlocks; ++b) u[b] = unit(words.v[0][b], words.v[1][b]) + 0x1p-54;
  for (int b = 0; b < kBlocks; ++b) {
    const double angle = unit(words.v[2][b], words.v[3][b]) * 6.283185307179586;
    const double radius = __builtin_sqrt(-2.0 * __builtin_log(u[b]));
    to[b] = radius * __builtin_cos(angle);
    to[kBlocks + b] = radius * __builtin_sin(angle);
  }
}

// body(first, count, chunk) for every chunk of n numbers, over all threads.
template <typename F>
void for_chunks(const Call& call, int64_t n, int64_t size, const F& body) {
  constexpr int64_t kPerTask = 128;
  const int64_t chunks = (n + size - 1) / size;
  parallel_for(call, (chunks + kPerTask - 1) / kPerTask, [&](int64_t task, int) {
    const int64_t end = (task + 1) * kPerTask < chunks ? (task + 1) * kPerTask : chunks;
    for (int64_t chunk = task * kPerTask; chunk < end; ++chunk) {
      const int64_t first = chunk * size;
      body(first, n - first < size ? n - first : size, chunk);
    }
  });
}

// Random: a dense float output. kind 0: uniform in [a, b); 1: normal with mean a and deviation b.
struct FillParams {
  int64_t kind;
  int64_t seed;
  int64_t fresh;
  float a;
  float b;
};
const Field kFillFields[] = {
    ZENITH_FIELD(FillParams, kind, kInt, 1),  ZENITH_FIELD(FillParams, seed, kInt, 1),
    ZENITH_FIELD(FillParams, fresh, kInt, 1), ZENITH_FIELD(FillParams, a, kFloat, 1),
    ZENITH_FIELD(FillParams, b, kFloat, 1),
};

template <typename T, typename W, int SIZE>
const char* fill(const Call& call) {
  const auto& p = *static_cast<const FillParams*>(call.params);
  const Stream stream = stream_of(p.seed, p.fresh);
  T* to = static_cast<T*>(call.out[0].data);
  const W a = p.a, b = p.b;
  for_chunks(call, element_count(call.out[0]), SIZE, [&](int64_t first, int64_t n, int64_t chunk) {
    W values[SIZE];
    if (p.kind == 0) {
      uniform_chunk(stream, chunk, values);
      for (W& v : values) v = a + v * (b - a);
    } else {
      normal_chunk(stream, chunk, values);
      for (W& v : values) v = a + v * b;
    }
    for (int64_t i = 0; i < n; ++i) put(to + first + i, values[i]);
  });
  return nullptr;
}

const char* run_random(const Call& call) {
  switch (call.out[0].dtype) {
    case DType::kF32:
      return fill<float, float, kSingles>(call);
    case DType::kF64:
      return fill<double, double, kDoubles>(call);
    case DType::kF16:
      return fill<Half, float, kSingles>(call);
    case DType::kBF16:
      return fill<Brain, float, kSingles>(call);
    default:
      return "random numbers are floats";
  }
}

struct SeedParams {
  int64_t seed;
  int64_t fresh;
};
const Field kSeedFields[] = {
    ZENITH_FIELD(SeedParams, seed, kInt, 1),
    ZENITH_FIELD(SeedParams, fresh, kInt, 1),
};

double read_real(const char* data, int64_t i, DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return reinterpret_cast<const double*>(data)[i];
    case DType::kF16:
      return to_f32(reinterpret_cast<const Half*>(data)[i]);
    case DType::kBF16:
      return to_f32(reinterpret_cast<const Brain*>(data)[i]);
    default:
      return static_cast<double>(reinterpret_cast<const float*>(data)[i]);
  }
}

void write_number(char* data, int64_t i, DType dtype, int value) {
  switch (dtype) {
    case DType::kF32:
      reinterpret_cast<float*>(data)[i] = static_cast<float>(value);
      break;
    case DType::kF64:
      reinterpret_cast<double*>(data)[i] = value;
      break;
    case DType::kF16:
      put(reinterpret_cast<Half*>(data) + i, value);
      break;
    case DType::kBF16:
      put(reinterpret_cast<Brain*>(data) + i, value);
      break;
    default: {
      const int64_t item = item_size(dtype);  // little endian
      for (int64_t b = 0; b < item; ++b) data[i * item + b] = b == 0 ? static_cast<char>(value) : 0;
    }
  }
}

// Bernoulli: dense probabilities -> dense ones and zeros of any dtype.
const char* run_bernoulli(const Call& call) {
  const auto& p = *static_cast<const SeedParams*>(call.params);
  const Stream stream = stream_of(p.seed, p.fresh);
  const TensorRef &x = call.in[0], &out = call.out[0];
  for_chunks(call, element_count(out), kSingles, [&](int64_t first, int64_t n, int64_t chunk) {
    float u[kSingles];
    uniform_chunk(stream, chunk, u);
    for (int64_t i = 0; i < n; ++i) {
      const double chance = read_real(static_cast<const char*>(x.data), first + i, x.dtype);
      write_number(static_cast<char*>(out.data), first + i, out.dtype, u[i] < chance ? 1 : 0);
    }
  });
  return nullptr;
}

// Dropout in training: inputs data (dense), ratio and training_mode (scalars, ratio may be missing:
// 0.5); outputs y and the mask of what stays (dense; the mask may be missing).
template <typename T>
const char* dropout(const Call& call) {
  using W = typename Work<T>::type;
  const auto& p = *static_cast<const SeedParams*>(call.params);
  const TensorRef &x = call.in[0], &ratio_in = call.in[1], &y = call.out[0];
  const bool training = *static_cast<const uint8_t*>(call.in[2].data) != 0;
  double ratio = 0.5;
  if (ratio_in.rank >= 0)
    ratio = read_real(static_cast<const char*>(ratio_in.data), 0, ratio_in.dtype);
  if (!training) ratio = 0;
  if (!(ratio >= 0 && ratio < 1)) return "the ratio of a dropout is outside [0, 1)";
  const Stream stream = stream_of(p.seed, p.fresh);
  const W scale = static_cast<W>(1 / (1 - ratio));
  const T* from = static_cast<const T*>(x.data);
  T* to = static_cast<T*>(y.data);
  uint8_t* mask =
      call.n_out > 1 && call.out[1].rank >= 0 ? static_cast<uint8_t*>(call.out[1].data) : nullptr;
  for_chunks(call, element_count(y), kSingles, [&](int64_t first, int64_t n, int64_t chunk) {
    float u[kSingles];
    uniform_chunk(stream, chunk, u);
    for (int64_t i = 0; i < n; ++i) {
      const bool stays = u[i] >= ratio;
      put(to + first + i, stays ? get(from[first + i]) * scale : W{0});
      if (mask != nullptr) mask[first + i] = stays;
    }
  });
  return nullptr;
}

const char* run_dropout(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::kF32:
      return dropout<float>(call);
    case DType::kF64:
      return dropout<double>(call);
    case DType::kF16:
      return dropout<Half>(call);
    case DType::kBF16:
      return dropout<Brain>(call);
    default:
      return "a dropout of this dtype";
  }
}

// Multinomial: dense logs of weights [batch, classes] -> dense class numbers [batch, samples].
int64_t padded_row(const TensorRef& x) { return (x.shape[1] * 8 + 63) / 64 * 64; }
int64_t multinomial_scratch(const Call& call) {
  return call.parallel.threads * padded_row(call.in[0]);
}

const char* run_multinomial(const Call& call) {
  const auto& p = *static_cast<const SeedParams*>(call.params);
  const Stream stream = stream_of(p.seed, p.fresh);
  const TensorRef &x = call.in[0], &out = call.out[0];
  const int64_t classes = x.shape[1], samples = out.shape[1];
  if (element_count(out) == 0) return nullptr;
  if (classes == 0) return "a choice among no classes";
  const bool is_long = out.dtype == DType::kI64;
  int failed = 0;
  parallel_for(call, x.shape[0], [&](int64_t row, int worker) {
    auto* sums = reinterpret_cast<double*>(call.scratch + worker * padded_row(x));
    const char* data = static_cast<const char*>(x.data);
    double top = -__builtin_inf();
    for (int64_t c = 0; c < classes; ++c) {
      const double v = read_real(data, row * classes + c, x.dtype);
      if (v > top) top = v;
    }
    double sum = 0;
    for (int64_t c = 0; c < classes; ++c) {
      sum += __builtin_exp(read_real(data, row * classes + c, x.dtype) - top);
      sums[c] = sum;
    }
    if (!(sum > 0 && sum < __builtin_inf())) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    double u[kDoubles];
    for (int64_t s = 0; s < samples; ++s) {
      // Each row starts on a chunk of its own.
      const int64_t chunks = (samples + kDoubles - 1) / kDoubles;
      if (s % kDoubles == 0) uniform_chunk(stream, row * chunks + s / kDoubles, u);
      const double wanted = u[s % kDoubles] * sum;
      int64_t lo = 0, hi = classes - 1;  // the first class whose sum is above
      while (lo < hi) {
        const int64_t middle = lo + (hi - lo) / 2;
        if (sums[middle] > wanted) {
          hi = middle;
        } else {
          lo = middle + 1;
        }
      }
      if (is_long) {
        static_cast<int64_t*>(out.data)[row * samples + s] = lo;
      } else {
        static_cast<int32_t*>(out.data)[row * samples + s] = static_cast<int32_t>(lo);
      }
    }
  });
  return failed != 0 ? "the weights of a multinomial have no finite sum" : nullptr;
}

// ThreeFry 2x32 with 20 rounds (Salmon et al., 2011): inputs the two halves of the key (each one
// number, or dense with one for every counter) and of the counters (dense), outputs the two halves
// of the bits (dense); all uint32.
const char* run_threefry(const Call& call) {
  constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  constexpr int kWide = 32;
  const auto load = [&](uint32_t* to, int input, int64_t first, int64_t n) {
    const auto* data = static_cast<const uint32_t*>(call.in[input].data);
    if (element_count(call.in[input]) == 1) {
      for (int i = 0; i < kWide; ++i) to[i] = *data;
    } else {
      std::memcpy(to, data + first, static_cast<size_t>(n) * 4);
    }
  };
  auto* y0 = static_cast<uint32_t*>(call.out[0].data);
  auto* y1 = static_cast<uint32_t*>(call.out[1].data);
  for_chunks(call, element_count(call.out[0]), kWide, [&](int64_t first, int64_t n, int64_t) {
    uint32_t keys[3][kWide] = {}, a[kWide] = {}, b[kWide] = {};
    load(keys[0], 0, first, n);
    load(keys[1], 1, first, n);
    load(a, 2, first, n);
    load(b, 3, first, n);
    for (int i = 0; i < kWide; ++i) keys[2][i] = keys[0][i] ^ keys[1][i] ^ 0x1BD11BDAu;
    for (int i = 0; i < kWide; ++i) a[i] += keys[0][i];
    for (int i = 0; i < kWide; ++i) b[i] += keys[1][i];
    for (int group = 0; group < 5; ++group) {
      for (const int rotation : kRotations[group % 2]) {
        for (int i = 0; i < kWide; ++i) {
          a[i] += b[i];
          b[i] = (b[i] << rotation | b[i] >> (32 - rotation)) ^ a[i];
        }
      }
      const uint32_t* first_key = keys[(group + 1) % 3];
      const uint32_t* second_key = keys[(group + 2) % 3];
      const auto count = static_cast<uint32_t>(group + 1);
      for (int i = 0; i < kWide; ++i) a[i] += first_key[i];
      for (int i = 0; i < kWide; ++i) b[i] += second_key[i] + count;
    }
    std::memcpy(y0 + first, a, static_cast<size_t>(n) * 4);
    std::memcpy(y1 + first, b, static_cast<size_t>(n) * 4);
  });
  return nullptr;
}

#define ZENITH_FIELDS(list) list, sizeof(list) / sizeof(*list)
const Kernel kKernels[] = {
    {"random", "", ZENITH_FIELDS(kFillFields), sizeof(FillParams), nullptr, run_random},
    {"bernoulli", "", ZENITH_FIELDS(kSeedFields), sizeof(SeedParams), nullptr, run_bernoulli},
    {"dropout", "", ZENITH_FIELDS(kSeedFields), sizeof(SeedParams), nullptr, run_dropout},
    {"multinomial", "", ZENITH_FIELDS(kSeedFields), sizeof(SeedParams), multinomial_scratch,
     run_multinomial},
    {"threefry", "", nullptr, 0, 0, nullptr, run_threefry},
};

}  // namespace

Table random_table();
Table random_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
