#include "zenith/repeat.h"

#include <cstring>

namespace zenith {

RepeatEnd run_repeatedly(const BoundPlan& plan, const Repeat& repeat, int64_t count) {
  std::vector<uintptr_t> from(repeat.inputs.size()), to(repeat.outputs.size());
  RepeatEnd end;
  while (end.going && end.steps < count) {
    const int64_t i = end.steps;
    for (size_t k = 0; k < from.size(); ++k) {  // `to` still holds the iteration before
      const Repeat::Input& input = repeat.inputs[k];
      const bool fed_back = input.output >= 0 && i > 0;
      from[k] = fed_back ? to[static_cast<size_t>(input.output)]
                         : input.first + static_cast<uintptr_t>(i * input.stride);
    }
    for (size_t k = 0; k < to.size(); ++k) {
      const Repeat::Output& output = repeat.outputs[k];
      to[k] = output.base[i % 2] + static_cast<uintptr_t>(i * output.stride);
    }
    end.error = plan.run(from, to, nullptr);
    if (end.error.message != nullptr) return end;
    for (const Repeat::Copy& copy : repeat.copies) {
      std::memcpy(reinterpret_cast<void*>(copy.rows + static_cast<uintptr_t>(i * copy.bytes)),
                  reinterpret_cast<const void*>(to[static_cast<size_t>(copy.output)]),
                  static_cast<size_t>(copy.bytes));
    }
    if (repeat.condition >= 0) {
      end.going = *reinterpret_cast<const uint8_t*>(to[static_cast<size_t>(repeat.condition)]) != 0;
    }
    ++end.steps;
  }
  return end;
}

}  // namespace zenith
