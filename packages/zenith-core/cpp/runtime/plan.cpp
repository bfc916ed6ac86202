#include "zenith/plan.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

#include "zenith/memory.h"
#include "zenith/pool.h"
#include "zenith/registry.h"

namespace zenith {
namespace {

constexpr int kMaxDepth = 64;  // of an expression's stack

int64_t checked_mul(int64_t a, int64_t b) {
  int64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) throw std::invalid_argument("a size overflows");
  return result;
}

int64_t checked_add(int64_t a, int64_t b) {
  int64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) throw std::invalid_argument("a size overflows");
  return result;
}

int64_t floor_div(int64_t a, int64_t b) {
  if (b == 0) throw std::invalid_argument("a size divides by zero");
  const int64_t q = a / b;
  return q - ((a % b != 0) && ((a < 0) != (b < 0)));
}

int64_t apply(ExprOp op, int64_t a, int64_t b) {
  switch (op) {
    case ExprOp::kAdd:
      return checked_add(a, b);
    case ExprOp::kMul:
      return checked_mul(a, b);
    case ExprOp::kFloorDiv:
      return floor_div(a, b);
    case ExprOp::kMod:
      return a - checked_mul(floor_div(a, b), b);
    case ExprOp::kMin:
      return std::min(a, b);
    case ExprOp::kMax:
      return std::max(a, b);
    default:
      throw std::invalid_argument("unknown size operation");
  }
}

}  // namespace

// Free frames of a plan: one is taken per call and given back, so memory is bounded by the number
// of calls in flight and stays mapped between calls.
class Plan::FramePool {
 public:
  ~FramePool() {
    for (const Frame& frame : free_) std::free(frame.arena);
  }

  Frame take(int64_t bytes) {
    Frame frame;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        frame = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (frame.bytes < bytes) {
      std::free(frame.arena);
      frame.arena = allocate(bytes);
      frame.bytes = bytes;
    }
    return frame;
  }

  void give(Frame&& frame) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(frame));
  }

 private:
  std::mutex mutex_;
  std::vector<Frame> free_;
};

Plan::Plan(int32_t n_symbols) : n_symbols_(n_symbols), frames_(std::make_shared<FramePool>()) {}

Size Plan::expression(const std::vector<int64_t>& postfix) {
  Size size;
  size.begin = static_cast<int32_t>(code_.size());
  int depth = 0;
  for (size_t i = 0; i < postfix.size(); ++i) {
    const auto op = static_cast<ExprOp>(postfix[i]);
    if (op == ExprOp::kConst || op == ExprOp::kSymbol) {
      if (++i >= postfix.size()) throw std::invalid_argument("a size program is cut short");
      if (op == ExprOp::kSymbol && (postfix[i] < 0 || postfix[i] >= n_symbols_)) {
        throw std::invalid_argument("a size names an unknown symbol");
      }
      if (++depth > kMaxDepth) throw std::invalid_argument("a size program is too deep");
    } else if (postfix[i] < 0 || op > ExprOp::kMax || --depth < 1) {
      throw std::invalid_argument("a size program is not valid");
    }
  }
  if (depth != 1) throw std::invalid_argument("a size program is not valid");
  code_.insert(code_.end(), postfix.begin(), postfix.end());
  size.end = static_cast<int32_t>(code_.size());
  return size;
}

int64_t Plan::evaluate(const Size& size, const std::vector<int64_t>& dims) const {
  if (size.begin == size.end) return size.value;
  int64_t stack[kMaxDepth];
  int depth = 0;
  for (int32_t i = size.begin; i < size.end; ++i) {
    const auto op = static_cast<ExprOp>(code_[static_cast<size_t>(i)]);
    if (op == ExprOp::kConst) {
      stack[depth++] = code_[static_cast<size_t>(++i)];
    } else if (op == ExprOp::kSymbol) {
      stack[depth++] = dims[static_cast<size_t>(code_[static_cast<size_t>(++i)])];
    } else {
      --depth;
      stack[depth - 1] = apply(op, stack[depth - 1], stack[depth]);
    }
  }
  return stack[0];
}

int32_t Plan::add_storage(Storage storage) {
  if (storage.place == Place::kInput) n_inputs_ = std::max(n_inputs_, storage.index + 1);
  if (storage.place == Place::kOutput) n_outputs_ = std::max(n_outputs_, storage.index + 1);
  storages_.push_back(std::move(storage));
  return static_cast<int32_t>(storages_.size()) - 1;
}

int32_t Plan::add_tensor(TensorDesc tensor) {
  if (tensor.shape.size() > kMaxRank || tensor.shape.size() != tensor.strides.size()) {
    throw std::invalid_argument(
        "a tensor has more than 8 axes or as many strides as it should not");
  }
  if (tensor.storage < 0 || tensor.storage >= static_cast<int32_t>(storages_.size()) ||
      item_size(tensor.dtype) == 0) {
    throw std::invalid_argument("a tensor has no storage or no native dtype");
  }
  tensors_.push_back(std::move(tensor));
  return static_cast<int32_t>(tensors_.size()) - 1;
}

void Plan::use(int32_t tensor, int32_t step) {
  if (tensor < -1 || tensor >= static_cast<int32_t>(tensors_.size())) {
    throw std::invalid_argument("a step names an unknown tensor");
  }
  if (tensor < 0) return;
  Storage& storage = storages_[static_cast<size_t>(tensors_[static_cast<size_t>(tensor)].storage)];
  if (storage.first < 0) storage.first = step;
  storage.last = step;
}

int32_t Plan::add_step(const std::string& isa, const std::string& kernel_name,
                       std::vector<int32_t> in, std::vector<int32_t> out,
                       std::vector<NamedParam> params,
                       const std::vector<std::pair<std::string, Size>>& dynamic) {
  const Kernel* kernel = find_kernel(isa, kernel_name);
  if (kernel == nullptr) throw std::invalid_argument("no kernel " + kernel_name + " for " + isa);
  Step step{kernel, std::move(in), std::move(out), {}, {}};
  for (const auto& [name, size] : dynamic) {
    // "name" is a whole integer field, "name[i]" an item of a list (given as 0 in params).
    const size_t bracket = name.find('[');
    const std::string base = name.substr(0, bracket);
    const int64_t item = bracket == std::string::npos ? -1 : std::stoll(name.substr(bracket + 1));
    bool found = false;
    for (int f = 0; f < kernel->n_fields; ++f) {
      const Field& field = kernel->fields[f];
      if (base != field.name) continue;
      const bool fits = item < 0 ? field.kind == Field::kInt
                                 : field.kind == Field::kInts && item < field.capacity;
      if (!fits) continue;
      const int64_t at = field.offset + 8 * (item + 1);
      step.patches.push_back({static_cast<int32_t>(at), size});
      found = true;
    }
    if (!found) throw std::invalid_argument(kernel_name + ": " + name + " cannot be dynamic");
    if (item < 0) params.push_back({base, int64_t{0}});
  }
  step.params =
      fill_params(kernel_name, kernel->fields, kernel->n_fields, kernel->params_size, params);
  const int32_t index = n_steps();
  for (const int32_t tensor : step.in) use(tensor, index);
  for (const int32_t tensor : step.out) {
    use(tensor, index);
    if (tensor < 0) continue;
    const TensorDesc& desc = tensors_[static_cast<size_t>(tensor)];
    const Place place = storages_[static_cast<size_t>(desc.storage)].place;
    if (place == Place::kInput || place == Place::kConstant) {
      throw std::invalid_argument(kernel_name + " would write to an input or a constant");
    }
  }
  steps_.push_back(std::move(step));
  return index;
}

void Plan::add_guard(Size size, std::string message) {
  guards_.emplace_back(size, std::move(message));
}

int64_t Plan::constant_bytes() const {
  int64_t total = 0;
  for (const Storage& storage : storages_) {
    if (storage.place == Place::kConstant) total += storage.bytes.value;
  }
  return total;
}

std::shared_ptr<BoundPlan> Plan::bind(const std::vector<int64_t>& dims, int threads) {
  auto bound = std::make_shared<BoundPlan>();
  bind(dims, threads, *bound);
  return bound;
}

void Plan::bind(const std::vector<int64_t>& dims, int threads, BoundPlan& bound) {
  if (static_cast<int32_t>(dims.size()) != n_symbols_) {
    throw std::invalid_argument("bind needs a value for every symbol");
  }
  for (const auto& [size, message] : guards_) {
    if (evaluate(size, dims) != 0) throw std::invalid_argument(message);
  }
  bound.plan_ = shared_from_this();
  bound.dims_ = dims;
  bound.parallel_ = parallel(threads);
  bound.operands_.clear();
  bound.operand_storage_.clear();
  bound.params_.resize(steps_.size());
  bound.scratch_.clear();

  std::vector<int64_t> bytes(storages_.size());
  for (size_t s = 0; s < storages_.size(); ++s) {
    bytes[s] = evaluate(storages_[s].bytes, dims);
    if (bytes[s] < 0) throw std::invalid_argument("a tensor has a negative size");
  }
  const auto resolve = [&](int32_t id) {
    TensorRef ref{};
    if (id < 0) {
      ref.rank = -1;
      return ref;
    }
    const TensorDesc& desc = tensors_[static_cast<size_t>(id)];
    ref.dtype = desc.dtype;
    ref.rank = static_cast<int32_t>(desc.shape.size());
    const int64_t item = item_size(desc.dtype);
    const int64_t offset = evaluate(desc.offset, dims);
    int64_t low = offset, high = offset;
    bool empty = false;
    for (size_t a = 0; a < desc.shape.size(); ++a) {
      ref.shape[a] = evaluate(desc.shape[a], dims);
      ref.strides[a] = evaluate(desc.strides[a], dims);
      if (ref.shape[a] < 0) throw std::invalid_argument("a tensor has a negative dim");
      empty = empty || ref.shape[a] == 0;
      if (empty) continue;
      const int64_t reach = checked_mul(ref.shape[a] - 1, ref.strides[a]);
      (reach < 0 ? low : high) = checked_add(reach < 0 ? low : high, reach);
    }
    const int64_t limit = bytes[static_cast<size_t>(desc.storage)];
    if (!empty && (low < 0 || checked_mul(checked_add(high, 1), item) > limit)) {
      throw std::invalid_argument("a tensor would leave its storage");
    }
    ref.data = reinterpret_cast<void*>(static_cast<intptr_t>(empty ? 0 : offset * item));
    return ref;
  };

  std::vector<Lifetime> lifetimes;
  std::vector<size_t> owners;
  for (size_t s = 0; s < storages_.size(); ++s) {
    if (storages_[s].place != Place::kArena || storages_[s].first < 0) continue;
    lifetimes.push_back({bytes[s], storages_[s].first, storages_[s].last});
    owners.push_back(s);
  }
  const size_t n_storages = lifetimes.size();
  std::vector<size_t> scratch_owner;
  size_t n_operands = 0;
  for (const Step& step : steps_) n_operands += step.in.size() + step.out.size();
  bound.operands_.reserve(n_operands);
  bound.operand_storage_.reserve(n_operands);
  bound.scratch_.reserve(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const size_t first = bound.operands_.size();
    for (const auto* ids : {&step.in, &step.out}) {
      for (const int32_t id : *ids) {
        bound.operands_.push_back(resolve(id));
        bound.operand_storage_.push_back(id < 0 ? -1 : tensors_[static_cast<size_t>(id)].storage);
      }
    }
    std::vector<char>& params = bound.params_[i];
    params = step.params;
    for (const Patch& patch : step.patches) {
      const int64_t value = evaluate(patch.size, dims);
      std::memcpy(params.data() + patch.offset, &value, sizeof(value));
    }
    bound.scratch_.push_back(-1);
    if (step.kernel->scratch == nullptr) continue;
    const Call call{bound.operands_.data() + first,
                    bound.operands_.data() + first + step.in.size(),
                    static_cast<int>(step.in.size()),
                    static_cast<int>(step.out.size()),
                    params.data(),
                    nullptr,
                    bound.parallel_};
    const int64_t scratch = step.kernel->scratch(call);
    if (scratch <= 0) continue;
    lifetimes.push_back({scratch, static_cast<int32_t>(i), static_cast<int32_t>(i)});
    scratch_owner.push_back(i);
  }
  const std::vector<int64_t> offsets = place_blocks(lifetimes, &bound.arena_bytes_);
  bound.offsets_.assign(storages_.size(), -1);
  for (size_t i = 0; i < n_storages; ++i) bound.offsets_[owners[i]] = offsets[i];
  for (size_t i = 0; i < scratch_owner.size(); ++i) {
    bound.scratch_[scratch_owner[i]] = offsets[n_storages + i];
  }
}

std::vector<int64_t> BoundPlan::shape_of(int32_t tensor) const {
  std::vector<int64_t> shape;
  append_shape(tensor, shape);
  return shape;
}

RunError BoundPlan::run(const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs,
                        int64_t* step_nanoseconds) const {
  if (static_cast<int32_t>(inputs.size()) != plan_->n_inputs_ ||
      static_cast<int32_t>(outputs.size()) != plan_->n_outputs_) {
    throw std::invalid_argument("run needs a pointer for every input and output");
  }
  Plan::Frame frame = plan_->frames_->take(arena_bytes_);
  const size_t n_storages = plan_->storages_.size();
  std::vector<char*>& base = frame.base;
  base.resize(n_storages);
  for (size_t s = 0; s < n_storages; ++s) {
    const Storage& storage = plan_->storages_[s];
    switch (storage.place) {
      case Place::kInput:
        base[s] = reinterpret_cast<char*>(inputs[static_cast<size_t>(storage.index)]);
        break;
      case Place::kOutput:
        base[s] = reinterpret_cast<char*>(outputs[static_cast<size_t>(storage.index)]);
        break;
      case Place::kConstant:
        base[s] = static_cast<char*>(storage.data.get());
        break;
      case Place::kArena:
        base[s] = offsets_[s] < 0 ? nullptr : frame.arena + offsets_[s];
        break;
    }
  }
  std::vector<TensorRef>& operands = frame.operands;
  RunError error;
  size_t next = 0;
  for (size_t i = 0; i < plan_->steps_.size() && error.message == nullptr; ++i) {
    const Step& step = plan_->steps_[i];
    const size_t n = step.in.size() + step.out.size();
    operands.assign(operands_.begin() + static_cast<int64_t>(next),
                    operands_.begin() + static_cast<int64_t>(next + n));
    for (size_t k = 0; k < n; ++k) {
      const int32_t storage = operand_storage_[next + k];
      if (storage < 0) continue;
      operands[k].data =
          base[static_cast<size_t>(storage)] + reinterpret_cast<intptr_t>(operands[k].data);
    }
    next += n;
    const Call call{operands.data(),
                    operands.data() + step.in.size(),
                    static_cast<int>(step.in.size()),
                    static_cast<int>(step.out.size()),
                    params_[i].data(),
                    scratch_[i] < 0 ? nullptr : frame.arena + scratch_[i],
                    parallel_};
    const auto start = step_nanoseconds == nullptr ? std::chrono::steady_clock::time_point{}
                                                   : std::chrono::steady_clock::now();
    error.message = step.kernel->run(call);
    if (error.message != nullptr) error.step = static_cast<int32_t>(i);
    if (step_nanoseconds != nullptr) {
      step_nanoseconds[i] = std::chrono::duration_cast<std::chrono::nanoseconds>(
                                std::chrono::steady_clock::now() - start)
                                .count();
    }
  }
  plan_->frames_->give(std::move(frame));
  return error;
}

}  // namespace zenith
