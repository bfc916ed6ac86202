// The frozen list a compiled model is: storages, tensors over them, kernel steps. Sizes are integer
// expressions over the model's dynamic dims; bind() evaluates them once per set of dims.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "zenith/kernel.h"
#include "zenith/params.h"

namespace zenith {

// A constant, or a postfix program in Plan's code.
struct Size {
  int64_t value = 0;
  int32_t begin = 0;
  int32_t end = 0;  // begin == end: a constant
};

enum class ExprOp : int64_t { kConst, kSymbol, kAdd, kMul, kFloorDiv, kMod, kMin, kMax };

enum class Place { kInput, kOutput, kConstant, kArena };

struct Storage {
  Place place;
  int32_t index;               // of an input or output
  std::shared_ptr<void> data;  // of a constant
  Size bytes;
  int32_t first = -1;  // steps between which it must stay intact (arena)
  int32_t last = -1;
};

struct TensorDesc {
  int32_t storage;
  DType dtype;
  std::vector<Size> shape;
  std::vector<Size> strides;
  Size offset;
};

struct Patch {  // an integer of a step's params that depends on dims
  int32_t offset;
  Size size;
};

struct Step {
  const Kernel* kernel;
  std::vector<int32_t> in;  // tensor ids; -1 is a missing operand
  std::vector<int32_t> out;
  std::vector<char> params;
  std::vector<Patch> patches;
};

struct RunError {
  int32_t step = -1;              // -1: no error
  const char* message = nullptr;  // of the kernel
};

class BoundPlan;

class Plan : public std::enable_shared_from_this<Plan> {
 public:
  explicit Plan(int32_t n_symbols);

  Size expression(const std::vector<int64_t>& postfix);
  int32_t add_storage(Storage storage);
  int32_t add_tensor(TensorDesc tensor);
  // `dynamic` are the integer params given as expressions: (name, size).
  int32_t add_step(const std::string& isa, const std::string& kernel, std::vector<int32_t> in,
                   std::vector<int32_t> out, std::vector<NamedParam> params,
                   const std::vector<std::pair<std::string, Size>>& dynamic);

  // bind() throws std::invalid_argument(message) unless `size` is 0.
  void add_guard(Size size, std::string message);

  // Sizes, arena offsets and params for these dims. Throws std::invalid_argument when a size is
  // negative or a tensor would leave its storage.
  std::shared_ptr<BoundPlan> bind(const std::vector<int64_t>& dims, int threads);
  // The same into `bound`, whose memory serves again; nothing may be running it.
  void bind(const std::vector<int64_t>& dims, int threads, BoundPlan& bound);

  int32_t n_steps() const { return static_cast<int32_t>(steps_.size()); }
  int32_t n_inputs() const { return n_inputs_; }
  int32_t n_outputs() const { return n_outputs_; }
  int64_t constant_bytes() const;

 private:
  friend class BoundPlan;
  struct Frame {  // one call's memory: its arena, where storages begin, operands of a step
    char* arena = nullptr;
    int64_t bytes = 0;
    std::vector<char*> base;
    std::vector<TensorRef> operands;
  };
  class FramePool;

  int64_t evaluate(const Size& size, const std::vector<int64_t>& dims) const;
  void use(int32_t tensor, int32_t step);

  int32_t n_symbols_;
  int32_t n_inputs_ = 0;
  int32_t n_outputs_ = 0;
  std::vector<int64_t> code_;
  std::vector<Storage> storages_;
  std::vector<TensorDesc> tensors_;
  std::vector<Step> steps_;
  std::vector<std::pair<Size, std::string>> guards_;
  std::shared_ptr<FramePool> frames_;
};

// A plan with its dims fixed. run() may be called by many threads at once.
class BoundPlan {
 public:
  RunError run(const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs,
               int64_t* step_nanoseconds) const;

  int64_t arena_bytes() const { return arena_bytes_; }
  const std::vector<int64_t>& storage_offsets() const { return offsets_; }
  // Shape of a tensor under these dims.
  std::vector<int64_t> shape_of(int32_t tensor) const;
  template <typename T>
  void append_shape(int32_t tensor, std::vector<T>& sizes) const {
    for (const Size& size : plan_->tensors_.at(static_cast<size_t>(tensor)).shape) {
      sizes.push_back(static_cast<T>(plan_->evaluate(size, dims_)));
    }
  }

 private:
  friend class Plan;
  std::shared_ptr<Plan> plan_;
  std::vector<int64_t> dims_;
  std::vector<int64_t> offsets_;  // per storage; -1 unless it lies in the arena
  int64_t arena_bytes_ = 0;
  std::vector<TensorRef> operands_;  // in and out of all steps in order; data is the byte offset
  std::vector<int32_t> operand_storage_;  // -1: missing
  std::vector<std::vector<char>> params_;
  std::vector<int64_t> scratch_;  // arena offset per step
  Parallel parallel_{};
};

// Places blocks with lifetimes [first, last] so that none that live together overlap: in order of
// first use, each into the smallest gap that holds it. Returns offsets (64-byte aligned) and the
// total through `arena_bytes`.
struct Lifetime {
  int64_t bytes;
  int32_t first;
  int32_t last;
};
std::vector<int64_t> place_blocks(const std::vector<Lifetime>& blocks, int64_t* arena_bytes);

}  // namespace zenith
