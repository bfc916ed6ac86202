// What a kernel is: one row of a table. Kernels are stateless; all they may touch is in Call.
//
// Files under cpu/kernels are compiled once per ISA, so everything in them and in the headers they
// include has internal linkage (static or an unnamed namespace) or is defined in one source of the
// ISA's namespace, and they use nothing of the C++ library that could be emitted out of line:
// otherwise the linker may keep the AVX-512 copy of a function for every machine. A test reads the
// object files and fails on a weak symbol.
#pragma once

#include <cstddef>
#include <cstdint>

#include "zenith/tensor.h"

namespace zenith {

// Runs fn(ctx, task, worker) for every task in [0, tasks). worker < threads and no two tasks run
// with the same worker at once, so scratch may be cut per worker.
using TaskFn = void (*)(void* ctx, int64_t task, int worker);
struct Parallel {
  void (*run)(void* self, int64_t tasks, TaskFn fn, void* ctx);
  void* self;
  int threads;  // the most workers that can take part; >= 1
};

// One execution of one kernel. A missing optional operand has data == nullptr and rank == -1.
struct Call {
  const TensorRef* in;
  const TensorRef* out;
  int n_in;
  int n_out;
  const void* params;  // the kernel's Params struct, filled from its field table
  char* scratch;       // scratch() bytes, 64-byte aligned, contents undefined
  Parallel parallel;
};

// A list of integers inside a Params struct, at most N long.
template <int N>
struct Ints {
  int64_t n;
  int64_t v[N];
};

// How one member of a Params struct is filled by name. Integer members may depend on dynamic dims.
struct Field {
  enum Kind : int32_t { kInt, kFloat, kInts, kFloats };
  const char* name;
  Kind kind;
  int32_t offset;
  int32_t capacity;  // of a list; 1 otherwise
};
template <int N>
struct Floats {
  int64_t n;
  float v[N];
};

// One row. run returns nullptr, or a constant message when the *data* is wrong (an index out of
// range); shapes and params were checked when the plan was built.
struct Kernel {
  const char* name;     // "linear_f32"; the ISA is a key beside it
  const char* variant;  // "6x16" or "": shown after the ISA
  const Field* fields;
  int n_fields;
  int64_t params_size;
  int64_t (*scratch)(const Call& call);  // bytes for these shapes (data is null); may be nullptr
  const char* (*run)(const Call& call);
};

// Changes the layout of a constant once, at compile time. unpack is the exact inverse. The bytes
// may depend on the data; without data they are the fewest that any constant of this shape takes.
struct Packer {
  const char* name;
  const Field* fields;
  int n_fields;
  int64_t params_size;
  int64_t (*bytes)(const TensorRef& src, const void* params);
  void (*pack)(const TensorRef& src, void* dst, const void* params);
  void (*unpack)(const void* src, const TensorRef& dst, const void* params);
};

// What one family offers for one ISA.
struct Table {
  const Kernel* kernels;
  int n_kernels;
  const Packer* packers;
  int n_packers;
};

#define ZENITH_FIELD(P, member, kind, capacity) \
  {#member, ::zenith::Field::kind, static_cast<int32_t>(offsetof(P, member)), capacity}

// parallel_for(call, tasks, [&](int64_t task, int worker) { ... });
template <typename F>
static inline void parallel_for(const Call& call, int64_t tasks, const F& body) {
  if (tasks <= 0) return;
  if (tasks == 1 || call.parallel.threads <= 1) {
    for (int64_t i = 0; i < tasks; ++i) body(i, 0);
    return;
  }
  call.parallel.run(
      call.parallel.self, tasks,
      [](void* ctx, int64_t task, int worker) { (*static_cast<const F*>(ctx))(task, worker); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace zenith
